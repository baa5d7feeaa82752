package fs

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

const onHold = "user.holdfast.on_hold"

// TestPolicyIsTheOwners: who may say what is done about holders of a file, and what he may say.
func TestPolicyIsTheOwners(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", nil)
	owner, stranger, admin := Caller{UID: r.attr(ino).UID}, Caller{UID: 4711}, Caller{UID: 4711, Admin: true}
	set := func(c Caller, name, value string) error { return r.SetXattr(ctx, c, ino, name, []byte(value), 0) }
	for name, values := range map[string][]string{
		onHold:                   {"fail", "wait", "revoke", "defer"},
		"user.holdfast.on_close": {"transfer", "block", "abort"},
		"user.holdfast.on_pass":  {"strict", "share"},
	} {
		for _, v := range values {
			r.must(set(owner, name, v))
			r.must(set(admin, name, v))
			wantErr(t, set(stranger, name, v), syscall.EPERM, "%s=%s by a stranger", name, v)
		}
		for _, v := range []string{"", "no", values[0] + "\n"} {
			wantErr(t, set(owner, name, v), syscall.EINVAL, "%s=%q", name, v)
		}
		wantErr(t, r.RemoveXattr(ctx, stranger, ino, name), syscall.EPERM, "removal of %s by a stranger", name)
	}
	want := Policies{OnHold: layout.Defer, OnClose: layout.Abort, OnPass: layout.Share, HasClose: true, HasPass: true}
	got := func() Policies {
		t.Helper()
		p, err := r.Policies(ino)
		r.must(err)
		return p
	}
	if got() != want {
		t.Errorf("policies %+v, want %+v", got(), want)
	}
	r.reopen()
	if got() != want {
		t.Errorf("policies after a restart %+v, want %+v", got(), want)
	}
	r.must(r.RemoveXattr(ctx, owner, ino, onHold))
	wantErr(t, r.RemoveXattr(ctx, owner, ino, onHold), syscall.ENODATA, "a second removal")
	r.must(set(owner, "user.holdfast.on_close", "transfer"))
	want.OnHold, want.OnClose = 0, layout.Transfer
	if got() != want {
		t.Errorf("policies after removal %+v, want %+v", got(), want)
	}
	r.must(set(stranger, "user.other", "x")) // the kernel has looked at the right to write
}

// TestPolicyOfTheFile: a truncate of what is pinned fares as the file says, unless the call says something.
func TestPolicyOfTheFile(t *testing.T) {
	r := newRig(t, func(r *rig) { r.arbs.BreakTime = time.Millisecond })
	owner := Caller{}
	truncate := func(ino extent.Ino, c Caller) error {
		c.Wait = arbiter.WaitForever
		_, err := r.SetAttr(ctx, c, ino, SetAttr{Valid: SetSize})
		return err
	}
	for _, policy := range []string{"", "fail", "revoke", "defer"} {
		ino := r.file("f"+policy, make([]byte, 16*block))
		h := r.session(4711)
		l := h.lease(ino, rng(0, 16*block), layout.Write)
		v := h.mmap(l, ino, rng(0, 16*block), true)
		c, _ := h.pin(l, rng(0, 16*block), layout.Write)
		if policy != "" {
			r.must(r.SetXattr(ctx, owner, ino, onHold, []byte(policy), 0))
		}
		switch err := truncate(ino, owner); {
		case policy == "" || policy == "fail":
			wantErr(t, err, syscall.ETXTBSY, "truncate under %q", policy)
		case err != nil:
			t.Errorf("truncate under %q: %v", policy, err)
		default:
			r.must(truncate(ino, Caller{OnHold: layout.Fail})) // to the same size
		}
		pins := r.arb.Pins(arbiter.Filter{File: ino})
		switch dead := v.dead(0); {
		case policy == "revoke" && (len(pins) != 0 || !dead):
			t.Errorf("after a truncate that revokes: pins %+v, and the memory is gone: %v", pins, dead)
		case policy == "defer" && (len(pins) != 1 || len(pins[0].Orphaned) != 1 || pins[0].Orphaned[0].Extent() != rng(0, 16*block) || dead):
			t.Errorf("after a truncate that is deferred: pins %+v, and the memory is gone: %v", pins, dead)
		case policy == "defer" && r.vol.Statfs().Orphaned != 16*block:
			t.Errorf("%d bytes are orphaned", r.vol.Statfs().Orphaned)
		}
		v.close()
		r.must(r.arb.CloseContext(ctx, c))
		if err := r.arb.CloseLease(ctx, l); err != nil && !errors.Is(err, syscall.ENOENT) {
			t.Fatal(err)
		}
	}
	r.must(r.Sync(ctx))
	if s := r.vol.Statfs(); s.Orphaned != 0 {
		t.Errorf("%d bytes stay orphaned", s.Orphaned)
	}
}

// TestCloseAborts: on a file with on_close=abort the close of a lease's handle takes its pins along, and without it does not.
func TestCloseAborts(t *testing.T) {
	r := newRig(t)
	for _, abort := range []bool{false, true} {
		ino := r.file(fmt.Sprint("f", abort), make([]byte, 4*block))
		if abort {
			r.setXattr(ino, "user.holdfast.on_close", "abort")
		}
		h := r.session(4711)
		l := h.lease(ino, rng(0, 4*block), layout.Write)
		v := h.mmap(l, ino, rng(0, 4*block), true)
		c, _ := h.pin(l, rng(0, 4*block), layout.Write)
		sub := r.arb.Subscribe(64)
		h.release(l)
		if abort {
			for ev := range sub.C {
				if ev.Kind == arbiter.EventRelease {
					break
				}
			}
		}
		sub.Close()
		if n := len(r.arb.Pins(arbiter.Filter{File: ino})); (n == 0) != abort || v.dead(0) != abort {
			t.Errorf("abort %v: %d pins, and the memory is gone: %v", abort, n, v.dead(0))
		}
		v.close()
		r.must(r.arb.CloseContext(ctx, c))
	}
}

// TestChownIsTold: an unbreakable lease on a file that was given to somebody else is listed so.
func TestChownIsTold(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, block))
	id, err := r.arb.OpenSession(arbiter.SessionInfo{Kind: "test", UID: 1000})
	r.must(err)
	h := &holder{r: r, id: id, events: make(chan arbiter.Event, 64)}
	for _, owner := range []uint32{1000, 2000, 1000} {
		_, err := r.SetAttr(ctx, Caller{Admin: true}, ino, SetAttr{Valid: SetUID, UID: owner})
		r.must(err)
		if len(r.arb.Leases(arbiter.Filter{})) == 0 {
			h.acquire(arbiter.AcquireRequest{File: ino, Range: rng(0, block), Access: layout.Write, Unbreakable: true})
		}
		if l := r.arb.Leases(arbiter.Filter{})[0]; l.Unentitled != (owner == 2000) || !l.Unbreakable {
			t.Errorf("the file is %d's: %+v", owner, l)
		}
	}
	h.release(r.arb.Leases(arbiter.Filter{})[0].ID)
}

// TestPolicyOfFileOrVolume: what a file says of close and passing counts before what its volume says, and only until it says nothing.
func TestPolicyOfFileOrVolume(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.OnClose, r.opts.OnPass = layout.Abort, layout.Share })
	ino := r.file("f", nil)
	want := func(c layout.OnClose, p layout.OnPass) {
		t.Helper()
		if gotC, gotP := r.OnClose(ino), r.OnPass(ino); gotC != c || gotP != p || r.Storage().(arbiter.OnCloser).OnClose(ino) != c {
			t.Errorf("on_close %v, on_pass %v; want %v, %v", gotC, gotP, c, p)
		}
		if r.Flushes(ino) != (c == layout.Block) {
			t.Errorf("closes are told: %v, with on_close %v", r.Flushes(ino), c)
		}
	}
	want(layout.Abort, layout.Share)
	r.setXattr(ino, "user.holdfast.on_close", "block")
	r.setXattr(ino, "user.holdfast.on_pass", "strict")
	want(layout.Block, layout.Strict)
	r.setXattr(ino, "user.holdfast.on_close", "transfer")
	want(layout.Transfer, layout.Strict)
	for _, name := range []string{"user.holdfast.on_close", "user.holdfast.on_pass"} {
		r.must(r.RemoveXattr(ctx, Caller{Admin: true}, ino, name))
	}
	want(layout.Abort, layout.Share)
}

// TestPolicyOfCallFileVolume: the call's word counts before the file's, and that before the volume's.
func TestPolicyOfCallFileVolume(t *testing.T) {
	const none = layout.OnHold(0)
	r := newRig(t, func(r *rig) { r.arbs.BreakTime, r.arbs.OnHold = time.Millisecond, layout.Revoke })
	for _, c := range []struct {
		call layout.OnHold
		file string
		want bool // done
	}{
		{none, "", true}, {none, "fail", false}, {layout.Fail, "", false}, {layout.Fail, "revoke", false}, {layout.Revoke, "fail", true},
	} {
		ino := r.file(fmt.Sprintf("f-%v-%s", c.call, c.file), make([]byte, block))
		if c.file != "" {
			r.setXattr(ino, onHold, c.file)
		}
		h := r.session(4711)
		x, _ := h.pin(h.lease(ino, rng(0, block), layout.Read), rng(0, block), layout.Read)
		_, err := r.SetAttr(ctx, Caller{OnHold: c.call, Wait: arbiter.WaitForever}, ino, SetAttr{Valid: SetSize})
		if c.want && err != nil || !c.want && !errors.Is(err, syscall.ETXTBSY) {
			t.Errorf("volume revoke, file %q, call %v: %v", c.file, c.call, err)
		}
		r.must(r.arb.CloseContext(ctx, x))
		r.arb.EndSession(h.id)
	}
}
