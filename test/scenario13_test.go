package test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"holdfast/arbiter"
)

// orphaned is how `holdfast orphans` lists a run of blocks.
type orphaned struct {
	Length    int64
	UID       int
	Unclaimed bool
	Path      string
}

// TestScenario13Defer: on a volume that defers, a truncate over what a device reaches goes through. The device keeps its pages, which are
// the file's no more, and the blocks below them are nobody's: listed with their user and used in df, until the device is gone.
func TestScenario13Defer(t *testing.T) {
	t.Parallel()
	v := serve(t, "--size", "64M", "--on-hold", "defer", "--mount-wait", scenarioMountWait.String())
	eachMechanism(t, func(t *testing.T, m mechanism) {
		h := holdFile(t, v, m, "deferred-"+m.name)
		must(t, os.Truncate(h.path, 0))
		wantContent(t, h.path, nil)
		listed := func() (o orphaned) {
			for _, o := range askJSON[[]orphaned](t, v, "orphans") {
				if strings.HasSuffix(o.Path, "/deferred-"+m.name) {
					return o
				}
			}
			return o
		}
		if o := listed(); o.Length != heldSize || o.UID != os.Getuid() || o.Unclaimed {
			t.Errorf("listed as %+v", o)
		}
		if p := h.pins(t); len(p.Orphaned) != 1 || p.Orphaned[0].Extent().Len() != heldSize {
			t.Errorf("the pin is listed as %+v", p)
		}
		must(t, os.WriteFile(h.path, bytes.Repeat([]byte("new"), heldSize/3), 0o644))
		if m.hasRing {
			h.a.do("RingIn", Do{Data: bytes.Repeat([]byte("late dma "), heldSize/9)})
			if got := h.a.do("RingOut", Do{Len: 9}).Data; string(got) != "late dma " {
				t.Errorf("the device sees %q in its own pages", got)
			}
		}
		wantContent(t, h.path, bytes.Repeat([]byte("new"), heldSize/3))
		free := v.free(t)
		h.a.do("CloseContext", Do{Name: "ctx"})
		h.happened.wait("the end of the pin", func(e arbiter.Event) bool { return e.Kind == arbiter.EventUnpin && int64(e.Pin) == h.pin })
		eventually(t, "nothing is orphaned, and its space is free", func() bool { return listed().Length == 0 && v.free(t) >= free+heldSize/2 })
	})
}
