package test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPython: the example in Python, which speaks the protocol itself, takes a lease, maps the file, writes into its pages, is told
// by a truncate, gives back, and the truncate goes on.
func TestPython(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	v := serve(t)
	path := v.write(t, "file", pattern(8, heldSize))
	cmd := exec.Command("python3", "-u", filepath.Join("..", "examples", "lease.py"), path)
	log := &lockedBuffer{}
	cmd.Stderr = log
	toR, to, err := os.Pipe()
	must(t, err)
	from, fromW, err := os.Pipe()
	must(t, err)
	cmd.Stdin, cmd.Stdout = toR, fromW
	p, err := start(cmd, syscall.SIGKILL)
	toR.Close()
	fromW.Close()
	must(t, err)
	t.Cleanup(func() { p.Process.Kill(); <-p.done; to.Close(); from.Close() })
	lines := bufio.NewScanner(from)
	wantLine := func(begin string) {
		t.Helper()
		must(t, from.SetReadDeadline(time.Now().Add(patience)))
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), begin) {
			t.Fatalf("the example says %q (%v), want %q\n%s", lines.Text(), lines.Err(), begin, log)
		}
		t.Log(lines.Text())
	}
	wantLine("lease ")
	wantLine(fmt.Sprintf("mapped %d bytes", heldSize))
	fmt.Fprintln(to, "stamped by Python")
	wantLine("committed")
	want := pattern(8, heldSize)
	copy(want, "stamped by Python")
	wantContent(t, path, want)
	if leases := v.ask(t, "leases"); !strings.Contains(leases, fmt.Sprint(p.Process.Pid)) || !strings.Contains(leases, "/file") {
		t.Errorf("holdfast leases does not list the example:\n%s", leases)
	}
	if _, err := newActor(t).try("ChangeTruncate", Do{Path: path, Len: blockSize}); err != nil {
		t.Errorf("truncate: %v", err)
	}
	wantLine("break ")
	wantLine("released")
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("the example does not end")
	}
	if p.err != nil {
		t.Errorf("the example: %v\n%s", p.err, log)
	}
	wantContent(t, path, want[:blockSize])
}
