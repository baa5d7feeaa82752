package volume

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"testing"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/internal/sim"
	"holdfast/store"
)

// powerCut loses all that the store has not synced, and keeps all that the device
// was told: the worst case for blocks that were freed.
func (r *rig) powerCut() {
	r.t.Helper()
	r.crash(sim.DeviceOnly)
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// TestFreedBlocksWait: blocks that a file has given up are nobody else's until
// that is durable. Otherwise the file could come back with another's bytes.
func TestFreedBlocksWait(t *testing.T) {
	for name, free := range map[string]func(r *rig, n *Inode) error{
		"punch":    func(r *rig, n *Inode) error { return n.Punch(extent.Range{Off: 0, End: mib}) },
		"truncate": func(r *rig, n *Inode) error { return n.Truncate(0) },
		"delete":   func(r *rig, n *Inode) error { return r.v.Delete(n) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataStart+2*mib)
			a := r.create("a")
			must(t, a.Write(fill('a', mib), 0))
			r.sync(a)
			must(t, free(r, a))
			b := r.create("b")
			must(t, b.Write(fill('b', mib), 0))
			if i := r.v.Info(); i.Busy != mib || i.Free != 0 {
				t.Fatalf("while the freeing is not durable: %+v", i)
			}
			r.powerCut()
			if got := r.read(r.load(a.Ino)); !bytes.Equal(got, fill('a', mib)) {
				t.Fatal("the file came back with other bytes")
			}
		})
	}
}

// TestBusyBlocksBeforeENOSPC: the allocator makes the freeing durable rather than
// say that there is no space.
func TestBusyBlocksBeforeENOSPC(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	a := r.create("a")
	must(t, a.Write(fill('a', 2*mib), 0))
	r.sync(a)
	b := r.create("b")
	before := extentsOf(t, a)
	if err := b.Write(fill('b', 4096), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write to a full volume: %v", err)
	}
	if b.Attr.Size != 0 || extentsOf(t, b) != "" || extentsOf(t, a) != before {
		t.Fatal("a refused write changed something")
	}
	must(t, a.Truncate(mib))
	must(t, b.Write(fill('b', mib), 0))
	if err := b.Write(fill('b', 1), mib); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write to a full volume: %v", err)
	}
	// Overwriting needs no space.
	must(t, b.Write(fill('c', mib), 0))
}

// TestAheadGivenBack: what is kept for the growth of one file is taken for
// another before there is ENOSPC.
func TestAheadGivenBack(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	a := r.create("a")
	must(t, a.Write(fill('a', mib/2), 0))
	must(t, a.Write(fill('a', 4096), mib/2))
	if i := r.v.Info(); i.Ahead == 0 || r.v.Statfs().Free != i.Total-mib/2-4096 {
		t.Fatalf("nothing is kept ahead, or it does not count as free: %+v", i)
	}
	b := r.create("b")
	must(t, b.Write(fill('b', 2*mib-mib/2-4096), 0))
	if i := r.v.Info(); i.Ahead != 0 || i.Free != 0 {
		t.Fatalf("%+v", i)
	}
}

// TestStreamHasFewExtents: two files that grow side by side do not interleave.
func TestStreamHasFewExtents(t *testing.T) {
	r := newRig(t, dataStart+64*mib)
	a, b := r.create("a"), r.create("b")
	p := fill('x', 32<<10)
	for off := int64(0); off < 16*mib; off += int64(len(p)) {
		must(t, a.Write(p, off))
		must(t, b.Write(p, off))
		if off%mib == 0 {
			r.sync(a)
		}
	}
	r.sync(a)
	r.sync(b)
	for _, n := range []*Inode{a, b} {
		if k := n.m.m.Len(); k > 12 {
			t.Errorf("%d extents: %s", k, extentsOf(t, n))
		}
		n.TrimPrealloc()
	}
	if s := r.check(); s.Extents > 24 {
		t.Errorf("%d records", s.Extents)
	}
	if i := r.v.Info(); i.Free != i.Total-32*mib {
		t.Errorf("%+v", i)
	}
}

// TestLogHasFewRecords: a file that grows in small synced steps has one record.
func TestLogHasFewRecords(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	n := r.create("log")
	for off := int64(0); off < mib; off += 3000 {
		must(t, n.Write(fill('l', 3000), off))
		r.sync(n)
	}
	if s := r.check(); s.Extents > 8 {
		t.Fatalf("%d records", s.Extents)
	}
}

// TestWriteDuringCommit: what is written between the flush of a commit and its
// batch is not part of it.
func TestWriteDuringCommit(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	n := r.create("f")
	must(t, n.Allocate(extent.Range{Off: 0, End: mib}, false))
	r.sync(n)
	must(t, n.Write(fill('1', 8192), 4096))
	r.dev.onSync = func() {
		r.dev.onSync = nil
		r.mu.Lock()
		defer r.mu.Unlock()
		must(t, n.Write(fill('2', 8192), 12288))
		must(t, n.Write(fill('2', 8192), 2*mib))
	}
	r.sync(n)
	r.crash(sim.None)
	want := make([]byte, mib)
	copy(want[4096:], fill('1', 8192))
	if got := r.read(r.load(n.Ino)); !bytes.Equal(got, want) {
		t.Fatalf("after the crash: size %d, %q", len(got), got[12288:12300])
	}
}

// faultStore fails for good after some batches, as if the server had died there.
type faultStore struct {
	store.Store
	left int
}

func (s *faultStore) Apply(b *store.Batch) error {
	if s.left--; s.left < 0 {
		return store.ErrFailed
	}
	return s.Store.Apply(b)
}

// fragmented makes a file of n extents that cannot be joined.
func (r *rig) fragmented(name string, n int) *Inode {
	f := r.create(name)
	for i := range int64(n) {
		must(r.t, f.Write([]byte{'f'}, i*2*extent.BlockSize))
	}
	r.sync(f)
	return f
}

// TestRemovalRestarts cuts a truncate, a punch and a delete of many extents off
// after each of its batches: the next open finishes the work.
func TestRemovalRestarts(t *testing.T) {
	const extents = 200
	for name, op := range map[string]func(r *rig, n *Inode) error{
		"truncate": func(r *rig, n *Inode) error { return n.Truncate(5 * extent.BlockSize) },
		"punch":    func(r *rig, n *Inode) error { return n.Punch(extent.Range{Off: 6 * extent.BlockSize, End: extent.Inf}) },
		"delete": func(r *rig, n *Inode) error {
			n.Attr.Nlink = 0
			e, err := r.v.LookupEntry(extent.RootIno, "f")
			if err != nil {
				return err
			}
			tx := r.v.Begin()
			tx.DelEntry(extent.RootIno, "f", e.Cookie)
			tx.PutInode(n)
			tx.PutOrphan(n.Ino)
			return errors.Join(tx.Commit(), r.v.Delete(n))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for after := 0; ; after++ {
				r := newRig(t, dataStart+4*mib)
				n := r.fragmented("f", extents)
				r.v.st = sealed(&faultStore{r.st, after})
				err := op(r, n)
				if err == nil {
					if after < 4 {
						t.Fatalf("%d extents in %d batches", extents, after)
					}
					return
				}
				if !errors.Is(err, syscall.EIO) {
					t.Fatal(err)
				}
				if err := r.v.SyncStore(context.Background()); !errors.Is(err, syscall.EROFS) {
					t.Fatalf("after a failure: %v", err)
				}
				must(t, r.st.Sync())
				r.powerCut()
				sum := r.check()
				left := map[string]int{"truncate": 3, "punch": 3, "delete": 0}[name]
				if began := after > 0; began && sum.Extents != left || !began && sum.Extents != extents {
					t.Fatalf("after %d batches: %d extents left", after, sum.Extents)
				}
				if i := r.v.Info(); i.Free != i.Total-sum.Used {
					t.Fatalf("%+v, used %d", i, sum.Used)
				}
			}
		})
	}
}

// TestDeviceFailure: after a failed write nothing is written any more, reads go
// on, and the reason is known.
func TestDeviceFailure(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	n := r.create("f")
	must(t, n.Write(fill('x', 8192), 0))
	r.sync(n)
	must(t, n.Write(fill('y', 8192), 8192))
	r.dev.failing = device.ErrFailed
	if err := r.v.Sync(context.Background(), n, &r.mu); !errors.Is(err, syscall.EIO) {
		t.Fatalf("first: %v", err)
	}
	r.dev.failing = nil // it seems to work again
	for what, err := range map[string]error{
		"sync":      r.v.Sync(context.Background(), n, &r.mu),
		"write":     n.Write([]byte("z"), 0),
		"overwrite": n.Overwrite([]byte("z"), 0),
		"punch":     n.Punch(extent.Range{Off: 0, End: 4096}),
		"truncate":  n.Truncate(0),
		"delete":    r.v.Delete(n),
		"tx":        func() error { tx := r.v.Begin(); tx.PutInode(r.v.New(99, Attr{})); return tx.Commit() }(),
		"allocate":  n.Allocate(extent.Range{Off: 0, End: mib}, true),
	} {
		if !errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO) {
			t.Errorf("%s after a failure: %v", what, err)
		}
	}
	if r.v.FailReason() == nil || r.v.Info().FailReason == "" {
		t.Error("no reason")
	}
	if got := r.read(n); !bytes.Equal(got[:8192], fill('x', 8192)) || len(got) != 16384 {
		t.Error("reads do not go on")
	}
	r.powerCut()
	if got := r.read(r.load(n.Ino)); !bytes.Equal(got, fill('x', 8192)) {
		t.Errorf("%d bytes after the restart", len(got))
	}
}

// TestHostFull: a host without space is ENOSPC at allocation, and no failure.
func TestHostFull(t *testing.T) {
	r := newRig(t, dataStart+32*mib)
	n := r.create("f")
	must(t, n.Write(fill('x', 4096), 0))
	r.dev.full = true
	if err := n.Write(fill('x', 20*mib), 4096); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	r.dev.full = false
	must(t, n.Write(fill('x', 20*mib), 4096))
	r.sync(n)
	r.check()
}

// TestHolds: blocks under a hold are nobody's when their file gives them up, until
// the last hold goes.
func TestHolds(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	a := r.create("a")
	must(t, a.Write(fill('a', 2*mib), 0))
	r.sync(a)
	h1, err := a.Hold(extent.Range{Off: 0, End: mib}, 0)
	must(t, err)
	h2, err := a.Hold(extent.Range{Off: mib / 2, End: extent.Inf}, 0)
	must(t, err)
	must(t, r.v.Delete(a))
	b := r.create("b")
	if err := b.Write(fill('b', 4096), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write into held blocks: %v", err)
	}
	if i := r.v.Info(); i.Orphaned != 2*mib || i.Free != 0 || i.Busy != 0 || i.Holds != 2 {
		t.Fatalf("%+v", i)
	}
	r.v.Unhold(h1)
	r.v.Unhold(h1)
	if i := r.v.Info(); i.Orphaned != 2*mib-mib/2 || i.Busy != mib/2 {
		t.Fatalf("%+v", i)
	}
	must(t, b.Write(fill('b', mib/2), 0))
	r.v.Unhold(h2)
	must(t, r.v.SyncStore(t.Context()))
	if i := r.v.Info(); i.Orphaned != 0 || i.Free != 2*mib-mib/2 || i.Holds != 0 {
		t.Fatalf("%+v", i)
	}
	// Blocks that the store never knew are held, too.
	must(t, b.Write(fill('b', mib/2), mib/2))
	h, err := b.Hold(extent.Range{Off: mib / 2, End: mib}, 0)
	must(t, err)
	must(t, b.Truncate(0))
	if i := r.v.Info(); i.Orphaned+i.Busy != mib/2 {
		t.Fatalf("%+v", i)
	}
	r.v.Unhold(h)
	must(t, r.v.SyncStore(context.Background()))
	if i := r.v.Info(); i.Free != i.Total {
		t.Fatalf("%+v", i)
	}
}

// TestConvertDuringCommit: a range that changes again while it is committed
// belongs to the next commit, and its blocks are not lost on the way.
func TestConvertDuringCommit(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	n := r.create("f")
	all := extent.Range{Off: 0, End: mib}
	must(t, n.Allocate(all, false))
	r.dev.onSync = func() {
		r.dev.onSync = nil
		r.mu.Lock()
		defer r.mu.Unlock()
		must(t, n.Write(fill('x', 8192), 4096))
	}
	must(t, n.Write(fill('w', 4096), 0))
	r.sync(n)
	must(t, n.Punch(all))
	must(t, r.v.SyncStore(context.Background()))
	if i := r.v.Info(); i.Free != i.Total {
		t.Fatalf("blocks are lost: %+v", i)
	}
	r.check()
}

// TestTxDoesNotRecordSize: a change of attributes does not make a size durable
// whose bytes are not.
func TestTxDoesNotRecordSize(t *testing.T) {
	r := newRig(t, dataStart+8*mib)
	n := r.create("f")
	must(t, n.Write(fill('x', 100), 0))
	r.sync(n)
	must(t, n.Write(fill('x', 9000), 100))
	n.Attr.Mode = syscall.S_IFREG | 0o600
	tx := r.v.Begin()
	tx.PutInode(n)
	must(t, tx.Commit())
	must(t, r.v.SyncStore(context.Background()))
	r.powerCut()
	if n = r.load(n.Ino); n.Attr.Size != 100 || n.Attr.Mode != syscall.S_IFREG|0o600 {
		t.Fatalf("%+v", n.Attr)
	}
}
