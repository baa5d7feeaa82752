package fs

import (
	"bytes"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// hold takes a hold past the arbiter, as it will when it defers.
func (r *rig) hold(ino extent.Ino, off, n int64) uint64 {
	r.t.Helper()
	id, err := r.Storage().Hold(ino, rng(off*block, (off+n)*block), 42)
	r.must(err)
	return id
}

// TestScenario13Defer: a truncate succeeds over what somebody reaches directly: his window
// and the blocks under it are his until his hold ends, and nobody else's.
func TestScenario13Defer(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte("a"), 16*block))
	r.must(r.Fsync(ctx, ino, false))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 16*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 16*block), true)
	defer v.close()
	hold := r.hold(ino, 4, 8)
	copy(v.at(3*block), "before")
	copy(v.at(5*block), "before")
	free := r.vol.Statfs().Free
	r.must(r.Storage().Orphan(ino, hold, rng(4*block, 12*block)))
	// A refused change alters nothing: until it is done the file is as it was.
	if got := r.read(ino, 5*block, 6); got != "before" {
		t.Errorf("the file reads %q", got)
	}
	copy(v.at(6*block), "after")
	if got := r.read(ino, 6*block, 5); got != "aaaaa" {
		t.Errorf("the file reads %q, stored by who has no part in it any more", got)
	}
	_, err := r.SetAttr(ctx, h.caller(), ino, SetAttr{Valid: SetSize, Size: 4 * block})
	r.must(err)
	r.write(ino, bytes.Repeat([]byte("new"), 5*block), 4*block)
	r.must(r.Fsync(ctx, ino, false))
	if got := string(v.at(5 * block)[:6]); got != "before" {
		t.Errorf("the holder sees %q", got)
	}
	copy(v.at(5*block), "late")
	if got := r.read(ino, 5*block, 4); got == "late" {
		t.Error("a late store is in the file")
	}
	list := r.Orphans()
	if len(list) != 1 || list[0].Len != 8*block || list[0].UID != 42 || list[0].File != ino || list[0].Path != "/f" || len(list[0].Holds) != 1 {
		t.Errorf("orphans: %+v", list)
	}
	if s := r.vol.Statfs(); s.Orphaned != 8*block || s.Free > free {
		t.Errorf("%+v, %d were free", s, free)
	}
	h.release(l)
	if v.dead(0) {
		t.Error("the holder's memory went before his hold")
	}
	r.Storage().Unhold(hold)
	if !v.dead(0) || r.windowBytes.Load() != 0 {
		t.Errorf("the window outlives the hold: %d bytes", r.windowBytes.Load())
	}
	r.must(r.Sync(ctx))
	if s := r.vol.Statfs(); s.Orphaned != 0 {
		t.Errorf("%+v", s)
	}
}

// TestOrphanOfTwo: what two holds keep of a window stays until both have ended, also when
// the file is gone.
func TestOrphanOfTwo(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte("a"), 16*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 16*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 16*block), true)
	defer v.close()
	a, b := r.hold(ino, 0, 8), r.hold(ino, 4, 8)
	r.must(r.Storage().Orphan(ino, a, rng(0, 8*block)))
	r.must(r.Storage().Orphan(ino, b, rng(4*block, 12*block)))
	h.release(l)
	r.must(r.Unlink(ctx, Caller{}, r.root.ino, "f"))
	r.Forget(ino, 1)
	r.Storage().Unhold(a)
	for off, want := range map[int64]byte{0: 0, 3 * block: 0, 4 * block: 'a', 11 * block: 'a', 12 * block: 0} {
		if got := v.at(off)[0]; got != want {
			t.Errorf("at %d the holder sees %q, want %q", off, got, want)
		}
	}
	r.Storage().Unhold(b)
	if !v.dead(0) {
		t.Error("the window outlives its holds")
	}
}

// TestOrphanRefused: past the limit nothing has changed.
func TestOrphanRefused(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opened.MaxOrphaned = 4 * block })
	ino := r.file("f", bytes.Repeat([]byte("a"), 16*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 16*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 16*block), true)
	defer v.close()
	hold := r.hold(ino, 0, 8)
	wantErr(t, r.Storage().Orphan(ino, hold, rng(0, 8*block)), syscall.ENOSPC, "eight blocks of four")
	copy(v.at(0), "still")
	if got := r.read(ino, 0, 5); got != "still" {
		t.Errorf("the mount reads %q", got)
	}
	r.must(r.Storage().Orphan(ino, hold, rng(0, 4*block)))
	r.Storage().Unhold(hold)
}

// TestSpaceOfOrphans: before there is no space, who keeps orphans is asked, and waited for.
func TestSpaceOfOrphans(t *testing.T) {
	for name, gives := range map[string]bool{"given back": true, "kept": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				var r *rig
				asked := 0
				r = makeRig(t, dir, func(r *rig) {
					r.size = 3 << 20
					r.opened.MaxOrphaned = 1 << 20
					r.opts.OnSpace = func(holds []uint64) {
						asked++
						if gives {
							go func() {
								time.Sleep(time.Second / 2) // of the bubble
								for _, id := range holds {
									r.Storage().Unhold(id)
								}
							}()
						}
					}
				})
				defer r.finish()
				ino := r.file("f", make([]byte, 1<<20))
				hold := r.hold(ino, 0, 256)
				r.must(r.Storage().Orphan(ino, hold, rng(0, 1<<20)))
				r.must(r.Truncate(ctx, Caller{}, ino, 0))
				p := make([]byte, 3<<19)
				n, err := r.Write(ctx, Caller{}, ino, p, 0, false, false)
				if asked != 1 || err != nil || (n == len(p)) != gives {
					t.Errorf("asked %d times, then %d bytes of %d, %v", asked, n, len(p), err)
				}
				if !gives {
					_, err := r.Write(ctx, Caller{}, ino, p, int64(n), false, false)
					wantErr(t, err, syscall.ENOSPC, "a write without space")
				}
				r.Storage().Unhold(hold)
			})
		})
	}
}
