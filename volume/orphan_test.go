package volume

import (
	"context"
	"errors"
	"hash/crc32"
	"slices"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/store"
)

func blocksOf(off, n int64) extent.Range {
	return extent.Range{Off: off * block, End: (off + n) * block}
}

func (r *rig) syncStore() {
	r.t.Helper()
	must(r.t, r.v.SyncStore(context.Background()))
}

// openAs opens what a server leaves that is killed, for one of the given boot.
func (r *rig) openAs(boot string) {
	r.t.Helper()
	must(r.t, r.st.Close())
	r.openStore()
	v, err := Open(context.Background(), r.dev, r.st, Options{Boot: boot})
	must(r.t, err)
	r.v = v
}

// given returns a file of n blocks that are synced, of which [off, off+k) are held for uid.
func (r *rig) given(name string, n, off, k int64, uid uint32) (*Inode, uint64) {
	r.t.Helper()
	f := r.create(name)
	must(r.t, f.Write(fill('a', int(n*block)), 0))
	r.sync(f)
	id, err := f.Hold(blocksOf(off, k), uid)
	must(r.t, err)
	return f, id
}

func (r *rig) wantOrphans(want ...Orphan) {
	r.t.Helper()
	if got := r.v.Orphans(); !slices.Equal(got, want) {
		r.t.Fatalf("orphans %v, want %v", got, want)
	}
	sum := int64(0)
	for _, o := range want {
		sum += o.Len
	}
	if s := r.v.Statfs(); s.Orphaned != sum {
		r.t.Fatalf("statfs says %d bytes are orphaned, want %d", s.Orphaned, sum)
	}
}

// TestOrphansOutliveTheServer: what a file gives up while it is held is nobody's after
// the server was killed, until it is released or the machine was started anew.
func TestOrphansOutliveTheServer(t *testing.T) {
	for name, giveUp := range map[string]func(*rig, *Inode) error{
		"punch":    func(_ *rig, n *Inode) error { return n.Punch(blocksOf(0, 8)) },
		"truncate": func(_ *rig, n *Inode) error { return n.Truncate(0) },
		"delete": func(r *rig, n *Inode) error {
			e, err := r.v.LookupEntry(extent.RootIno, "f")
			must(r.t, err)
			tx := r.v.Begin()
			tx.DelEntry(extent.RootIno, "f", e.Cookie)
			must(r.t, tx.Commit())
			return r.v.Delete(n)
		},
		"collapse": func(_ *rig, n *Inode) error { return n.Collapse(blocksOf(1, 6)) },
		"clone over": func(r *rig, n *Inode) error {
			src := r.create("src")
			must(r.t, src.Write(fill('s', 8*block), 0))
			return r.v.Clone(src, blocksOf(0, 8), n, 0)
		},
		"write to shared blocks": func(r *rig, n *Inode) error {
			to := r.create("to")
			r.v.Unhold(1) // what is held is copied, not shared
			must(r.t, r.v.Clone(n, blocksOf(0, 8), to, 0))
			id, err := n.Hold(blocksOf(2, 3), 7)
			must(r.t, err)
			if id != 2 {
				return errors.New("the hold has another number")
			}
			must(r.t, n.Write(fill('n', 8*block), 0))
			r.sync(n)
			return to.Punch(blocksOf(0, 8))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataStart+2*mib)
			r.openAs("monday")
			n, _ := r.given("f", 16, 2, 3, 7)
			var at int64
			must(t, n.HomeExtents(blocksOf(2, 1), func(e extent.Extent) bool { at = e.Addr.Off + 2*block - e.Off; return false }))
			must(t, giveUp(r, n))
			r.syncStore()
			r.wantOrphans(Orphan{at, 3 * block, 7, false})
			free := r.v.Statfs().Free
			r.openAs("monday")
			r.wantOrphans(Orphan{at, 3 * block, 7, true})
			if now := r.v.Statfs().Free; now < free {
				t.Errorf("%d bytes are free, %d were", now, free)
			}
			other := r.create("other")
			must(t, other.Write(fill('o', int(r.v.Statfs().Free)), 0))
			must(t, other.HomeExtents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
				if r := (extent.Range{Off: e.Addr.Off, End: e.Addr.Off + e.Len}); r.Overlaps(extent.Range{Off: at, End: at + 3*block}) {
					t.Errorf("another file has %v", r)
				}
				return true
			}))
			bytes, err := r.v.ReleaseOrphans(nil)
			if bytes != 3*block || err != nil {
				t.Errorf("released %d, %v", bytes, err)
			}
			r.wantOrphans()
			must(t, other.Write(fill('o', 3*block), other.Attr.Size))
			r.sync(other)
			r.check()
			r.openAs("monday")
			r.wantOrphans()
		})
	}
}

func TestOrphansOfAnotherBootAreFree(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	r.openAs("monday")
	n, _ := r.given("f", 400, 0, 400, 0)
	for k := range int64(200) { // more records than fit a batch
		must(t, n.Punch(blocksOf(2*k, 1)))
	}
	r.syncStore()
	if got := len(r.v.Orphans()); got != 200 {
		t.Fatalf("%d orphans", got)
	}
	r.openAs("")
	if got := len(r.v.Orphans()); got != 200 {
		t.Fatalf("%d orphans, opened by who does not know the boot", got)
	}
	r.openAs("tuesday")
	r.wantOrphans()
	r.openAs("monday")
	r.wantOrphans()
	r.check()
}

// TestOrphansOfSeveral: an orphan goes with the last hold, and counts for those who are left.
func TestOrphansOfSeveral(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	n, a := r.given("f", 16, 0, 8, 1)
	b, err := n.Hold(blocksOf(4, 8), 2)
	must(t, err)
	at := int64(dataStart)
	must(t, n.Truncate(0))
	r.wantOrphans(Orphan{at, 4 * block, 1, false}, Orphan{at + 4*block, 4 * block, 1, false}, Orphan{at + 8*block, 4 * block, 2, false})
	r.syncStore()
	r.v.Unhold(a)
	r.wantOrphans(Orphan{at + 4*block, 4 * block, 2, false}, Orphan{at + 8*block, 4 * block, 2, false})
	r.syncStore()
	r.check()
	r.openAs("")
	r.wantOrphans(Orphan{at + 4*block, 4 * block, 2, true}, Orphan{at + 8*block, 4 * block, 2, true})
	c, err := r.v.HoldOrphans([]extent.Range{{Off: at + 5*block, End: at + 7*block}}, 2)
	must(t, err)
	if _, err := r.v.ReleaseOrphans(func(o Orphan) bool { return o.UID == 2 }); err != nil {
		t.Fatal(err)
	}
	r.wantOrphans(Orphan{at + 5*block, 2 * block, 2, false})
	if got := r.v.OrphanHolds(); !slices.Equal(got, []uint64{c}) {
		t.Errorf("holds %v, want %d", got, c)
	}
	r.v.Unhold(c)
	r.v.Unhold(b)
	r.syncStore()
	r.wantOrphans()
	if i := r.v.Info(); i.Free != i.Total {
		t.Errorf("%+v", i)
	}
	r.check()
}

// TestOrphanOfASharedBlock: a held block that two files have is an orphan when the second
// has given it up, also if that was one file twice.
func TestOrphanOfASharedBlock(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill('a', 4*block), 0))
	r.sync(a)
	must(t, r.v.Clone(a, blocksOf(0, 4), b, 0))
	must(t, r.v.Clone(b, blocksOf(0, 4), b, 4*block))
	id, err := b.Hold(blocksOf(0, 2), 0)
	must(t, err)
	must(t, a.Truncate(0))
	r.syncStore()
	r.wantOrphans()
	must(t, b.Truncate(0))
	r.syncStore()
	r.wantOrphans(Orphan{dataStart, 2 * block, 0, false})
	r.v.Unhold(id)
	r.syncStore()
	if i := r.v.Info(); i.Free != i.Total || i.Shared != 0 {
		t.Errorf("%+v", i)
	}
}

// TestLateHold: a hold that comes when a file's block has been given up by the others
// makes an orphan all the same.
func TestLateHold(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	a, _ := r.given("a", 4, 0, 2, 3)
	seq, err := r.v.apply(func() *batch { // as if what it loses had not been seen
		b := r.v.batch()
		_, _, err := r.v.removeStep(b, a.Ino, blocksOf(0, 4))
		must(t, err)
		return b
	}())
	must(t, err)
	must(t, r.v.retire(seq, []run{{dataStart, 4 * block}}))
	a.m.remove(blocksOf(0, 4))
	r.wantOrphans(Orphan{dataStart, 2 * block, 3, false})
	r.syncStore()
	if i := r.v.Info(); i.Free != i.Total-2*block || i.Busy != 0 {
		t.Errorf("%+v", i)
	}
	r.check()
}

func TestOrphanLimit(t *testing.T) {
	r := newRig(t, dataStart+20*10*block)
	n, id := r.given("f", 40, 0, 40, 0)
	must(t, n.Defer(id, blocksOf(0, 20)))
	must(t, n.Defer(id, blocksOf(10, 10)))
	if err := n.Defer(id, blocksOf(19, 2)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a block too many: %v", err)
	}
	must(t, n.Punch(blocksOf(0, 10)))
	must(t, n.Defer(id, blocksOf(0, 20)))
	if err := n.Defer(id, blocksOf(20, 1)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a block too many: %v", err)
	}
	r.v.Unhold(id)
	id, err := n.Hold(blocksOf(0, 40), 0)
	must(t, err)
	must(t, n.Defer(id, blocksOf(20, 20)))
}

// TestOldVersion: a volume of the version before is opened, and is one of this version then.
func TestOldVersion(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	r.given("f", 4, 0, 1, 0)
	must(t, r.v.Close())
	old := func(b []byte) []byte {
		le.PutUint32(b[8:], oldVersion)
		le.PutUint32(b[superLen-4:], crc32.Checksum(b[:superLen-4], castagnoli))
		return b
	}
	b := make([]byte, superLen)
	_, err := r.dev.ReadAt(b, 0)
	must(t, err)
	_, err = r.dev.WriteAt(old(b), 0)
	must(t, err)
	s, err := readStoreSuper(r.st)
	must(t, err)
	sb := batch{store.Batch{Term: r.v.term}}
	sb.Put(superKey, old(s.encode()))
	must(t, r.v.st.Apply(&sb))
	r.openAs("monday")
	_, err = r.dev.ReadAt(b, 0)
	must(t, err)
	if v := le.Uint32(b[8:]); v != formatVersion {
		t.Errorf("device says version %d", v)
	}
	r.check()
}

// TestCheckOrphans: records of orphaned blocks that make no sense are found and removed;
// that of blocks which a file has is none of them.
func TestCheckOrphans(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	r.given("f", 4, 0, 1, 0)
	b := r.v.batch()
	b.Put(orphanedKey(dataStart+2*block), encodeOrphan(Orphan{Addr: dataStart, Len: 2 * block}))
	_, err := r.v.apply(b)
	must(t, err)
	must(t, r.v.Close())
	if found := r.problems(); len(found) != 0 {
		t.Fatalf("what a crash may leave: %v", found)
	}
	b.Reset()
	b.Put(orphanedKey(dataStart+4*mib), encodeOrphan(Orphan{Addr: dataStart, Len: 4 * mib}))
	b.Put(orphanedKey(dataStart+block+1), encodeOrphan(Orphan{Addr: dataStart, Len: block + 1}))
	_, err = r.v.apply(b)
	must(t, err)
	must(t, r.v.Close())
	if found := r.problems(); len(found) != 2 {
		t.Fatalf("found %v", found)
	}
	n := 0
	must(t, RepairAll(t.Context(), r.dev, r.st, func(Repair) { n++ }))
	if found := r.problems(); n != 2 || len(found) != 0 {
		t.Fatalf("%d repairs, then %v", n, found)
	}
	r.open()
	r.wantOrphans()
}
