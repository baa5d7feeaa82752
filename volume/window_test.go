package volume

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"holdfast/extent"
)

// TestWindowOverHole: a hole in a window has no blocks until somebody writes there, the
// window is where the writer's bytes are, and the rest is a hole afterwards.
func TestWindowOverHole(t *testing.T) {
	const block = extent.BlockSize
	r := newRig(t, dataStart+64*block)
	n := r.create("f")
	must(t, n.Write(fill(1, block), 0))
	must(t, n.Truncate(64*block))
	free := r.v.Statfs().Free
	seg, err := r.v.NewSegment()
	must(t, err)
	mem := make(memSegment, 64*block)
	copy(mem, fill(1, block))
	must(t, r.v.AttachSegment(seg, mem))
	must(t, n.Isolate(extent.Range{Off: 0, End: 64 * block}, extent.Addr{Seg: seg}))
	if got := r.v.Statfs().Free; got != free {
		t.Errorf("the window took %d bytes", free-got)
	}
	for _, p := range []extent.Range{{Off: 0, End: block}, {Off: 9 * block, End: 10 * block}, {Off: 63 * block, End: 70 * block}} {
		if err := n.Isolate(p, extent.Addr{Seg: seg}); !errors.Is(err, ErrIsolated) {
			t.Errorf("isolate %v again: %v", p, err)
		}
	}
	if err := n.WriteHome(make([]byte, 2*block), 63*block); !errors.Is(err, ErrUnmapped) {
		t.Errorf("write home of a hole behind the window: %v", err)
	}

	copy(mem[10*block:], "somebody's") // who maps another part of the window
	if err := n.Write(make([]byte, 100*block), 10*block); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write of more than there is: %v", err)
	}
	if got := r.v.Statfs().Free; got != free {
		t.Errorf("a write that failed took %d bytes", free-got)
	}
	must(t, n.Write([]byte("written"), 10*block+100))
	want := make([]byte, 64*block)
	copy(want, fill(1, block))
	copy(want[10*block+100:], "written")
	if got := r.read(n); !bytes.Equal(got, want) || !bytes.Equal(mem, want) {
		t.Error("content or window are not what was written, or the window shows what was there before")
	}
	must(t, n.WriteHome(bytes.Clone(mem), 0))
	must(t, n.Home(extent.Range{Off: 0, End: 64 * block}))
	r.v.DetachSegment(seg)
	must(t, n.Write([]byte("x"), 20*block)) // no window is there any more
	want[20*block] = 'x'
	r.sync(n)
	r.reopen()
	r.check()
	n = r.load(n.Ino)
	if got := r.read(n); !bytes.Equal(got, want) {
		t.Error("content differs after a restart")
	}
	if a, err := n.Allocated(); err != nil || a != 3*block {
		t.Errorf("%d bytes allocated for 3 blocks (%v)", a, err)
	}
}

// TestWindowLost: when a window's content is lost before it was ever written back, the
// blocks that its hole got are the file's all the same, and not lost with it.
func TestWindowLost(t *testing.T) {
	const block = extent.BlockSize
	r := newRig(t, dataStart+64*block)
	n := r.create("f")
	must(t, n.Truncate(4*block))
	seg, err := r.v.NewSegment()
	must(t, err)
	must(t, r.v.AttachSegment(seg, make(memSegment, 4*block)))
	all := extent.Range{Off: 0, End: 4 * block}
	must(t, n.Isolate(all, extent.Addr{Seg: seg}))
	must(t, n.Write([]byte("lost"), block))
	must(t, n.Home(all))
	r.v.DetachSegment(seg)
	r.sync(n)
	n = r.load(n.Ino) // as who finds that it is not in memory any more
	if a, err := n.Allocated(); err != nil || a != block {
		t.Errorf("the store knows %d bytes of the block that was written (%v)", a, err)
	}
	if got := r.read(n); !bytes.Equal(got, make([]byte, 4*block)) {
		t.Errorf("content is %q", got)
	}
	must(t, r.v.SyncStore(t.Context()))
	if i := r.v.Info(); i.Free+block != i.Total {
		t.Errorf("one block is used, but %+v", i)
	}
}
