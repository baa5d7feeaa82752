package fs

import (
	"bytes"
	"testing"

	"holdfast/extent"
	"holdfast/layout"
)

// TestView: a view is what Read reads, where all of that lies on the device, and
// none where it does not.
func TestView(t *testing.T) {
	r := newRig(t)
	want := bytes.Repeat([]byte("holdfast"), 3*block/8)
	ino := r.file("f", want)
	r.write(ino, want[:block], 4*block) // behind a hole
	none := func(ino extent.Ino, off, n int64, what string) {
		t.Helper()
		if v := r.View(ino, off, n); v != nil {
			v.Close()
			t.Error("a view of", what)
		}
	}
	none(ino, 100, 1<<20, "a hole")
	v := r.View(ino, 100, 2*block)
	if v == nil {
		t.Fatal("no view of written blocks")
	}
	if got := bytes.Join(v.Pieces(), nil); v.Size() != 2*block || !bytes.Equal(got, want[100:100+2*block]) {
		t.Errorf("a view of %d bytes differs at %d", v.Size(), firstDiff(got, want[100:]))
	}
	v.Close()
	if v = r.View(ino, 4*block+10, 1<<20); v == nil || v.Size() != block-10 { // to the end of file
		t.Fatalf("%+v", v)
	}
	v.Close()
	none(ino, 5*block, block, "what is behind the end")
	none(ino, -1, block, "what is before the beginning")
	none(extent.RootIno, 0, block, "a directory")
	none(4711, 0, block, "no file")
	r.must(r.Fallocate(ctx, Caller{}, ino, 0, 3*block, block))
	none(ino, 3*block, block, "blocks that were never written")
	h := r.session(4711)
	l := h.lease(ino, rng(0, block), layout.Write)
	m := h.mmap(l, ino, rng(0, block), true)
	defer m.close()
	none(ino, 0, 2*block, "the device where there is a window")
	if v = r.View(ino, block, block); v == nil {
		t.Fatal("no view beside a window")
	}
	v.Close()
	h.release(l)
}

// TestViewHolds: no mapping changes under a view, so none of its blocks can become
// another file's.
func TestViewHolds(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 8*block))
	v := r.View(ino, 0, 8*block)
	if v == nil {
		t.Fatal("no view")
	}
	if i := r.cached(ino); i.mu.TryLock() {
		t.Error("the mapping could be changed")
		i.mu.Unlock()
	}
	v.Close()
	if i := r.cached(ino); !i.mu.TryLock() {
		t.Error("the mapping cannot be changed after the view")
	} else {
		i.mu.Unlock()
	}
}
