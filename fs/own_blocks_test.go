package fs

import (
	"bytes"
	"syscall"
	"testing"

	"holdfast/arbiter"
	"holdfast/layout"
)

// TestWriteLeaseNeedsSpace: who would write directly to shared blocks needs room for others, when he asks for the lease and when he maps it;
// without it he has no lease, and nothing has changed.
func TestWriteLeaseNeedsSpace(t *testing.T) {
	r := newRig(t)
	ino, twin := r.clone(4)
	h := r.session(4711)
	l := h.lease(ino, rng(2*block, 4*block), layout.Write) // while there is room
	_, err := r.CopyRange(ctx, Caller{}, ino, 0, twin, 0, 4*block)
	r.must(err)
	r.must(r.Sync(ctx))
	r.must(r.Fallocate(ctx, Caller{}, r.file("hog", nil), 0, 0, r.vol.Statfs().Free))
	_, err = r.arb.Acquire(ctx, h.id, arbiter.AcquireRequest{File: ino, Range: rng(0, 2*block), Access: layout.Write}, h)
	wantErr(t, err, syscall.ENOSPC, "a lease for writing on a full volume")
	if n := len(r.arb.Leases(arbiter.Filter{File: ino})); n != 1 {
		t.Errorf("%d leases", n)
	}
	_, err = r.Map(ctx, l, ino, rng(2*block, 4*block), true)
	wantErr(t, err, syscall.ENOSPC, "its mapping, cloned since")
	if !r.shared(ino, rng(0, 4*block)) || !bytes.Equal(r.content(twin), bytes.Repeat([]byte("a"), 4*block)) {
		t.Error("something has changed")
	}
	h.release(l)
}

// TestUnbreakableKeepsShared: a write to shared blocks under an unbreakable lease goes where they are, the clone gets copies, and nobody
// is asked. What is foreseen does not look at the other file.
func TestUnbreakableKeepsShared(t *testing.T) {
	r := newRig(t)
	ino, twin := r.clone(4)
	h := r.session(4711)
	l := h.acquire(arbiter.AcquireRequest{File: ino, Range: rng(0, 4*block), Access: layout.Read, Unbreakable: true})
	at := r.addrs(ino)
	class, err := r.Class(ctx, ino, rng(0, block))
	if _, errno := r.arb.Would(arbiter.Caller{}, ino, rng(0, block), class); err != nil || errno != syscall.ETXTBSY {
		t.Errorf("foreseen: %v, %v of class %v", errno, err, class)
	}
	r.write(ino, []byte("new"), 10)
	if now := r.addrs(ino); now[0] != at[0] {
		t.Errorf("the block was at %d and is at %d", at[0], now[0])
	}
	if got := r.read(twin, 10, 3); got != "aaa" || len(h.events) != 0 {
		t.Errorf("the clone reads %q, the holder was told %d times", got, len(h.events))
	}
	// Those of the other are held, too.
	o := r.session(4712)
	tl := o.acquire(arbiter.AcquireRequest{File: twin, Range: rng(block, 2*block), Access: layout.Read, Unbreakable: true})
	wantErr(t, second(r.Write(ctx, Caller{}, ino, []byte("x"), block, false, false)), syscall.ETXTBSY, "under both")
	if _, errno := r.arb.Would(arbiter.Caller{}, ino, rng(block, 2*block), class); errno != syscall.ETXTBSY {
		t.Errorf("foreseen: %v", errno)
	}
	o.release(tl)
	h.release(l)
}

// TestSharedBlocksAreCounted once by statfs, and in each file by stat.
func TestSharedBlocksAreCounted(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte("a"), 64*block))
	twin := r.file("twin", nil)
	r.must(r.Sync(ctx))
	free := r.vol.Statfs().Free
	_, err := r.CopyRange(ctx, Caller{}, ino, 0, twin, 0, 64*block)
	r.must(err)
	r.must(r.Sync(ctx))
	if got := r.vol.Statfs().Free; got != free {
		t.Errorf("a clone took %d bytes", free-got)
	}
	if a, b := r.attr(ino), r.attr(twin); a.Blocks != 64*block/512 || b.Blocks != a.Blocks {
		t.Errorf("%d and %d sectors", a.Blocks, b.Blocks)
	}
}

// TestSummedOverwriteMeetsNobody: on a volume with checksums an overwrite gets new blocks, and is no more than an overwrite to who has the
// range leased.
func TestSummedOverwriteMeetsNobody(t *testing.T) {
	r := newRig(t, withSums)
	ino := r.file("f", bytes.Repeat([]byte("a"), 4*block))
	r.must(r.Fsync(ctx, ino, false))
	h := r.session(4711)
	h.acquire(arbiter.AcquireRequest{File: ino, Range: rng(0, 4*block), Access: layout.Read, Unbreakable: true})
	at := r.addrs(ino)
	if class, err := r.Class(ctx, ino, rng(block, 2*block)); class != layout.None || err != nil {
		t.Errorf("class %v, %v", class, err)
	}
	r.write(ino, bytes.Repeat([]byte("b"), block), block)
	if now := r.addrs(ino); now[1] == at[1] || now[0] != at[0] {
		t.Errorf("blocks were at %v, are at %v", at, now)
	}
	if len(h.events) != 0 {
		t.Errorf("the holder was told %+v", <-h.events)
	}
}
