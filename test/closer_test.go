package test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/arbiter"
)

// closer is a process that has pinned a file and ends its descriptor in some way: testdata/closer.py.
type closer struct {
	*process
	t        *testing.T
	to       *os.File
	lines    *bufio.Scanner
	from     *os.File
	path     string
	happened *events
}

// newCloser starts a closer on a file of its own. It has pinned when this returns, and is about to do what how says.
func newCloser(t *testing.T, v *volume, how string, data, context int, args ...string) *closer {
	t.Helper()
	need(t, "python3")
	c := &closer{t: t, path: v.write(t, strings.ReplaceAll(t.Name(), "/", "-"), pattern(1, blockSize)), happened: v.events(t)}
	cmd := exec.Command("python3", append([]string{
		"-u", filepath.Join("testdata", "closer.py"), c.path, how, strconv.Itoa(data), strconv.Itoa(context),
	}, args...)...)
	log := &lockedBuffer{}
	cmd.Stderr = log
	toR, to, err := os.Pipe()
	must(t, err)
	from, fromW, err := os.Pipe()
	must(t, err)
	cmd.Stdin, cmd.Stdout = toR, fromW
	c.process, err = start(cmd, syscall.SIGKILL)
	toR.Close()
	fromW.Close()
	must(t, err)
	c.to, c.from, c.lines = to, from, bufio.NewScanner(from)
	t.Cleanup(func() {
		c.Process.Kill()
		select {
		case <-c.done:
		case <-time.After(patience): // it is held up; the end of the server frees it
			t.Errorf("the closer cannot be killed: %s", stateOf(c.Process.Pid))
		}
		to.Close()
		from.Close()
		if t.Failed() {
			t.Logf("the closer said: %s", log)
		}
	})
	c.hears("ready")
	return c
}

// hears waits for a line.
func (c *closer) hears(want string) {
	c.t.Helper()
	must(c.t, c.from.SetReadDeadline(time.Now().Add(patience)))
	if !c.lines.Scan() || c.lines.Text() != want {
		c.t.Fatalf("the closer says %q (%v), want %q", c.lines.Text(), c.lines.Err(), want)
	}
}

// isBlocked waits until the server says that its close waits.
func (c *closer) isBlocked() {
	c.t.Helper()
	c.happened.wait("a close that waits", c.waits)
}

func (c *closer) waits(e arbiter.Event) bool {
	return e.Kind == arbiter.EventWait && int(e.PID) == c.Process.Pid && strings.Contains(e.Reason, "close")
}

// ends waits for the end of the process.
func (c *closer) ends() {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.t.Fatalf("the closer does not end: %s", stateOf(c.Process.Pid))
	}
}

// neverWaited checks that no close of it was held up, and that its end has ended the pin.
func (c *closer) neverWaited() {
	c.t.Helper()
	c.happened.wait("the pin's end", func(e arbiter.Event) bool { return e.Kind == arbiter.EventUnpin && int(e.PID) == c.Process.Pid })
	for _, e := range c.happened.seen {
		if c.waits(e) {
			c.t.Errorf("a close was held up: %+v", e)
		}
	}
	must(c.t, os.Truncate(c.path, 0))
}

// stateOf says in which state a process is, for who wonders why it does not end.
func stateOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return fmt.Sprint(string(text), err)
}
