package arbiter

import (
	"slices"
	"time"

	"holdfast/layout"
)

// AskForSpace asks those who have the holds to let go of what they keep that no file has any more: each context that can be told, and
// whoever has the lease that a pin is still under in part. They have until wait is over.
func (a *Arbiter) AskForSpace(holds []uint64, wait time.Duration) {
	for _, sh := range a.shards {
		var out outbox
		sh.mu.Lock()
		now := a.now()
		for _, p := range sh.m.Pins(0) {
			if len(p.Orphaned) == 0 || !slices.Contains(holds, sh.holds[p.ID]) {
				continue
			}
			e := layout.Effect{
				Kind: layout.Notify, File: p.File, Lease: p.Lease, Session: p.Session, Context: p.Context, Pin: p.ID,
				Range: p.Orphaned[0], Ask: layout.AskDropPins, Deadline: now.Add(wait), Reason: "there is no space", Tag: p.Tag,
			}
			a.notify(now, &e, &out)
			a.tellContext(e.Context, now, &e, &out)
			a.record(sh, now, &e, nil)
		}
		sh.mu.Unlock()
		a.warn(a.flush(&out))
	}
}
