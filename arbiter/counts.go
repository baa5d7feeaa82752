package arbiter

import (
	"strings"
	"time"

	"holdfast/layout"
)

// cutBuckets are the upper bounds of Counts.CutTimes, in seconds; the last bucket has none.
var cutBuckets = [...]float64{0.001, 0.01, 0.1, 1, 5, 15, 60, 300}

// maxReasons bounds how many reasons of refusals are told apart.
const maxReasons = 64

// tallies are what a shard counts. They are guarded by its mu.
type tallies struct {
	asked, returned, timedOut, revoked uint64

	refusals map[string]uint64                 // by reason
	cuts     map[layout.LeaseID]layout.Instant // that are not complete, since when
	cutTimes [len(cutBuckets) + 1]uint64
	cutSum   time.Duration
}

func newTallies() tallies {
	return tallies{refusals: map[string]uint64{}, cuts: map[layout.LeaseID]layout.Instant{}}
}

// note counts an effect.
func (t *tallies) note(now layout.Instant, e *layout.Effect) {
	switch e.Kind {
	case layout.Notify:
		t.asked++
	case layout.Returned:
		t.returned++
	case layout.TimedOut:
		t.timedOut++
	case layout.Refused, layout.Denied:
		t.refuse(e.Reason)
	case layout.Cut:
		if _, ok := t.cuts[e.Lease]; !ok {
			t.cuts[e.Lease] = now
		}
	case layout.Revoked:
		t.revoked++
		if since, ok := t.cuts[e.Lease]; ok {
			delete(t.cuts, e.Lease)
			t.observe(time.Duration(now - since))
		}
	case layout.Released:
		delete(t.cuts, e.Lease)
	}
}

// refuse counts a refusal. What follows a colon is about the one case.
func (t *tallies) refuse(reason string) {
	reason, _, _ = strings.Cut(reason, ":")
	if t.refusals[reason] == 0 && len(t.refusals) >= maxReasons {
		reason = "other"
	}
	t.refusals[reason]++
}

func (t *tallies) observe(d time.Duration) {
	t.cutSum += d
	for i, bound := range cutBuckets {
		if d.Seconds() <= bound {
			t.cutTimes[i]++
			return
		}
	}
	t.cutTimes[len(cutBuckets)]++
}

// Counts are numbers for whoever watches a server.
type Counts struct {
	Leases, Pins, Contexts, Sessions, Waiting int
	// Of breaks, since the start: holders that were asked, gave back, ran out of time, were cut.
	Asked, Returned, TimedOut, Revoked uint64
	Refusals                           map[string]uint64 // by reason
	// CutTimes says how many cuts took how long, by upper bound in seconds, each with those before it.
	CutTimes map[float64]uint64
	Cuts     uint64 // all
	CutSum   time.Duration
	// OldestCut is how long the oldest cut has lasted that is not complete; 0: there is none.
	OldestCut time.Duration
}

// Counts looks at each shard in turn.
func (a *Arbiter) Counts() Counts {
	c := Counts{Refusals: map[string]uint64{}, CutTimes: map[float64]uint64{}}
	var times [len(cutBuckets) + 1]uint64
	for _, sh := range a.shards {
		sh.mu.Lock()
		now, n, t := a.now(), sh.m.Counts(), &sh.tallies
		c.Leases, c.Pins, c.Waiting = c.Leases+n.Leases, c.Pins+n.Pins, c.Waiting+len(sh.waiters)
		c.Asked, c.Returned = c.Asked+t.asked, c.Returned+t.returned
		c.TimedOut, c.Revoked = c.TimedOut+t.timedOut, c.Revoked+t.revoked
		for reason, n := range t.refusals {
			c.Refusals[reason] += n
		}
		for i, n := range t.cutTimes {
			times[i] += n
		}
		c.CutSum += t.cutSum
		for _, since := range t.cuts {
			c.OldestCut = max(c.OldestCut, time.Duration(now-since))
		}
		sh.mu.Unlock()
	}
	for i, n := range times {
		c.Cuts += n
		if i < len(cutBuckets) {
			c.CutTimes[cutBuckets[i]] = c.Cuts
		}
	}
	a.contexts.Range(func(any, any) bool { c.Contexts++; return true })
	a.sessions.Range(func(_, v any) bool {
		if !v.(*session).ended.Load() {
			c.Sessions++
		}
		return true
	})
	return c
}
