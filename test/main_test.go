// Package test runs Holdfast as a whole: the real command as a process of its
// own, a real mount, real AF_XDP sockets and io_urings, and other processes that
// do what programs do. Each test is a promise of docs/semantics.md, told as a
// story that a user could live through.
//
// The other processes ("actors") are this test binary again; the test tells them
// what to do over pipes and they say when it is done, so nothing here sleeps.
// What only the outside can see (a page that is gone, space that is free again)
// is awaited with a deadline.
//
// It knows the client library and the command, not the rooms below them.
package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/mountinfo"
	"holdfast/internal/testserver"
)

// patience bounds everything that has no bound of its own and must just not take
// forever: two noisy cores may be slow, but not that slow.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(actorEnv) != "" {
		os.Exit(actorMain())
	}
	if testserver.Child() {
		testserver.Main(m)
		return
	}
	status := m.Run()
	if err := leftBehind(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// buildDir is where command has built the command.
var buildDir string

// command builds cmd/holdfast, once.
var command = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-test-bin-")
	if err != nil {
		return "", err
	}
	buildDir = dir
	args := []string{"build", "-o", dir}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "holdfast/cmd/holdfast")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build cmd/holdfast: %w\n%s", err, out)
	}
	// Other users run it too.
	return filepath.Join(dir, "holdfast"), os.Chmod(dir, 0o755)
})

// leftBehind removes the command and complains about mounts that its tests have left.
func leftBehind() error {
	err := os.RemoveAll(buildDir)
	mounts, merr := mountinfo.Holdfast()
	err = errors.Join(err, merr)
	for _, m := range mounts {
		if strings.Contains(m.Source, "/"+volumePrefix()) {
			err = errors.Join(err, fmt.Errorf("left mounted: %s", m.Path))
		}
	}
	return err
}

// process is a child that does not outlive this one, however this one ends.
type process struct {
	*exec.Cmd
	done chan struct{} // closed when it has been reaped
	err  error         // of Wait; read after done
}

// start starts cmd. The kernel sends onDeath to the child when the thread that
// started it ends, so that thread is kept for as long as the child lives.
func start(cmd *exec.Cmd, onDeath syscall.Signal) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = onDeath
	p := &process{Cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	return p, <-started
}

// result is how a command ended.
type result struct {
	out, err string
	status   int
	took     time.Duration
}

// run runs a program to its end and returns what it said. It fails the test only
// if the program cannot be run or does not end.
func run(t testing.TB, name string, args ...string) result {
	t.Helper()
	return runIn(t, "", nil, name, args...)
}

func runIn(t testing.TB, dir string, env []string, name string, args ...string) result {
	t.Helper()
	return runWithin(t, 2*patience, dir, env, name, args...)
}

func runWithin(t testing.TB, limit time.Duration, dir string, env []string, name string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errOut
	cmd.Env = append(os.Environ(), env...)
	begin := time.Now()
	p, err := start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		p.Process.Kill()
		t.Fatalf("%s %s does not end", name, strings.Join(args, " "))
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		t.Fatalf("%s: %v", name, p.err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode(), time.Since(begin)}
}

// mustRun runs a program that must succeed, and returns its standard output.
func mustRun(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := run(t, name, args...)
	if r.status != 0 {
		t.Fatalf("%s %s: exit status %d\n%s%s", name, strings.Join(args, " "), r.status, r.out, r.err)
	}
	return r.out
}

// need skips the test if a program is missing.
func need(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("needs %s", program)
	}
}

// eventually waits for what nobody reports: ok is asked until it is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}
