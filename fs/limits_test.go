package fs

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// TestLimitOfWindows: a block that two leases of one user map counts once for him, once more for another user,
// and no more when the last of his leases over it is given back. A Map that fails counts nothing.
func TestLimitOfWindows(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.arbs.Limits = arbiter.Limits{{User: arbiter.Everyone, Limit: arbiter.LimitWindows}: 4 * block}
	})
	ino := r.file("f", make([]byte, 16*block))
	open := func(uid uint32) layout.SessionID {
		s, err := r.arb.OpenSession(arbiter.SessionInfo{UID: uid})
		r.must(err)
		return s
	}
	lease := func(s layout.SessionID) layout.LeaseID {
		l, err := r.arb.Acquire(ctx, s, arbiter.AcquireRequest{File: ino, Range: rng(0, extent.Inf), Access: layout.Read}, nil)
		r.must(err)
		return l.ID
	}
	want := func(uid uint32, blocks int64) {
		t.Helper()
		for _, u := range r.arb.Uses(nil) {
			if u.User == uid && u.Limit == arbiter.LimitWindows && u.Used != blocks*block {
				t.Errorf("user %d has used %d bytes, want %d blocks", uid, u.Used, blocks)
			}
		}
	}
	a, b := open(1000), open(1001)
	one, two, other := lease(a), lease(a), lease(b)
	mapped := func(l layout.LeaseID, from, to int64) error {
		_, err := r.Map(ctx, l, ino, rng(from*block, to*block), false)
		return err
	}
	r.must(mapped(one, 0, 3))
	r.must(mapped(one, 0, 3))
	want(1000, 3)
	r.must(mapped(two, 1, 4))
	want(1000, 4)
	err := mapped(two, 3, 5)
	if !errors.Is(err, syscall.EDQUOT) || !strings.Contains(err.Error(), "limit of 16384 bytes of windows of user 1000") {
		t.Errorf("past the limit: %v", err)
	}
	want(1000, 4)
	r.must(mapped(other, 0, 2))
	want(1001, 2)
	r.must(r.arb.Return(ctx, a, one, rng(0, 2*block)))
	want(1000, 3)
	r.must(r.arb.CloseLease(ctx, two))
	want(1000, 1)
	r.must(mapped(one, 8, 11))
	want(1000, 4)
	r.must(r.arb.CloseLease(ctx, one))
	want(1000, 0)
	want(1001, 2)
}

// TestWindowsDefaultLimit: windows take a quarter of the memory if nothing else is said.
func TestWindowsDefaultLimit(t *testing.T) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		t.Fatal(err)
	}
	if r, want := newRig(t), int64(si.Totalram)*int64(si.Unit)/4; r.windowLimit != want {
		t.Errorf("the limit is %d bytes, want %d", r.windowLimit, want)
	}
}
