package volume

import (
	"bytes"
	"errors"
	"slices"
	"syscall"
	"testing"

	"holdfast/extent"
)

// numbered makes a file of n extents, each of which says its number, with holes
// between.
func (r *rig) numbered(name string, n int) *Inode {
	f := r.create(name)
	for i := range int64(n) {
		must(r.t, f.Write(fill(byte(i%60+1), extent.BlockSize), i*2*extent.BlockSize))
	}
	r.sync(f)
	return f
}

// TestShiftRestarts cuts a collapse and an insertion off after each of their
// batches: the next open goes on where it was.
func TestShiftRestarts(t *testing.T) {
	const extents, k = 150, 5 * extent.BlockSize
	type op struct {
		do   func(n *Inode) error
		want func(old []byte) []byte
	}
	collapse := func(r extent.Range) op {
		return op{
			func(n *Inode) error { return n.Collapse(r) },
			func(old []byte) []byte { return slices.Delete(old, int(r.Off), int(r.End)) },
		}
	}
	insert := func(r extent.Range) op {
		return op{
			func(n *Inode) error { return n.Insert(r) },
			func(old []byte) []byte { return slices.Insert(old, int(r.Off), make([]byte, r.Len())...) },
		}
	}
	for name, o := range map[string]op{
		"collapse a little": collapse(extent.Range{Off: k, End: k + extent.BlockSize}),
		"collapse much":     collapse(extent.Range{Off: k, End: k + 201*extent.BlockSize}),
		"collapse the head": collapse(extent.Range{Off: 0, End: 8 * extent.BlockSize}),
		"insert a little":   insert(extent.Range{Off: k - extent.BlockSize, End: k}),
		"insert much":       insert(extent.Range{Off: k, End: k + 200*extent.BlockSize}),
		"insert at the end": insert(extent.Range{Off: 296 * extent.BlockSize, End: 300 * extent.BlockSize}),
	} {
		t.Run(name, func(t *testing.T) {
			for after := 0; ; after++ {
				r := newRig(t, dataStart+4*mib)
				n := r.numbered("f", extents)
				twin := r.create("twin") // what moves is shared
				r.clone(n, 0, n.Attr.Size, twin, 0)
				old := r.read(n)
				want := o.want(bytes.Clone(old))
				r.v.st = sealed(&faultStore{r.st, after})
				err := o.do(n)
				if err != nil && !errors.Is(err, syscall.EIO) {
					t.Fatal(err)
				}
				if err == nil {
					if !bytes.Equal(r.read(n), want) {
						t.Fatal("not what was wanted")
					}
					// It was durable when it returned.
					if err := n.Write(fill('x', int(n.Attr.Size)), 0); err != nil {
						t.Fatal(err)
					}
				} else {
					must(t, r.st.Sync())
				}
				r.powerCut()
				sum := r.check()
				got := r.read(r.load(n.Ino))
				if err == nil && !bytes.Equal(got, want) || !bytes.Equal(got, want) && (!bytes.Equal(got, old) || after > 0) {
					t.Fatalf("after %d batches: neither the old nor the new: %d bytes", after, len(got))
				}
				if !bytes.Equal(r.read(r.load(twin.Ino)), old) {
					t.Fatalf("after %d batches: the twin is another", after)
				}
				if i := r.v.Info(); i.Free != i.Total-sum.Used || i.Shared != sum.Shared {
					t.Fatalf("%+v, found %+v", i, sum)
				}
				if err == nil {
					return
				}
			}
		})
	}
}

// TestShiftInPlace: what is overwritten after a shift is not found, after a crash,
// where its block was before.
func TestShiftInPlace(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	n := r.numbered("f", 10)
	must(t, n.Collapse(extent.Range{Off: 0, End: 8192}))
	if i := r.v.Info(); i.Free+i.Ahead != i.Total-9*extent.BlockSize {
		t.Fatalf("what was taken out is not free: %+v", i)
	}
	want := r.read(n)
	must(t, n.Overwrite(fill('x', 4096), 0))
	copy(want, fill('x', 4096))
	r.powerCut()
	if got := r.read(r.load(n.Ino)); !bytes.Equal(got, want) {
		t.Fatal("the file is as it was, with bytes in the wrong place")
	}
}

// TestShiftRefused: what cannot be shifted is refused and changes nothing.
func TestShiftRefused(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	n := r.numbered("f", 10)
	want := r.read(n)
	rng := func(off, end int64) extent.Range { return extent.Range{Off: off, End: end} }
	for what, c := range map[string]struct{ got, want error }{
		"collapse of a part":       {n.Collapse(rng(0, 100)), syscall.EINVAL},
		"collapse from a part":     {n.Collapse(rng(100, 4096)), syscall.EINVAL},
		"collapse of nothing":      {n.Collapse(rng(4096, 4096)), syscall.EINVAL},
		"collapse to the end":      {n.Collapse(rng(0, n.Attr.Size)), syscall.EINVAL},
		"insertion of a part":      {n.Insert(rng(0, 100)), syscall.EINVAL},
		"insertion behind the end": {n.Insert(rng(n.Attr.Size, n.Attr.Size+4096)), syscall.EINVAL},
		"insertion of too much":    {n.Insert(rng(0, extent.MaxSize)), syscall.EFBIG},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v", what, c.got)
		}
	}
	must(t, n.Allocate(rng(extent.MaxSize-4096, extent.MaxSize), true))
	if err := n.Insert(rng(0, 4096)); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("insertion before blocks at the very end: %v", err)
	}
	must(t, n.Punch(rng(extent.MaxSize-4096, extent.MaxSize)))
	seg, err := r.v.NewSegment()
	must(t, err)
	must(t, r.v.AttachSegment(seg, make(memSegment, 4096)))
	must(t, n.Isolate(rng(16384, 20480), extent.Addr{Seg: seg}))
	if err := n.Collapse(rng(4096, 8192)); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("collapse before a window: %v", err)
	}
	must(t, n.Home(rng(16384, 20480)))
	if !bytes.Equal(r.read(n), want) {
		t.Error("something has changed")
	}
}

// TestZeroRange: whole blocks stay and become unwritten, without I/O; shared ones are
// replaced; the edges are zeroed.
func TestZeroRange(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill('a', mib), 0))
	r.clone(a, 0, mib/2, b, 0)
	where, err := a.Allocated()
	must(t, err)
	must(t, a.ZeroRange(extent.Range{Off: 100, End: mib - 100}, true))
	want := fill('a', mib)
	clear(want[100 : mib-100])
	r.sync(a)
	if got := r.read(a); !bytes.Equal(got, want) || !bytes.Equal(r.read(b), fill('a', mib/2)) {
		t.Fatal("wrong bytes")
	}
	if now, err := a.Allocated(); err != nil || now != where {
		t.Fatalf("%d bytes allocated, %d before (%v)", now, where, err)
	}
	if i := r.v.Info(); i.Shared != 0 || i.Free != i.Total-mib-mib/2 {
		t.Fatalf("%+v", i)
	}
	r.sync(b)
	r.reopen()
	r.check()
	if !bytes.Equal(r.read(r.load(a.Ino)), want) || !bytes.Equal(r.read(r.load(b.Ino)), fill('a', mib/2)) {
		t.Fatal("wrong bytes after reopening")
	}
	b = r.load(b.Ino)
	must(t, b.ZeroRange(extent.Range{Off: mib / 2, End: mib}, false))
	if b.Attr.Size != mib {
		t.Fatalf("size %d", b.Attr.Size)
	}
	must(t, b.Truncate(mib/2))
	must(t, b.Allocate(extent.Range{Off: 0, End: 2 * mib}, true))
	if err := b.ZeroRange(extent.Range{Off: 0, End: 4 * mib}, false); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if !bytes.Equal(r.read(b), fill('a', mib/2)) {
		t.Fatal("it failed but changed something")
	}
}
