package arbiter

import (
	"errors"
	"maps"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/layout"
)

// TestCounts: a break that ends in a cut, one that is given back, a wait in vain, refusals by rule and by limit.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Limits: Limits{{0, LimitPins}: 1}})
		defer w.Close()
		cut := make(chan error)
		w.storage.cut = func() error { return <-cut }
		silent, good := w.open(100), w.open(101)
		w.lease(silent, blocks(0, 8), newHolder())
		ch := w.change(patient, blocks(0, 8))
		_, err := w.Break(t.Context(), Caller{Wait: time.Second}, 5, blocks(0, 8), layout.Subtractive)
		if !errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("a change that waits a second: %v", err)
		}
		time.Sleep(12 * time.Second) // past the break time; the cut does not end
		if c := w.Counts(); c.Waiting != 1 || c.OldestCut != 3*time.Second || c.Sessions != 2 || c.Leases != 1 {
			t.Errorf("in a cut: %+v", c)
		}
		cut <- nil
		(<-ch).change.Done()

		lease := w.lease(good, blocks(0, 8), newHolder())
		ch = w.change(patient, blocks(0, 8))
		synctest.Wait()
		if err := w.Return(t.Context(), good, lease, blocks(0, 8)); err != nil {
			t.Fatal(err)
		}
		(<-ch).change.Done()

		lease = w.lease(good, blocks(0, 8), newHolder())
		context := w.context(good)
		if _, err := w.Pin(t.Context(), good, context, lease, blocks(0, 1), layout.Write); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Pin(t.Context(), good, context, lease, blocks(1, 2), layout.Write); !errors.Is(err, syscall.ENOLCK) {
			t.Fatalf("a pin past the limit: %v", err)
		}
		if _, err := w.Break(t.Context(), patient, 5, blocks(0, 8), layout.Subtractive); !errors.Is(err, syscall.ETXTBSY) {
			t.Fatalf("a change under a pin: %v", err)
		}
		w.EndSession(silent)
		c := w.Counts()
		if c.Leases != 1 || c.Pins != 1 || c.Contexts != 1 || c.Sessions != 1 || c.Waiting != 0 || c.OldestCut != 0 {
			t.Errorf("what is there: %+v", c)
		}
		if c.Asked != 2 || c.Returned != 1 || c.TimedOut != 1 || c.Revoked != 1 {
			t.Errorf("breaks: %+v", c)
		}
		if c.Cuts != 1 || c.CutSum != 3*time.Second || c.CutTimes[1] != 0 || c.CutTimes[5] != 1 || c.CutTimes[300] != 1 {
			t.Errorf("cuts: %+v", c)
		}
		want := map[string]uint64{"a wait was given up": 1, "limit of pins": 1, "pins are in the way": 1}
		if !maps.Equal(c.Refusals, want) {
			t.Errorf("refusals: %v, want %v", c.Refusals, want)
		}
		// Each refusal is an event that says why.
		var told []string
		for _, ev := range w.Recent() {
			if ev.Kind == EventRefuse || ev.Kind == EventDeny {
				told = append(told, ev.Reason)
			}
		}
		if len(told) != 3 || told[0] != "leases in the way are being broken" && !strings.HasPrefix(told[0], "an earlier request") ||
			!strings.HasPrefix(told[1], "limit of 1 pins") || told[2] != "pins are in the way" {
			t.Errorf("refusals among the events: %q", told)
		}
	})
}

// TestManyReasons: reasons do not grow without bound, nor by what is about one case.
func TestManyReasons(t *testing.T) {
	tallies := newTallies()
	for i := range 3 * maxReasons {
		tallies.refuse(strings.Repeat("x", i))
		tallies.refuse("it failed: " + strings.Repeat("x", i))
	}
	if n := len(tallies.refusals); n != maxReasons+1 || tallies.refusals["it failed"] != 3*maxReasons {
		t.Errorf("%d reasons: %v", n, tallies.refusals)
	}
}
