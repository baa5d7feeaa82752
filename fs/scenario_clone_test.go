package fs

import (
	"bytes"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/layout"
)

// TestScenario11Clones: a pin on a file never blocks its clones, nor they it. What is under a
// write pin is copied, not shared; a write to what is shared and pinned gives the others the
// copy, and the pin keeps its blocks.
func TestScenario11Clones(t *testing.T) {
	r := newRig(t)
	ino, twin := r.clone(8)
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Read)
	v := h.mmap(l, ino, rng(0, 4*block), false)
	defer v.close()
	h.pin(l, rng(0, 4*block), layout.Read)
	at := r.addrs(ino)
	for name, c := range map[string]Caller{"another": {}, "its holder": h.caller()} {
		off := int64(1)
		if c.Session != 0 {
			off = 2
		}
		_, err := r.Write(ctx, c, ino, []byte("new"), off*block, false, false)
		if err != nil {
			t.Fatalf("a write by %s to what is shared and pinned: %v", name, err)
		}
		if got := string(v.at(off * block)[:3]); got != "new" {
			t.Errorf("the holder sees %q", got)
		}
	}
	if now := r.addrs(ino); now[1] != at[1] || now[2] != at[2] {
		t.Errorf("the pinned blocks %v are at %v", at[1:3], now[1:3])
	}
	if !bytes.Equal(r.content(twin), bytes.Repeat([]byte("a"), 8*block)) || r.shared(ino, rng(block, 3*block)) || !r.shared(ino, rng(4*block, 8*block)) {
		t.Error("the clone has changed, or shares what was written")
	}
	// The clone is written to: its own affair.
	r.write(twin, []byte("x"), 0)
	// Both are pinned: then one must yield, and neither does.
	o := r.session(4712)
	o.pin(o.lease(twin, rng(3*block, 4*block), layout.Read), rng(3*block, 4*block), layout.Read)
	wantErr(t, second(r.Write(ctx, Caller{}, ino, []byte("x"), 3*block, false, false)), syscall.ETXTBSY, "a write under the pins of both")
	// A source under a write pin is copied.
	w := r.file("w", bytes.Repeat([]byte("w"), 4*block))
	wl := h.lease(w, rng(0, 4*block), layout.Write)
	wv := h.mmap(wl, w, rng(0, 4*block), true)
	defer wv.close()
	h.pin(wl, rng(0, 4*block), layout.Write)
	copyOf := r.file("copy", nil)
	if n, err := r.CopyRange(ctx, Caller{}, w, 0, copyOf, 0, 4*block); n != 4*block || err != nil {
		t.Fatal(n, err)
	}
	copy(wv.at(0), "late")
	if r.shared(w, rng(0, 4*block)) || !bytes.Equal(r.content(copyOf), bytes.Repeat([]byte("w"), 4*block)) {
		t.Error("the copy has blocks that a device writes to")
	}
	// Who pins for writing has blocks of his own.
	tl := o.lease(twin, rng(5*block, 6*block), layout.Write)
	o.pin(tl, rng(5*block, 6*block), layout.Write)
	if r.shared(twin, rng(5*block, 6*block)) || !r.shared(twin, rng(6*block, 8*block)) {
		t.Error("a pin for writing reaches the other file")
	}
	r.must(r.Fsync(ctx, ino, false))
	want := map[extent.Ino][]byte{ino: r.content(ino), twin: r.content(twin)}
	r.reopen()
	for i, w := range want {
		if !bytes.Equal(r.content(i), w) {
			t.Errorf("inode %d differs after a restart", i)
		}
	}
}

// TestScenario12Unlink: the name of a pinned file goes at once, its space when the last pin
// does.
func TestScenario12Unlink(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 1<<20))
	r.must(r.Fsync(ctx, ino, false))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 1<<20), layout.Write)
	v := h.mmap(l, ino, rng(0, 1<<20), true)
	defer v.close()
	c, _ := h.pin(l, rng(0, 1<<20), layout.Write)
	h.release(l)
	free := r.vol.Statfs().Free
	r.must(r.Unlink(ctx, Caller{}, root, "f"))
	r.Forget(ino, 1)
	r.must(r.Sync(ctx))
	if got := r.vol.Statfs(); got.Free > free || got.Orphaned != 0 {
		t.Errorf("under the pin %+v, %d were free", got, free)
	}
	copy(v.at(0), "goes on")
	r.must(r.arb.CloseContext(ctx, c))
	r.must(r.Sync(ctx))
	if got := r.vol.Statfs().Free; got < free+1<<20 {
		t.Errorf("%d bytes are free after the pin, %d were", got, free)
	}
	if !v.dead(0) {
		t.Error("the window outlives the pin")
	}
}
