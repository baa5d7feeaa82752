package test

import (
	"testing"
	"time"

	"holdfast/arbiter"
)

// TestScenario08SilentHolder: a holder ignores that its file is wanted. At the deadline its windows are detached, the truncate goes on, and
// its late DMA lands in pages that are nobody's.
func TestScenario08SilentHolder(t *testing.T) {
	t.Parallel()
	const breakTime = 400 * time.Millisecond
	v := serve(t, "--on-hold", "revoke", "--break-time", breakTime.String(), "--mount-wait", scenarioMountWait.String())
	eachMechanism(t, func(t *testing.T, m mechanism) {
		h := holdFile(t, v, m, "silent-"+m.name)
		r := run(t, "truncate", "-s", "0", h.path)
		if r.status != 0 || r.took < breakTime {
			t.Errorf("truncate: exit status %d, %q, after %v of %v", r.status, r.err, r.took, breakTime)
		}
		h.happened.waitLease(arbiter.EventRevoke, h.lease)
		h.happened.waitLease(arbiter.EventRelease, h.lease)
		h.wantReuse(t)
		if p := askJSON[[]arbiter.PinInfo](t, v, "pins", h.path); len(p) != 0 {
			t.Errorf("pins after the cut: %+v", p)
		}
	})
}
