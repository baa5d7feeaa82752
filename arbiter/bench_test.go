package arbiter

import (
	"context"
	"fmt"
	"testing"
	"time"

	"holdfast/layout"
)

// giver gives back at once what it is asked for, on a goroutine of its own as a client would.
type giver struct {
	a  *Arbiter
	by layout.SessionID
}

func (g giver) Notify(ev Event) {
	if ev.Kind == EventBreak {
		go func() { _ = g.a.Return(context.Background(), g.by, ev.Lease, whole) }() // it may be cut already
	}
}

// BenchmarkBreak: a change meets as many holders of the file, who give back when asked, or are silent and cut.
func BenchmarkBreak(b *testing.B) {
	for _, silent := range []bool{false, true} {
		for _, n := range []int{1, 100, 10_000} {
			b.Run(fmt.Sprintf("silent=%v/holders=%d", silent, n), func(b *testing.B) { benchBreak(b, n, silent) })
		}
	}
}

func benchBreak(b *testing.B, n int, silent bool) {
	a := New(Config{BreakTime: time.Hour, Events: 1})
	if silent {
		a.Close()
		a = New(Config{BreakTime: time.Nanosecond, Events: 1})
	}
	defer a.Close()
	a.Attach(newFakeStorage())
	sessions := make([]layout.SessionID, n)
	for i := range sessions {
		var err error
		if sessions[i], err = a.OpenSession(SessionInfo{Kind: "bench"}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		b.StopTimer()
		for _, s := range sessions {
			if _, err := a.Acquire(b.Context(), s, AcquireRequest{File: 5, Range: whole, Access: layout.Write}, giver{a, s}); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		c, err := a.Break(b.Context(), patient, 5, blocks(0, 1), layout.Subtractive)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		c.Done()
		for _, l := range a.Leases(Filter{}) {
			if err := a.CloseLease(b.Context(), l.ID); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/holder")
}
