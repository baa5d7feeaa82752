package fs

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// clone makes a file of n blocks that say 'a', and another that shares all of them.
func (r *rig) clone(n int64) (ino, twin extent.Ino) {
	r.t.Helper()
	ino, twin = r.file("f", bytes.Repeat([]byte("a"), int(n*block))), r.file("twin", nil)
	k, err := r.CopyRange(ctx, Caller{}, ino, 0, twin, 0, n*block)
	r.must(err)
	if k != n*block || !r.shared(ino, rng(0, n*block)) || !r.shared(twin, rng(0, n*block)) {
		r.t.Fatalf("cloned %d bytes", k)
	}
	return ino, twin
}

func (r *rig) shared(ino extent.Ino, p extent.Range) bool {
	r.t.Helper()
	i := mustGet(r, ino)
	i.mu.RLock()
	defer i.mu.RUnlock()
	shared, err := i.n.Shared(p)
	r.must(err)
	return shared
}

// TestWriteToShared: a write to shared blocks gives the file others, and meets those
// who hold the range: pins refuse it if the other file is held as well, breakable leases are
// told.
func TestWriteToShared(t *testing.T) {
	for _, sums := range []bool{false, true} {
		t.Run(fmt.Sprintf("checksums=%v", sums), func(t *testing.T) { testWriteToShared(t, sums) })
	}
}

func testWriteToShared(t *testing.T, sums bool) {
	r := newRig(t, func(r *rig) { r.vopts.DataChecksums = sums })
	ino, twin := r.clone(4)
	h, other := r.session(4711), r.session(4712)
	l := h.lease(ino, rng(0, block), layout.Read)
	v := h.mmap(l, ino, rng(0, block), false)
	defer v.close()
	c, p := h.pin(l, rng(0, block), layout.Read)
	tl := other.lease(twin, rng(0, block), layout.Read)
	tc, _ := other.pin(tl, rng(0, block), layout.Read)
	for what, op := range map[string]func(c Caller) error{
		"write": func(c Caller) error { _, err := r.Write(ctx, c, ino, []byte("x"), 10, false, false); return err },
		"zero":  func(c Caller) error { return r.Reshape(ctx, c, ino, unix.FALLOC_FL_ZERO_RANGE, rng(0, 100)) },
		"unshare": func(c Caller) error {
			return r.Reshape(ctx, c, ino, unix.FALLOC_FL_UNSHARE_RANGE|unix.FALLOC_FL_KEEP_SIZE, rng(0, block))
		},
	} {
		wantErr(t, op(other.caller()), syscall.ETXTBSY, "%s under another's pin", what)
		wantErr(t, op(h.caller()), syscall.EDEADLK, "%s under an own pin", what)
	}
	if got := r.read(ino, 0, 20); got != string(bytes.Repeat([]byte("a"), 20)) {
		t.Errorf("it was refused but reads %q", got)
	}
	r.must(r.arb.CloseContext(ctx, tc))
	other.release(tl)
	// The twin's blocks are the same, and nobody holds the twin.
	r.write(twin, []byte("twin"), 0)
	r.write(ino, []byte("behind the pin"), block)
	if got := r.read(ino, 0, 4); got != "aaaa" {
		t.Errorf("a write to the twin shows: %q", got)
	}
	// Once that is durable, the blocks are the file's alone, and this is an overwrite.
	r.must(r.Fsync(ctx, twin, false))
	r.write(ino, []byte("mine"), 0)
	if string(v.at(0)[:4]) != "mine" {
		t.Errorf("the holder sees %q", v.at(0)[:4])
	}
	r.must(r.arb.Unpin(ctx, h.id, p))
	r.must(r.arb.CloseContext(ctx, c))
	h.release(l)
	// A breakable lease is asked for.
	l = h.lease(ino, rng(2*block, 3*block), layout.Read)
	_, err := r.Write(ctx, Caller{Wait: 1}, ino, []byte("x"), 2*block, false, false)
	wantErr(t, err, syscall.EAGAIN, "write to shared blocks under a lease")
	if ev := <-h.events; ev.Class != layout.Subtractive {
		t.Errorf("told: %+v", ev)
	}
	h.release(l)
	r.write(ino, []byte("x"), 2*block)
}

// TestWriteLeaseUnshares: who may write directly has blocks of his own, and what is
// cloned from them later is not his.
func TestWriteLeaseUnshares(t *testing.T) {
	r := newRig(t)
	ino, twin := r.clone(4)
	h := r.session(4711)
	l := h.lease(ino, rng(0, block), layout.Write)
	if r.shared(ino, rng(0, block)) || !r.shared(ino, rng(block, 4*block)) {
		t.Error("the leased block is shared, or others are not any more")
	}
	_, err := r.CopyRange(ctx, Caller{}, ino, 0, twin, 0, 4*block)
	r.must(err)
	if !r.shared(ino, rng(0, block)) {
		t.Error("nothing was cloned of what is not mapped")
	}
	v := h.mmap(l, ino, rng(0, block), true)
	defer v.close()
	if r.shared(ino, rng(0, block)) {
		t.Error("the mapped block is shared")
	}
	copy(v.at(0), "stored")
	_, err = r.CopyRange(ctx, Caller{}, ino, 0, twin, 0, 4*block)
	r.must(err)
	copy(v.at(0), "later!")
	r.must(r.Fsync(ctx, ino, false))
	if got := r.read(twin, 0, 7); got != "storeda" {
		t.Errorf("the clone says %q", got)
	}
	if r.shared(ino, rng(0, block)) {
		t.Error("what a holder reaches is shared")
	}
	h.release(l)
	if got := r.read(ino, 0, 7) + r.read(twin, 0, 7); got != "later!astoreda" {
		t.Errorf("after the release: %q", got)
	}
}

// TestCloneOver: what is cloned over gives its blocks up, as a punch would.
func TestCloneOver(t *testing.T) {
	r := newRig(t)
	ino, src := r.testFile("f"), r.file("src", bytes.Repeat([]byte("s"), 4*block))
	h := r.session(4711)
	h.pin(h.lease(ino, rng(0, block), layout.Read), rng(0, block), layout.Read)
	before := r.content(ino)
	_, err := r.CopyRange(ctx, Caller{}, src, 0, ino, 0, 4*block)
	wantErr(t, err, syscall.ETXTBSY, "clone over what is pinned")
	if !bytes.Equal(before, r.content(ino)) {
		t.Error("it was refused but changed something")
	}
	k, err := r.CopyRange(ctx, Caller{}, src, 0, ino, block, 2*block)
	if k != 2*block || err != nil || r.read(ino, block, 3) != "sss" {
		t.Errorf("clone beside the pin: %d, %v", k, err)
	}
	for _, c := range []struct {
		src, dst   extent.Ino
		off, at, n int64
		want       syscall.Errno
	}{
		{src, src, 0, block, 2 * block, syscall.EINVAL}, {src, ino, -1, 0, 1, syscall.EINVAL},
		{src, extent.RootIno, 0, 0, 1, syscall.EISDIR}, {extent.RootIno, ino, 0, 0, 1, syscall.EISDIR},
		{src, ino, 0, extent.MaxSize, 1, syscall.EFBIG},
	} {
		_, err := r.CopyRange(ctx, Caller{}, c.src, c.off, c.dst, c.at, c.n)
		wantErr(t, err, c.want, "copy of %+v", c)
	}
	if k, err := r.CopyRange(ctx, Caller{}, src, 4*block, ino, 0, block); k != 0 || err != nil {
		t.Errorf("copy from the end: %d, %v", k, err)
	}
}

// TestShiftMeets: what is behind a collapse or an insertion moves, so that holders of
// any of it are in its way; the caller's own windows come home.
func TestShiftMeets(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", append(bytes.Repeat([]byte("a"), 4*block), bytes.Repeat([]byte("b"), 4*block)...))
	h := r.session(4711)
	l := h.lease(ino, rng(6*block, 7*block), layout.Write)
	v := h.mmap(l, ino, rng(6*block, 7*block), true)
	defer v.close()
	c, p := h.pin(l, rng(6*block, 7*block), layout.Write)
	for what, mode := range map[string]uint32{"collapse": unix.FALLOC_FL_COLLAPSE_RANGE, "insert": unix.FALLOC_FL_INSERT_RANGE} {
		wantErr(t, r.Reshape(ctx, Caller{}, ino, mode, rng(0, block)), syscall.ETXTBSY, "%s before another's pin", what)
		wantErr(t, r.Reshape(ctx, h.caller(), ino, mode, rng(0, block)), syscall.EDEADLK, "%s before an own pin", what)
		wantErr(t, r.Reshape(ctx, Caller{}, ino, mode, rng(0, 100)), syscall.EINVAL, "%s of a part", what)
	}
	// What makes no sense is no reason to ask anybody.
	wantErr(t, r.Reshape(ctx, Caller{}, ino, unix.FALLOC_FL_COLLAPSE_RANGE, rng(6*block, 8*block)), syscall.EINVAL, "collapse to the end")
	wantErr(t, r.Reshape(ctx, Caller{}, ino, unix.FALLOC_FL_INSERT_RANGE, rng(0, extent.MaxSize)), syscall.EFBIG, "insertion of too much")
	r.must(r.arb.Unpin(ctx, h.id, p))
	r.must(r.arb.CloseContext(ctx, c))
	copy(v.at(6*block), "stored")
	r.must(r.Reshape(ctx, h.caller(), ino, unix.FALLOC_FL_COLLAPSE_RANGE, rng(block, 3*block)))
	if !v.dead(0) {
		t.Error("the window is there still")
	}
	if got := r.read(ino, 4*block, 7); got != "storedb" || r.attr(ino).Size != 6*block {
		t.Errorf("%d bytes, %q", r.attr(ino).Size, got)
	}
	r.must(r.Reshape(ctx, h.caller(), ino, unix.FALLOC_FL_INSERT_RANGE, rng(0, 2*block)))
	if got := r.read(ino, 6*block, 7); got != "storedb" || r.read(ino, 0, 2) != "\x00\x00" {
		t.Errorf("after the insertion: %q", got)
	}
	h.release(l)
}

// TestZeroRangeMeets: zeros are a write like any other: they go through windows, and
// only an exclusive lease refuses to fill a hole.
func TestZeroRangeMeets(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte("a"), 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 2*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 2*block), true)
	defer v.close()
	h.pin(l, rng(0, 2*block), layout.Write)
	r.must(r.Reshape(ctx, Caller{}, ino, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, rng(0, 3*block)))
	if v.at(0)[0] != 0 || v.at(block)[0] != 0 || r.read(ino, 3*block-1, 2) != "\x00a" {
		t.Error("not zeros, or too many")
	}
	x := r.session(4712)
	x.acquire(arbiter.AcquireRequest{File: ino, Range: rng(8*block, 9*block), Access: layout.Read, Mode: layout.Exclusive})
	wantErr(t, r.Reshape(ctx, Caller{}, ino, unix.FALLOC_FL_ZERO_RANGE, rng(8*block, 9*block)), syscall.ETXTBSY, "zeros into a hole under an exclusive lease")
}
