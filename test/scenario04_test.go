package test

import (
	"bytes"
	"strings"
	"syscall"
	"testing"

	"holdfast/arbiter"
	"holdfast/client"
)

// TestScenario04OwnPins: who truncates what it has pinned itself would wait for itself, and is told so; unless it asks to drop its own
// pins. What its device does later is nobody's.
func TestScenario04OwnPins(t *testing.T) {
	t.Parallel()
	v := serve(t, "--mount-wait", scenarioMountWait.String())
	eachMechanism(t, func(t *testing.T, m mechanism) {
		h := holdFile(t, v, m, "drop-"+m.name)
		_, err := h.a.try("ChangeTruncate", Do{Path: h.path})
		wantErrno(t, "truncate over own pins", err, syscall.EDEADLK)
		_, err = h.b.try("ChangeTruncate", Do{Path: h.path, Change: client.ChangeOptions{DropOwnPins: true}})
		wantErrno(t, "truncate over others' pins, own ones dropped", err, syscall.ETXTBSY)
		wantContent(t, h.path, h.content)
		h.a.do("ChangeTruncate", Do{Path: h.path, Change: client.ChangeOptions{DropOwnPins: true}})
		h.happened.waitLease(arbiter.EventRelease, h.lease) // which only the pin kept
		h.wantReuse(t)
	})
}

// wantReuse fills the space that the file had given up, has the device of its former holder write, and looks at the others.
func (h *held) wantReuse(t *testing.T) {
	t.Helper()
	wantContent(t, h.path, nil)
	var others []string
	full := bytes.Repeat([]byte("another's "), heldSize/10)
	for i := range 4 {
		others = append(others, h.v.write(t, strings.Join([]string{"other", h.m.name, t.Name()[strings.LastIndex(t.Name(), "/")+1:], string(rune('a' + i))}, "-"), full))
	}
	if h.m.hasRing {
		h.a.do("RingIn", Do{Data: bytes.Repeat([]byte("late dma "), heldSize/9)})
	}
	for _, path := range others {
		wantContent(t, path, full)
	}
	wantContent(t, h.path, nil)
}
