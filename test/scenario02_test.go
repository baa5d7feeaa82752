package test

import (
	"fmt"
	"syscall"
	"testing"

	"holdfast/client"
)

// serveBlock serves a volume on which a close waits for the pins of who closes.
func serveBlock(t *testing.T) *volume {
	t.Helper()
	return serveScenario(t, "--on-close", "block")
}

// errnoLine is what a closer says of how its close ended.
func errnoLine(errno syscall.Errno) string { return fmt.Sprintf("closed %d", int(errno)) }

// TestScenario02: with on_close = block the close of a file with pins of the closing process hangs until they are gone, whoever
// closes and however; a signal ends the wait; and who would wait for himself does not.
func TestScenario02(t *testing.T) {
	t.Parallel()
	v := serveBlock(t)
	for _, how := range []string{"close", "dup2", "thread"} {
		t.Run(how+" waits until another thread unpins", func(t *testing.T) {
			t.Parallel()
			c := newCloser(t, v, how, 10, 15, "helper")
			c.isBlocked()
			fmt.Fprintln(c.to, "unpin")
			c.hears(errnoLine(0))
			c.ends()
		})
	}
	t.Run("a handler of SIGTERM runs, and close is EINTR", func(t *testing.T) {
		t.Parallel()
		c := newCloser(t, v, "close", 10, 15, "helper")
		c.isBlocked()
		must(t, c.Process.Signal(syscall.SIGTERM))
		c.hears("handled")
		c.hears(errnoLine(syscall.EINTR))
		c.ends()
	})
	t.Run("the only thread would wait for itself", func(t *testing.T) {
		t.Parallel()
		c := newCloser(t, v, "close", 10, 15)
		c.hears(errnoLine(syscall.EDEADLK))
		c.ends()
		c.neverWaited()
	})
	t.Run("a child's copy is not the process's", func(t *testing.T) {
		t.Parallel()
		c := newCloser(t, v, "fork", 10, 15, "helper")
		c.hears("child closed")
		c.isBlocked()
		c.Process.Kill()
		c.ends()
	})
	t.Run("the last reference in flight", func(t *testing.T) {
		t.Parallel()
		c := newCloser(t, v, "flight", 10, 15, "helper")
		c.isBlocked() // its own descriptor; not the one on its way
		must(t, c.Process.Signal(syscall.SIGTERM))
		c.hears("handled")
		c.hears(errnoLine(syscall.EINTR))
		c.hears("dropped")
		c.ends()
	})
	t.Run("who has no pins closes at once", func(t *testing.T) {
		t.Parallel()
		c := newCloser(t, v, "sleep", 10, 15, "helper")
		a := newActor(t)
		a.do("Open", Do{Path: c.path})
		a.do("Lease", Do{Len: blockSize, Lease: client.Options{Access: client.Write}})
		a.do("CloseData", Do{})
	})
	t.Run("one who holds by a claim is waited for, who passed it on is not", func(t *testing.T) {
		t.Parallel()
		path := v.write(t, "claimed", pattern(1, blockSize))
		a, b := newPair(t)
		for _, p := range []*actor{a, b} {
			p.do("Open", Do{Path: path})
			p.do("Lease", Do{Len: blockSize, Lease: client.Options{Access: client.Write}})
		}
		context := int(a.do("Register", Do{Name: "ctx", Kind: client.Memory}).N)
		a.do("Pin", Do{Name: "ctx", Len: blockSize})
		a.do("SendHandle", Do{Name: "ctx"})
		b.do("ReceiveHandle", Do{Name: "ctx"})
		happened := v.events(t)
		closing := a.begin("CloseData", Do{})
		c := &closer{t: t, process: a.proc, happened: happened}
		c.isBlocked()
		b.do("Claim", Do{Name: "ctx", Count: context})
		if _, err := closing.wait(); err != nil {
			t.Errorf("close, when the pins are another's: %v", err)
		}
	})
}

// TestScenario02ServerStops: a close that waits does not keep the server from ending, and ends with it.
func TestScenario02ServerStops(t *testing.T) {
	t.Parallel()
	v := serveBlock(t)
	c := newCloser(t, v, "close", 10, 15, "helper")
	c.isBlocked()
	v.stop(t)
	c.ends()
}
