package test

import (
	"fmt"
	"testing"
)

// TestScenario10: on_close = block never holds up the end of a process, nor its becoming another program, in whatever order its
// descriptors are closed.
func TestScenario10(t *testing.T) {
	t.Parallel()
	v := serveBlock(t)
	for order, fds := range map[string][2]int{"data below context": {10, 15}, "data above context": {15, 10}} {
		for _, how := range []string{"exit", "exec"} {
			for _, helper := range []string{"", "helper", "shared"} {
				t.Run(fmt.Sprint(how, " ", order, " ", helper), func(t *testing.T) {
					t.Parallel()
					c := newCloser(t, v, how, fds[0], fds[1], helper)
					c.ends()
					c.neverWaited()
				})
			}
		}
		t.Run("SIGKILL asleep "+order, func(t *testing.T) {
			t.Parallel()
			c := newCloser(t, v, "sleep", fds[0], fds[1], "helper")
			must(t, c.Process.Kill())
			c.ends()
			c.neverWaited()
		})
		t.Run("SIGKILL in a close that waits "+order, func(t *testing.T) {
			t.Parallel()
			c := newCloser(t, v, "close", fds[0], fds[1], "helper")
			c.isBlocked()
			must(t, c.Process.Kill())
			c.ends()
		})
		t.Run("exec without close-on-exec "+order, func(t *testing.T) {
			t.Parallel()
			c := newCloser(t, v, "inherit", fds[0], fds[1], "helper")
			c.hears(errnoLine(0)) // by the next program, which has no session any more
			c.ends()
			c.neverWaited()
		})
	}
}
