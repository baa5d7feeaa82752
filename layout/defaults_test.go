package layout

import (
	"testing"
	"time"
)

// TestDefaults: the times that the contract names, from the first question to the last try.
func TestDefaults(t *testing.T) {
	m := New(Config{})
	m.Step(0, &Input{Op: OpOpenSession, Session: 1})
	m.Step(0, &Input{Op: OpRegister, Session: 1, Context: 1, Can: CanFence})
	l := m.Step(0, &Input{Op: OpAcquire, Session: 1, File: file1, Range: everything, Access: Write})[0].Lease
	p := m.Step(0, &Input{Op: OpPin, Session: 1, Context: 1, Lease: l, Range: disjoint(0)})[0].Pin
	asked := m.Step(0, &Input{Op: OpBreak, File: file1, Range: disjoint(0), Class: Subtractive, OnHold: Revoke})
	if e := asked[len(asked)-1]; e.Kind != Notify || e.Deadline != Instant(45*time.Second) {
		t.Fatalf("%s", renderEffects(asked))
	}
	now := Instant(45 * time.Second)
	m.Step(now, &Input{Op: OpTick})
	es := m.Step(now, &Input{Op: OpCutDone, Lease: l, Range: disjoint(0)})
	for _, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		if e := es[len(es)-1]; e.Kind != CutPin || e.Deadline != now.Add(10*time.Second) {
			t.Fatalf("at %v: %s", now, renderEffects(es))
		}
		m.Step(now, &Input{Op: OpCutPinFailed, Pin: p, Step: Fence})
		now = now.Add(pause*time.Second - 1)
		if es := m.Step(now, &Input{Op: OpTick}); len(es) != 0 {
			t.Fatalf("at %v, before the pause of %d s is over: %s", now, pause, renderEffects(es))
		}
		now = now.Add(1)
		es = append([]Effect(nil), m.Step(now, &Input{Op: OpTick})...)
	}
	if defaultMaxBreaks != 64 {
		t.Errorf("%d breaks of a file at a time", defaultMaxBreaks)
	}
}
