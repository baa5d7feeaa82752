package localtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const helperVar = "HOLDFAST_TEST_HELPER"

// Helpers are programs that tests run as processes of their own: the test binary
// again. They talk to the test by lines on stdin and stdout.
type Helpers map[string]func(args []string) error

// Run runs the helper that this process was started as, if any, and then exits.
// TestMain calls it first.
func (h Helpers) Run() {
	name := os.Getenv(helperVar)
	if name == "" {
		return
	}
	run, ok := h[name]
	err := fmt.Errorf("no helper %s", name)
	if ok {
		err = run(os.Args[1:])
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A Process is a running helper.
type Process struct {
	*exec.Cmd
	t     testing.TB
	in    io.WriteCloser
	lines *bufio.Scanner
}

// Helper starts a helper. It is killed when the test ends, unless it has ended.
func Helper(t testing.TB, name string, files []*os.File, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command("/proc/self/exe", args...), t: t}
	p.Env = append(os.Environ(), helperVar+"="+name)
	p.Stderr = os.Stderr
	p.ExtraFiles = files
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// Kill ends the process by SIGKILL and waits until it is reaped.
func (p *Process) Kill() {
	if p.ProcessState == nil {
		_ = p.Process.Kill()
		_ = p.Wait() // tells that it was killed
	}
}

// Say sends a line.
func (p *Process) Say(line string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		p.t.Fatal(err)
	}
}

// Hear waits for a line.
func (p *Process) Hear() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.t.Fatalf("helper %v has ended: %v", p.Args, p.lines.Err())
	}
	return p.lines.Text()
}

// Want waits for a line that begins so, and returns the rest.
func (p *Process) Want(prefix string) string {
	p.t.Helper()
	line := p.Hear()
	rest, ok := strings.CutPrefix(line, prefix)
	if !ok {
		p.t.Fatalf("helper says %q, want %q", line, prefix)
	}
	return strings.TrimSpace(rest)
}

// Line is the helper's side: it waits for a line from the test.
func Line(in *bufio.Reader) (string, error) {
	s, err := in.ReadString('\n')
	if errors.Is(err, io.EOF) && s != "" {
		err = nil
	}
	return strings.TrimSpace(s), err
}
