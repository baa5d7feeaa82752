package arbiter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"holdfast/layout"
)

// TestScenario13Defer: a truncate is let go on although two have pinned the range: the storage has orphaned what they keep by then,
// they keep their holds and are listed, and what is past the limit refuses the change.
func TestScenario13Defer(t *testing.T) {
	w := newWorld(t, Config{})
	ctx := t.Context()
	s := w.open(100)
	c := w.context(s)
	h := newHolder()
	lease := w.lease(s, blocks(0, 4), h, unbreakable)
	other := w.open(200)
	far := w.context(other)
	shared := w.lease(other, blocks(0, 8), nil)
	for _, p := range []struct {
		s layout.SessionID
		c layout.ContextID
		l layout.LeaseID
	}{{s, c, lease}, {other, far, shared}} {
		if _, err := w.Pin(ctx, p.s, p.c, p.l, blocks(0, 4), layout.Read); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.CloseLease(ctx, lease); err != nil {
		t.Fatal(err)
	}
	deferring := Caller{OnHold: layout.Defer, Wait: WaitForever}

	w.storage.orphan = func() error { return fmt.Errorf("limit of orphaned bytes: %w", syscall.ENOSPC) }
	var refused *Refused
	_, err := w.Break(ctx, deferring, 5, blocks(2, 4), layout.Subtractive)
	if !errors.As(err, &refused) || refused.Errno != syscall.ETXTBSY || !strings.Contains(refused.Reason, "limit of orphaned bytes") || len(refused.Blockers) == 0 {
		t.Fatalf("past the limit: %v", err)
	}
	if l, err := w.Lease(lease); err != nil || l.Ranges[0].Extent() != blocks(0, 4) {
		t.Fatalf("the refused change has altered %+v, %v", l, err)
	}

	w.storage.orphan = nil
	w.EndSession(other) // so that its lease is not waited for
	change, err := w.Break(ctx, deferring, 5, blocks(2, 4), layout.Subtractive)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"orphan 1 [8192,16384)", "orphan 2 [8192,16384)"}; !slices.Equal(w.storage.log[:2], want) {
		t.Errorf("storage: %v", w.storage.log)
	}
	change.Done()
	for _, p := range w.Pins(Filter{}) {
		if len(p.Orphaned) != 1 || p.Orphaned[0].Extent() != blocks(2, 4) {
			t.Errorf("pin %+v", p)
		}
	}
	if l, err := w.Lease(lease); err != nil || len(l.Ranges) != 1 || l.Ranges[0].Extent() != blocks(0, 2) {
		t.Errorf("lease %+v, %v", l, err)
	}
	if n := len(slices.DeleteFunc(w.Recent(), func(e Event) bool { return e.Kind != EventOrphan })); n != 2 {
		t.Errorf("%d events tell of orphans", n)
	}
	if _, holds := w.storage.count(); holds != 2 {
		t.Errorf("%d holds", holds)
	}
	for _, id := range []layout.ContextID{c, far} {
		if err := w.CloseContext(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, holds := w.storage.count(); holds != 0 {
		t.Errorf("%d holds are left", holds)
	}
}
