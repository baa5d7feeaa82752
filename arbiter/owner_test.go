package arbiter

import (
	"testing"

	"holdfast/layout"
)

// TestOwnerChanged: an unbreakable lease outlives the ownership that it was given for; it is listed so, or breakable then.
func TestOwnerChanged(t *testing.T) {
	for _, recall := range []bool{false, true} {
		w := newWorld(t, Config{RecallOnChown: recall})
		s, err := w.OpenSession(SessionInfo{UID: 1000})
		if err != nil {
			t.Fatal(err)
		}
		lease := w.lease(s, blocks(0, 4), newHolder(), unbreakable)
		w.lease(s, blocks(4, 8), newHolder())
		w.OwnerChanged(5, 1000)
		look := func(what string, unbreakable, unentitled bool) {
			t.Helper()
			for _, l := range w.Leases(Filter{}) {
				want := l.ID == lease
				if l.Unbreakable != (want && unbreakable) || l.Unentitled != (want && unentitled) {
					t.Errorf("recall %v, %s: %+v", recall, what, l)
				}
			}
		}
		look("nobody else's", true, false)
		w.OwnerChanged(5, 2000)
		look("another's", !recall, !recall)
		w.OwnerChanged(5, 1000)
		look("his again", !recall, false)
		w.OwnerChanged(5, 2000)
		if err := w.CloseLease(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		if n := len(w.shardOf(5).unentitled); n != 0 {
			t.Errorf("%d leases that are gone are remembered", n)
		}
		if _, err := w.Break(t.Context(), Caller{Session: s}, 5, blocks(0, 4), layout.Subtractive); err != nil {
			t.Error(err)
		}
	}
}
