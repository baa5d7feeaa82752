package layout

import (
	"fmt"
	"testing"
	"time"

	"holdfast/extent"
)

// flooded returns a machine on which session 1 holds a lease on all of a file and answers nobody, while session 2 asked for n
// things, each elsewhere and each given up at once. A break that has begun goes on behind whoever gives up.
func flooded(t testing.TB, n int, ask func(i int) Input) *Machine {
	t.Helper()
	m := New(Config{BreakTime: 10 * time.Second})
	m.Step(0, &Input{Op: OpOpenSession, Session: 1})
	m.Step(0, &Input{Op: OpOpenSession, Session: 2})
	m.Step(0, &Input{Op: OpAcquire, Session: 1, File: file1, Range: everything})
	for i := range n {
		in := ask(i)
		e := m.Step(0, &in)[0]
		if e.Kind != Queued {
			t.Fatalf("request %d: %s", i, renderEffects([]Effect{e}))
		}
		m.Step(0, &Input{Op: OpAbandon, File: file1, Change: e.Change, Request: e.Request})
	}
	return m
}

func change(i int) Input {
	return Input{Op: OpBreak, Session: 2, File: file1, Range: disjoint(i), Class: Subtractive, OnHold: Fail}
}

// TestAbandonedBreaksAreBounded: what is left behind by those who give up is bounded, and so is the cost of the next request. Who
// waits has its turn when the first of them are over.
func TestAbandonedBreaksAreBounded(t *testing.T) {
	for name, ask := range map[string]func(int) Input{
		"changes": change,
		"leases": func(int) Input { // a session is not behind its own requests
			return Input{Op: OpAcquire, Session: 2, File: file1, Range: disjoint(0), Mode: Exclusive}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := flooded(t, 1000, ask)
			if n := m.Counts().Requests; n != defaultMaxBreaks {
				t.Fatalf("%d breaks are left behind", n)
			}
			patient := change(2000)
			es := m.Step(0, &patient)
			if len(es) != 1 || es[0].Kind != Queued || es[0].Reason != reasonCrowd {
				t.Fatalf("one more: %s", renderEffects(es))
			}
			id := es[0].Change
			in := Input{Op: OpBreak, Session: 2, File: file1, Range: disjoint(2001), Class: Subtractive, OnHold: Fail, NoWait: true}
			if es := m.Step(0, &in); es[0].Kind != Refused || m.Counts().Requests != defaultMaxBreaks+1 {
				t.Fatalf("one that does not wait: %s", renderEffects(es))
			}
			proceeds(t, m, id)
			m.Step(0, &Input{Op: OpDone, File: file1, Change: id})
			if n := m.Counts().Requests; n != 0 {
				t.Errorf("%d requests are left in the end", n)
			}
			if err := CheckInvariants(m); err != nil {
				t.Error(err)
			}
		})
	}
}

// proceeds lets break times pass until the change goes on: one for those before it, one for itself.
func proceeds(t *testing.T, m *Machine, id ChangeID) {
	t.Helper()
	for now := Instant(0); now <= Instant(20*time.Second); now = now.Add(10 * time.Second) {
		work := append([]Effect(nil), m.Step(now, &Input{Op: OpTick})...)
		for _, e := range work {
			if e.Kind != Cut {
				continue
			}
			for _, e := range m.Step(now, &Input{Op: OpCutDone, Lease: e.Lease, Range: e.Range}) {
				if e.Kind == Proceed && e.Change == id {
					return
				}
			}
			if err := CheckInvariants(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatalf("change %d does not go on", id)
}

// BenchmarkAbandonedBreak is a change that is given up at once, beside as many others as there may be and a lease in n pieces.
func BenchmarkAbandonedBreak(b *testing.B) {
	for _, n := range []int{1, 100000} {
		b.Run(fmt.Sprintf("pieces=%d", n), func(b *testing.B) {
			m := flooded(b, 0, nil)
			for i := range n - 1 {
				in := Input{Op: OpReturn, Session: 1, Lease: 1, Range: disjoint(2*i + 1)}
				m.Step(0, &in)
			}
			for i := 0; b.Loop(); i++ {
				in := change(2 * (i % max(n-1, 1)))
				e := m.Step(0, &in)[0]
				m.Blockers(file1, in.Range, Subtractive, 2, 16)
				m.Step(0, &Input{Op: OpAbandon, File: file1, Change: e.Change})
				if i%defaultMaxBreaks == defaultMaxBreaks-1 { // the holder answers all of them
					m.Step(0, &Input{Op: OpReturn, Session: 1, Lease: 1, Range: extent.Range{Off: 1 << 50, End: extent.Inf}})
				}
			}
		})
	}
}
