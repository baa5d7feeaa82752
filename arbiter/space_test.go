package arbiter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// told is a holder who is told.
type told chan arbiter.Event

func (h told) Notify(ev arbiter.Event) { h <- ev }

// TestAskForSpace: who keeps what no file has any more is asked to let go of it, by his context and by the lease that the rest of his pin is
// under; nobody else is.
func TestAskForSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t, arbiter.Config{}, arbiter.Capabilities{Fence: true})
		defer f.Close()
		h := make(told, 10)
		s, err := f.OpenSession(arbiter.SessionInfo{Name: "second"})
		if err != nil {
			t.Fatal(err)
		}
		l, err := f.Acquire(t.Context(), s, arbiter.AcquireRequest{File: farFile, Range: pinned, Access: layout.Read}, h)
		if err != nil {
			t.Fatal(err)
		}
		c, err := f.Register(s, plainContext{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Pin(t.Context(), s, c, l.ID, pinned, layout.Read); err != nil {
			t.Fatal(err)
		}
		f.AskForSpace([]uint64{1, 2}, time.Second)
		if len(f.host.Told())+len(h) != 0 {
			t.Error("somebody was asked who keeps only what its file has")
		}
		half := extent.Range{Off: pinned.End / 2, End: pinned.End}
		change, err := f.Break(t.Context(), arbiter.Caller{OnHold: layout.Defer, Wait: arbiter.WaitForever}, farFile, half, layout.Subtractive)
		if err != nil {
			t.Fatal(err)
		}
		change.Done()
		for len(h) > 0 { // what the change asked
			<-h
		}
		before := len(f.host.Told())
		f.AskForSpace([]uint64{7}, time.Second)
		if len(f.host.Told())+len(h) != before {
			t.Error("somebody was asked for the holds of others")
		}
		f.AskForSpace([]uint64{1, 2}, time.Second)
		asked := f.host.Told()[before:]
		if len(asked) != 1 || len(h) != 1 {
			t.Fatalf("the context was told %+v, the holder %d times", asked, len(h))
		}
		for _, ev := range append(asked, <-h) {
			if ev.Kind != arbiter.EventBreak || ev.Ask != layout.AskDropPins || ev.Range.Extent() != half || ev.Deadline == nil || time.Until(*ev.Deadline) != time.Second {
				t.Errorf("told %+v", ev)
			}
		}
	})
}

type plainContext struct{}

func (plainContext) Info() arbiter.ContextInfo {
	return arbiter.ContextInfo{Kind: "plain", Can: arbiter.Capabilities{ByWindow: true}}
}
