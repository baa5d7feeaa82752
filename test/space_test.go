package test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"holdfast/client"
	"holdfast/wire"
)

// TestSpaceOfOrphans: before there is no space, who keeps what a file has given up is asked to let go of it, on the handle of the lease
// that the rest of his pin is under.
func TestSpaceOfOrphans(t *testing.T) {
	t.Parallel()
	const half = heldSize / 2
	v := serve(t, "--size", "16M", "--on-hold", "defer")
	path := v.write(t, "file", pattern(1, heldSize))
	a, b := newActor(t), newActor(t)
	a.do("Open", Do{Path: path})
	a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}})
	a.do("Map", Do{})
	a.do("Register", Do{Name: "ctx", Kind: client.Memory})
	a.do("Pin", Do{Name: "ctx", Len: heldSize})
	change := b.begin("ChangeTruncate", Do{Path: path, Len: half})
	a.do("AwaitPoll", Do{})
	a.do("Return", Do{Off: half, Len: half})
	if _, err := change.wait(); err != nil {
		t.Fatal(err)
	}
	asked := a.begin("AwaitPoll", Do{})
	if _, err := fill(v.mnt); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("on a full volume: %v", err)
	}
	done, err := asked.wait()
	if e := done.Event; err != nil || e.Kind != client.BreakAsked || e.Ask != wire.AskDropPins || e.Range != (client.Range{Off: half, End: heldSize}) {
		t.Errorf("told %+v, %v", e, err)
	}
	a.do("CloseContext", Do{Name: "ctx"})
	must(t, os.WriteFile(v.path("more"), pattern(2, half), 0o644))
}
