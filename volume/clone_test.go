package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/internal/sim"
)

func (r *rig) clone(src *Inode, off, end int64, dst *Inode, at int64) {
	r.t.Helper()
	must(r.t, r.v.Clone(src, extent.Range{Off: off, End: end}, dst, at))
}

// striped makes a file of n extents with holes between, which all say b.
func (r *rig) striped(name string, n int, b byte) *Inode {
	f := r.create(name)
	for i := range int64(n) {
		must(r.t, f.Write(fill(b, extent.BlockSize), i*2*extent.BlockSize))
	}
	r.sync(f)
	return f
}

// TestCloneCostsNothing: a clone takes no blocks, is the same bytes, and blocks are
// free when the last file that has them gives them up, and that is durable.
func TestCloneCostsNothing(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	a, b, c := r.create("a"), r.create("b"), r.create("c")
	must(t, a.Write(fill('a', 2*mib+100), 0))
	before := r.v.Info()
	r.clone(a, 0, 2*mib+100, b, 0)
	r.clone(b, mib, 2*mib, c, 4096)
	r.clone(b, 0, 2*mib, a, 0) // what they have together already
	i := r.v.Info()
	if i.Free != before.Free || i.Shared != 2*mib+4096 {
		t.Fatalf("before %+v, after %+v", before, i)
	}
	for n, want := range map[*Inode][]byte{
		a: fill('a', 2*mib+100), b: fill('a', 2*mib+100), c: append(make([]byte, 4096), fill('a', mib)...),
	} {
		if !bytes.Equal(r.read(n), want) {
			t.Fatalf("inode %d: %d bytes, or others", n.Ino, n.Attr.Size)
		}
	}
	r.sync(b)
	r.sync(c)
	r.reopen()
	if s := r.check(); s.Shared != 2*mib+4096 || s.Used != 2*mib+4096 {
		t.Fatalf("%+v", s)
	}
	if j := r.v.Info(); j.Shared != i.Shared || j.Free != j.Total-2*mib-4096 {
		t.Fatalf("opened again: %+v", j)
	}
	a, b, c = r.load(a.Ino), r.load(b.Ino), r.load(c.Ino)
	must(t, a.Write(fill('x', 4096), mib))
	if !bytes.Equal(r.read(b), fill('a', 2*mib+100)) {
		t.Fatal("a write shows in the clone")
	}
	must(t, a.Truncate(0))
	must(t, b.Punch(extent.Range{Off: 0, End: mib}))
	if i := r.v.Info(); i.Busy != mib || i.Free != i.Total-2*mib-4096 {
		t.Fatalf("the first megabyte is nobody's, the second is: %+v", i)
	}
	must(t, b.Truncate(0))
	must(t, r.v.SyncStore(context.Background()))
	if i := r.v.Info(); i.Shared != 0 || i.Free != i.Total-mib {
		t.Fatalf("the second megabyte is of one: %+v", i)
	}
	// What only one has is overwritten where it is.
	where := extentsOf(t, c)
	must(t, c.Write(fill('c', mib), 4096))
	if extentsOf(t, c) != where {
		t.Fatalf("%s became %s", where, extentsOf(t, c))
	}
	must(t, c.Truncate(0))
	must(t, r.v.SyncStore(context.Background()))
	if i := r.v.Info(); i.Free != i.Total {
		t.Fatalf("%+v", i)
	}
	r.check()
}

// TestCloneRestarts cuts a clone of many extents over many others off after each of
// its batches: it is there wholly or not at all.
func TestCloneRestarts(t *testing.T) {
	const extents = 100
	end := int64(2*extents-1) * extent.BlockSize
	at := int64(3 * extent.BlockSize)
	for after := 0; ; after++ {
		r := newRig(t, dataStart+4*mib)
		a, b := r.striped("a", extents, 'a'), r.striped("b", extents, 'b')
		old, src := r.read(b), r.read(a)
		want := append(bytes.Clone(old[:at]), src...)
		r.v.st = sealed(&faultStore{r.st, after})
		err := r.v.Clone(a, extent.Range{Off: 0, End: end}, b, at)
		if err == nil {
			if after < 6 {
				t.Fatalf("done in %d batches", after)
			}
			must(t, r.st.Sync())
			r.powerCut()
			if got := r.read(r.load(b.Ino)); !bytes.Equal(got, want) {
				t.Fatal("not what was cloned")
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		must(t, r.st.Sync())
		r.powerCut()
		sum := r.check()
		if got := r.read(r.load(b.Ino)); !bytes.Equal(got, want) && !bytes.Equal(got, old) {
			t.Fatalf("after %d batches: neither the old nor the new", after)
		} else if cloned := sum.Shared > 0; cloned != bytes.Equal(got, want) {
			t.Fatalf("after %d batches: %+v", after, sum)
		}
		if !bytes.Equal(r.read(r.load(a.Ino)), src) {
			t.Fatalf("after %d batches: the source is another", after)
		}
		if i := r.v.Info(); i.Free != i.Total-sum.Used || i.Shared != sum.Shared {
			t.Fatalf("%+v, found %+v", i, sum)
		}
		if sum.Shared > 0 && after < 2 {
			t.Fatalf("cloned after %d batches", after)
		}
	}
}

// TestSharedUntilDurable: a block that another file gave up, but may have again
// after a crash, is not overwritten where it is.
func TestSharedUntilDurable(t *testing.T) {
	for name, give := range map[string]func(r *rig, n *Inode) error{
		"truncate": func(r *rig, n *Inode) error { return n.Truncate(0) },
		"delete":   func(r *rig, n *Inode) error { return r.v.Delete(n) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataStart+4*mib)
			a, b := r.create("a"), r.create("b")
			must(t, a.Write(fill('a', mib), 0))
			r.clone(a, 0, mib, b, 0)
			r.sync(a)
			r.sync(b)
			must(t, give(r, b))
			must(t, a.Write(fill('x', mib), 0))
			r.powerCut()
			if got := r.read(r.load(b.Ino)); !bytes.Equal(got, fill('a', mib)) {
				t.Fatal("the clone came back with what was written to the other")
			}
			if got := r.read(r.load(a.Ino)); !bytes.Equal(got, fill('a', mib)) {
				t.Fatal("what was not synced shows itself")
			}
		})
	}
}

// TestCopyOnWriteNeedsSpace: without space for new blocks a write, a punch and a
// truncate of a part of a shared block change nothing.
func TestCopyOnWriteNeedsSpace(t *testing.T) {
	for name, op := range map[string]func(n *Inode) error{
		"write":    func(n *Inode) error { return n.Write([]byte("x"), mib/2) },
		"append":   func(n *Inode) error { return n.Write(fill('x', 8192), mib-4096) },
		"punch":    func(n *Inode) error { return n.Punch(extent.Range{Off: 100, End: 8292}) },
		"truncate": func(n *Inode) error { return n.Truncate(5000) },
		"unshare":  func(n *Inode) error { return n.Unshare(extent.Range{Off: 0, End: 8192}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataStart+mib)
			a, b := r.create("a"), r.create("b")
			must(t, a.Write(fill('a', mib), 0))
			r.clone(a, 0, mib, b, 0)
			r.sync(b)
			if i := r.v.Info(); i.Free != 0 {
				t.Fatalf("%+v", i)
			}
			where := extentsOf(t, b)
			if err := op(b); !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if !bytes.Equal(r.read(b), fill('a', mib)) || extentsOf(t, b) != where {
				t.Fatal("it failed but changed something")
			}
			must(t, b.Punch(extent.Range{Off: 0, End: mib})) // whole blocks go without
		})
	}
}

// TestCloneOfWhatIsReached: what others reach directly is copied, so that they do
// not reach the clone. Blocks under a hold of a file that was cloned are freed when
// both the files and the hold are gone.
func TestCloneOfWhatIsReached(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill('a', mib), 0))
	h, err := a.Hold(extent.Range{Off: 0, End: 8192}, 0)
	must(t, err)
	seg, err := r.v.NewSegment()
	must(t, err)
	mem := make(memSegment, 8192)
	must(t, r.v.AttachSegment(seg, mem))
	_, err = a.ReadAt(mem, 16384)
	must(t, err)
	must(t, a.Isolate(extent.Range{Off: 16384, End: 24576}, extent.Addr{Seg: seg}))
	r.clone(a, 0, mib, b, 0)
	if i := r.v.Info(); i.Shared != mib-16384 {
		t.Fatalf("%+v", i)
	}
	must(t, a.Write(fill('x', mib), 0)) // over all of it
	r.sync(b)
	if !bytes.Equal(r.read(b), fill('a', mib)) {
		t.Fatal("a write to the source shows in the clone")
	}
	must(t, a.WriteHome(mem, 16384))
	must(t, a.Home(extent.Range{Off: 16384, End: 24576}))
	if !bytes.Equal(r.read(b), fill('a', mib)) || !bytes.Equal(r.read(a), fill('x', mib)) {
		t.Fatal("a window that came home shows in the clone")
	}
	r.sync(a)
	// A hold on what is shared outlives both.
	r.clone(b, 0, mib, a, 0)
	h2, err := b.Hold(extent.Range{Off: mib - 8192, End: mib}, 0)
	must(t, err)
	must(t, a.Truncate(0))
	must(t, b.Truncate(0))
	must(t, r.v.SyncStore(context.Background()))
	if i := r.v.Info(); i.Orphaned != 16384 || i.Free+i.Ahead != i.Total-16384 {
		t.Fatalf("%+v", i)
	}
	r.v.Unhold(h)
	r.v.Unhold(h2)
	must(t, r.v.SyncStore(context.Background()))
	if i := r.v.Info(); i.Orphaned != 0 || i.Free+i.Ahead != i.Total {
		t.Fatalf("%+v", i)
	}
}

// TestCloneDuringCommit: a commit of the file that a clone came into the way of does
// not record what was true before.
func TestCloneDuringCommit(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill('a', mib), 0))
	must(t, b.Write(fill('b', 5000), 0))
	r.dev.onSync = func() {
		r.dev.onSync = nil
		r.mu.Lock()
		defer r.mu.Unlock()
		r.clone(a, 0, mib, b, 8192)
	}
	r.sync(b)
	r.powerCut()
	want := append(append(fill('b', 5000), make([]byte, 8192-5000)...), fill('a', mib)...)
	if got := r.read(r.load(b.Ino)); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
}

// TestCloneRefused: what cannot be cloned whole is refused and changes nothing.
func TestCloneRefused(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill('a', 10000), 0))
	must(t, b.Write(fill('b', 20000), 0))
	for _, c := range []struct {
		src      *Inode
		off, end int64
		dst      *Inode
		at       int64
		want     error
	}{
		{a, 0, 10000, b, 0, syscall.EINVAL},    // b has more behind
		{a, 0, 5000, b, 0, syscall.EINVAL},     // not whole blocks
		{a, 100, 4096, b, 0, syscall.EINVAL},   // nor here
		{a, 0, 4096, b, 100, syscall.EINVAL},   // nor there
		{a, 0, 12288, b, 0, syscall.EINVAL},    // behind the end
		{b, 0, 8192, b, 4096, syscall.EINVAL},  // over itself
		{a, 4096, 4096, b, 0, syscall.EINVAL},  // nothing
		{a, 0, 8192, b, -4096, syscall.EINVAL}, // nowhere
		{a, 0, 8192, b, extent.MaxSize, syscall.EFBIG},
	} {
		t.Run(fmt.Sprintf("%d-%d to %d", c.off, c.end, c.at), func(t *testing.T) {
			if err := r.v.Clone(c.src, extent.Range{Off: c.off, End: c.end}, c.dst, c.at); !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	if !bytes.Equal(r.read(b), fill('b', 20000)) || r.v.Info().Shared != 0 {
		t.Fatal("something was cloned")
	}
	r.clone(a, 0, 10000, b, 12288)
	r.clone(b, 0, 8192, b, 8192)
}

// TestGiveUpAfterCopyOnWrite: what was written over shared blocks and given up before
// a commit leaves nothing of the shared ones behind.
func TestGiveUpAfterCopyOnWrite(t *testing.T) {
	for name, give := range map[string]func(n *Inode) error{
		"punch":    func(n *Inode) error { return n.Punch(extent.Range{Off: 8192, End: 16384}) },
		"truncate": func(n *Inode) error { return errors.Join(n.Truncate(8192), n.Truncate(mib)) },
		"zero":     func(n *Inode) error { return n.ZeroRange(extent.Range{Off: 8192, End: 16384}, true) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataStart+4*mib)
			a, b := r.create("a"), r.create("b")
			must(t, a.Write(fill('a', 16384), 0))
			r.clone(a, 0, 16384, b, 0)
			must(t, b.Truncate(mib))
			r.sync(b)
			must(t, b.Write(fill('b', 8192), 8192))
			must(t, give(b))
			r.sync(b)
			r.powerCut()
			want := append(fill('a', 8192), make([]byte, mib-8192)...)
			if got := r.read(r.load(b.Ino)); !bytes.Equal(got, want) {
				t.Fatal("the blocks of the other are back")
			}
			if !bytes.Equal(r.read(r.load(a.Ino)), fill('a', 16384)) {
				t.Fatal("the other is another")
			}
			if i, s := r.v.Info(), r.check(); i.Free != i.Total-s.Used {
				t.Fatalf("%+v, %+v", i, s)
			}
		})
	}
}

// TestCopiesAreFlushed: what a clone copies is on the device before the records say
// that it is there.
func TestCopiesAreFlushed(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill('a', mib), 0))
	r.sync(a)
	_, err := a.Hold(extent.Range{Off: 0, End: 8192}, 0)
	must(t, err)
	r.clone(a, 0, mib, b, 0)
	must(t, r.st.Sync())
	r.crash(sim.StoreOnly) // the device loses all that was not flushed
	if !bytes.Equal(r.read(r.load(b.Ino)), fill('a', mib)) {
		t.Fatal("blocks that were not written show themselves")
	}
}

// TestZeroRangeOfWhatIsReached: blocks under a hold are zeroed where they are.
func TestZeroRangeOfWhatIsReached(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	a := r.create("a")
	must(t, a.Write(fill('a', mib), 0))
	_, err := a.Hold(extent.Range{Off: 8192, End: 16384}, 0)
	must(t, err)
	must(t, a.ZeroRange(extent.Range{Off: 0, End: mib}, true))
	got := ""
	must(t, a.Extents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
		got += fmt.Sprint(e.Range(), e.State, " ")
		p := make([]byte, e.Len)
		_, err := r.dev.ReadAt(p, e.Addr.Off)
		must(t, err)
		if e.State == extent.Written && !isZero(p) {
			t.Error("a holder sees what was there")
		}
		return true
	}))
	if want := "[0,8192) unwritten [8192,16384) written [16384,1048576) unwritten "; got != want {
		t.Fatal(got)
	}
}

// TestCloneAgain: what two ranges have together already is not counted once more.
func TestCloneAgain(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill('a', mib), 0))
	r.clone(a, 0, mib, b, 0)
	r.clone(a, 0, mib, b, 0)
	r.clone(b, 4096, mib, a, 4096)
	must(t, a.Truncate(0))
	must(t, b.Truncate(0))
	must(t, r.v.SyncStore(context.Background()))
	if i := r.v.Info(); i.Free != i.Total || i.Shared != 0 {
		t.Fatalf("%+v", i)
	}
}

// TestCloneIsFlushed: the bytes of a clone are on the device before its records are in
// the store, also where a commit of the source is about to flush them.
func TestCloneIsFlushed(t *testing.T) {
	for name, during := range map[string]bool{"alone": false, "during a commit": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataStart+8*mib)
			a, b := r.create("a"), r.create("b")
			must(t, a.Write(fill('a', mib), 0))
			safe := false
			clone := func() {
				r.dev.onSync = nil
				r.mu.Lock()
				defer r.mu.Unlock()
				r.clone(a, 0, mib, b, 0)
				at := r.disk.Cursor()
				at.Seek(r.disk.Pos())
				dev := at.Crash(sim.StoreOnly).Device()
				must(t, b.HomeExtents(extent.Range{Off: 0, End: mib}, func(e extent.Extent) bool {
					p := make([]byte, e.Len)
					_, err := dev.ReadAt(p, e.Addr.Off)
					must(t, err)
					safe = bytes.Equal(p, fill('a', int(e.Len)))
					return safe
				}))
			}
			if during {
				r.dev.onSync = clone
				r.sync(a)
			} else {
				clone()
			}
			if !safe {
				t.Fatal("the device may lose what the store has")
			}
		})
	}
}
