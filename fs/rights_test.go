package fs

import (
	"testing"

	"holdfast/arbiter"
	"holdfast/layout"
)

// TestRightsAreLookedAtOnce: who has a lease keeps it, with all that it lets him do, when the file is given to somebody else and nobody
// may read or write it any more.
func TestRightsAreLookedAtOnce(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	_, err := r.SetAttr(ctx, Caller{Admin: true}, ino, SetAttr{Valid: SetUID | SetGID | SetMode, UID: 2000, GID: 2000})
	r.must(err)
	if ls := r.arb.Leases(arbiter.Filter{File: ino}); len(ls) != 1 || ls[0].Access != layout.Write || ls[0].State != layout.StateGranted || len(h.events) != 0 {
		t.Errorf("leases %+v, %d events", ls, len(h.events))
	}
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	copy(v.at(block), "still his")
	r.must(r.Commit(ctx, l, ino, rng(0, 4*block), -1))
	h.release(l)
	if got := r.read(ino, block, 9); got != "still his" {
		t.Errorf("content %q", got)
	}
}
