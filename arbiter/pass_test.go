package arbiter

import (
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/layout"
)

// TestClaimMovesAllOrNothing: a context has pins on files of several shards, and another session covers some, then all of them.
func TestClaimMovesAllOrNothing(t *testing.T) {
	w := newWorld(t, Config{})
	ctx := t.Context()
	a, b := w.open(100), w.open(200)
	c, err := w.Register(a, fakeContext("ring"))
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(s layout.SessionID, file extent.Ino) layout.LeaseID {
		t.Helper()
		l, err := w.Acquire(ctx, s, AcquireRequest{File: file, Range: blocks(0, 4), Access: layout.Write}, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		return l.ID
	}
	files := []extent.Ino{5, 6, 7}
	var leases []layout.LeaseID
	for _, f := range files {
		leases = append(leases, acquire(a, f))
		if _, err := w.Pin(ctx, a, c, leases[len(leases)-1], blocks(1, 2), layout.Write); err != nil {
			t.Fatal(err)
		}
	}
	acquire(b, 5)
	acquire(b, 7)
	var refused *Refused
	if err := w.Claim(ctx, b, c); !errors.As(err, &refused) || refused.Errno != syscall.EPERM || refused.File != 6 || refused.Range != blocks(1, 2) {
		t.Fatalf("claim without cover on file 6: %v", err)
	}
	for _, p := range w.Pins(Filter{}) {
		if p.Session != a {
			t.Errorf("pin %d moved all the same", p.ID)
		}
	}
	acquire(b, 6)
	if err := w.Claim(ctx, b, c); err != nil {
		t.Fatal(err)
	}
	w.EndSession(a)
	for _, l := range leases {
		if err := w.LeaveLease(ctx, a, l); err != nil {
			t.Fatal(err)
		}
	}
	pins := w.Pins(Filter{Session: b})
	if len(pins) != 3 || pins[0].Unattended || len(w.Leases(Filter{Session: a})) != 0 || len(w.Sessions(Filter{})) != 1 {
		t.Errorf("pins %+v, leases %+v, sessions %+v", pins, w.Leases(Filter{}), w.Sessions(Filter{}))
	}
	if cs := w.Contexts(Filter{}); len(cs) != 1 || cs[0].Session != b || cs[0].PID != 200 {
		t.Errorf("contexts %+v", cs)
	}
	if !slices.ContainsFunc(w.Recent(), func(e Event) bool { return e.Kind == EventClaim && e.Context == c && e.Session == b }) {
		t.Error("no event tells of the claim")
	}
	if err := w.CloseContext(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := w.Claim(ctx, b, c); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("claim of a closed context: %v", err)
	}
	if _, holds := w.storage.count(); holds != 0 {
		t.Errorf("%d holds are kept", holds)
	}
}

// TestClaimedWhilePinning: the pin whose hold fails has become another's meanwhile.
func TestClaimedWhilePinning(t *testing.T) {
	w := newWorld(t, Config{})
	a, b := w.open(100), w.open(200)
	la := w.lease(a, whole, nil)
	w.lease(b, whole, nil)
	c, err := w.Register(a, fakeContext("ring"))
	if err != nil {
		t.Fatal(err)
	}
	w.storage.hold = func() error { return errors.Join(w.Claim(t.Context(), b, c), syscall.ENOSPC) }
	if _, err := w.Pin(t.Context(), a, c, la, blocks(0, 2), layout.Read); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("pin: %v", err)
	}
	if p := w.Pins(Filter{}); len(p) != 0 {
		t.Errorf("a pin without a hold is left: %+v", p)
	}
}

// TestClaimsRace: two sessions claim a context back and forth while it is pinned and unpinned, and closed in the end.
func TestClaimsRace(t *testing.T) {
	w := newWorld(t, Config{Shards: 4})
	ctx := t.Context()
	ss := []layout.SessionID{w.open(100), w.open(200)}
	var ls []layout.LeaseID
	for _, s := range ss {
		ls = append(ls, w.lease(s, whole, nil))
	}
	c, err := w.Register(ss[0], fakeContext("ring"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i, s := range ss {
		all.Go(func() {
			for range 200 {
				if err := w.Claim(ctx, s, c); err != nil {
					t.Error(err)
				}
				pin, err := w.Pin(ctx, s, c, ls[i], blocks(0, 1), layout.Read)
				if errors.Is(err, syscall.EPERM) {
					continue // the other was faster
				}
				if err != nil {
					t.Error(err)
				}
				if err := w.Unpin(ctx, s, pin); err != nil && !errors.Is(err, syscall.EPERM) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := w.CloseContext(ctx, c); err != nil {
		t.Fatal(err)
	}
	if _, holds := w.storage.count(); holds != 0 || len(w.Pins(Filter{})) != 0 {
		t.Errorf("%d holds and pins %+v are left", holds, w.Pins(Filter{}))
	}
}

// TestShareOutlivesEither: a lease that two sessions hold is listed with both, and lives as long as one of them holds it.
func TestShareOutlivesEither(t *testing.T) {
	for _, first := range []bool{true, false} {
		w := newWorld(t, Config{})
		ctx := t.Context()
		a, b := w.open(100), w.open(200)
		lease := w.lease(a, whole, newHolder())
		if _, err := w.Share(ctx, b, lease, layout.Strict); !errors.Is(err, syscall.EPERM) {
			t.Fatalf("under strict: %v", err)
		}
		info, err := w.Share(ctx, b, lease, layout.Share)
		if err != nil || len(info.Holders) != 2 || info.Holders[1] != (Holding{Session: b, PID: 200, Program: info.Holders[1].Program}) {
			t.Fatalf("shared: %+v, %v", info, err)
		}
		gone, stays := a, b
		if !first {
			gone, stays = b, a
		}
		w.EndSession(gone)
		if err := w.LeaveLease(ctx, gone, lease); err != nil {
			t.Fatal(err)
		}
		info, err = w.Lease(lease)
		if err != nil || info.Session != stays || info.Unattended || info.Holders != nil {
			t.Errorf("one has gone: %+v, %v", info, err)
		}
		if err := w.LeaveLease(ctx, gone, lease); err != nil {
			t.Error(err)
		}
		if _, err = w.Lease(lease); err != nil {
			t.Errorf("he left twice, and the lease of the other is gone: %v", err)
		}
		if err := w.LeaveLease(ctx, stays, lease); err != nil {
			t.Fatal(err)
		}
		if refs, _ := w.storage.count(); refs != 0 || len(w.Leases(Filter{})) != 0 {
			t.Errorf("%d files are kept, leases %+v", refs, w.Leases(Filter{}))
		}
	}
}
