package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/internal/sim"
	"holdfast/store"
)

const block = extent.BlockSize

func newSummed(t testing.TB, blocks int64) *rig {
	t.Helper()
	return newRigWith(t, dataStart+blocks*block, Options{DataChecksums: true})
}

// homes returns where the blocks of a file are.
func homes(t fataler, n *Inode) (out []int64) {
	t.Helper()
	must(t, n.HomeExtents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
		for a := e.Addr.Off; a < e.Addr.Off+e.Len; a += block {
			out = append(out, a)
		}
		return true
	}))
	return out
}

// flip flips a bit on the device.
func (r *rig) flip(addr int64) {
	r.t.Helper()
	b := make([]byte, 1)
	_, err := r.dev.ReadAt(b, addr)
	must(r.t, err)
	b[0] ^= 4
	_, err = r.dev.WriteAt(b, addr)
	must(r.t, err)
}

// crashes opens what is left of all that was done since position from, when the power
// fails at any place, and calls look.
func (r *rig) crashes(from int, look func(*rig)) {
	r.t.Helper()
	for cut := from; cut <= r.disk.Pos(); cut++ {
		for _, left := range []sim.Choice{sim.DeviceOnly, sim.StoreOnly, sim.None, sim.All, sim.Seeded(uint64(cut)), sim.Torn(cut % 7)} {
			at := r.disk.Cursor()
			at.Seek(cut)
			c := &rig{t: r.t}
			c.insert(at.Crash(left))
			c.openStore()
			c.check()
			c.open()
			look(c)
			must(r.t, c.st.Close())
			if r.t.Failed() {
				r.t.Fatalf("cut=%d left=%v", cut, left)
			}
		}
	}
}

// readable looks whether all of a file can be read, if it is there.
func readable(ino extent.Ino) func(*rig) {
	return func(c *rig) {
		n, err := c.v.Load(ino)
		if errors.Is(err, syscall.ENOENT) {
			return
		}
		must(c.t, err)
		if _, err := n.ReadAt(make([]byte, n.Attr.Size), 0); err != nil {
			c.t.Errorf("after a crash: %v", err)
		}
	}
}

// TestSumsFlip: a bit that was flipped is an error of the reads of its block, and of
// no other.
func TestSumsFlip(t *testing.T) {
	r := newSummed(t, 300)
	n := r.create("f")
	must(t, n.Write(fill(1, 8*block+100), 0))
	r.sync(n)
	r.reopen()
	n = r.load(n.Ino)
	at := homes(t, n)
	r.flip(at[3] + 77)
	r.flip(at[8] + block - 1) // behind the end of file
	for k := range int64(9) {
		b := make([]byte, block)
		_, err := n.ReadAt(b, k*block)
		var bad *SumError
		switch {
		case k != 3 && k != 8:
			must(t, err)
		case !errors.As(err, &bad) || !errors.Is(err, ErrSum) || !errors.Is(err, syscall.EIO) || bad.Ino != n.Ino || bad.Off != k*block:
			t.Errorf("read of block %d: %v", k, err)
		}
	}
	if _, err := n.ReadAt(make([]byte, 10), 3*block+500); !errors.Is(err, ErrSum) {
		t.Errorf("read of another part of the block: %v", err)
	}
	if i := r.v.Info(); i.Damaged != 3 || !i.DataChecksums || i.FailReason != "" {
		t.Errorf("%+v", i)
	}
	if pieces, ok := n.View(make([][]byte, 0, 8), extent.Range{Off: 0, End: block}); ok {
		t.Errorf("a view of what was not compared: %d pieces", len(pieces))
	}
	// A part of it cannot be written, since the rest would be lost; all of it can.
	if err := n.Write([]byte("x"), 3*block); !errors.Is(err, ErrSum) {
		t.Errorf("write to a part of a damaged block: %v", err)
	}
	if err := n.Punch(extent.Range{Off: 3*block + 1, End: 4 * block}); !errors.Is(err, ErrSum) {
		t.Errorf("punch of a part of a damaged block: %v", err)
	}
	must(t, n.Write(fill(2, block), 3*block))
	must(t, n.Truncate(8*block))
	want := append(append(fill(1, 3*block), fill(2, block)...), fill(1, 4*block)...)
	if got := r.read(n); !bytes.Equal(got, want) {
		t.Error("what was written over damage differs")
	}
	r.sync(n)
	r.reopen()
	if got := r.read(r.load(n.Ino)); !bytes.Equal(got, want) {
		t.Error("what was written over damage differs after a restart")
	}
}

// TestSumsAreForEver: a volume has checksums or not.
func TestSumsAreForEver(t *testing.T) {
	r := newRig(t, dataStart+64*block)
	must(t, r.v.Close())
	pos := r.disk.Pos()
	if _, err := Open(context.Background(), r.dev, r.st, Options{DataChecksums: true}); !errors.Is(err, ErrNoSums) {
		t.Errorf("checksums asked of a volume without: %v", err)
	}
	if r.disk.Pos() != pos {
		t.Error("a refused open has written")
	}
	s := newSummed(t, 64)
	s.reopen()
	if !s.v.Info().DataChecksums {
		t.Error("the checksums were lost")
	}
	b, err := s.st.Get(superKey)
	must(t, err)
	for at, want := range map[int]error{8: ErrVersion, 59: ErrVersion} { // format, an unknown feature
		odd := bytes.Clone(b[:superLen])
		odd[at] ^= 0x80
		le.PutUint32(odd[superLen-4:], checksum(nil, odd[:superLen-4]))
		if _, err := decodeSuper(odd); !errors.Is(err, want) {
			t.Errorf("byte %d: %v, want %v", at, err, want)
		}
	}
}

// TestSumsBesideACommit: what is written while a commit flushes does not take from what
// the commit records, and matches after any crash.
func TestSumsBesideACommit(t *testing.T) {
	for name, write := range map[string]func(n *Inode) error{
		"whole": func(n *Inode) error { return n.Write(fill(2, block), 0) },
		"part":  func(n *Inode) error { return n.Write(fill(2, 100), 50) },
		"punch": func(n *Inode) error { return n.Punch(extent.Range{Off: 10, End: block}) },
		"zero":  func(n *Inode) error { return n.ZeroRange(extent.Range{Off: 0, End: 2 * block}, false) },
		"zero, write": func(n *Inode) error {
			return errors.Join(n.ZeroRange(extent.Range{Off: 0, End: block}, false), n.Write(fill(2, block), 0))
		},
		"home":     func(n *Inode) error { return n.WriteHome(fill(2, block), 0) },
		"truncate": func(n *Inode) error { return n.Truncate(100) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newSummed(t, 64)
			n := r.create("f")
			must(t, n.Write(fill(1, 3*block), 0))
			from, done := r.disk.Pos(), 0
			r.dev.onSync = func() {
				r.dev.onSync = nil
				r.mu.Lock()
				must(t, write(n))
				r.mu.Unlock()
			}
			r.sync(n)
			done = r.disk.Pos()
			r.sync(n)
			r.crashes(from, readable(n.Ino))
			r.crashes(done, func(c *rig) {
				b := make([]byte, block)
				k, err := c.load(n.Ino).ReadAt(b, 0)
				if k < 100 || err != nil {
					t.Fatalf("%d bytes of what was synced, %v", k, err)
				}
				for i, v := range b[:100] {
					if v != 1 && v != 2 && v != 0 {
						t.Fatalf("byte %d is %d", i, v)
					}
				}
				if _, isZeroed := map[string]bool{"zero": true, "zero, write": true, "punch": true}[name]; isZero(b) && !isZeroed {
					t.Fatal("what was synced is lost")
				}
			})
		})
	}
}

// TestSumsBeforeDurable: a block that the store calls unwritten, but not for certain
// after a crash, is not overwritten where it is.
func TestSumsBeforeDurable(t *testing.T) {
	r := newSummed(t, 64)
	n := r.create("f")
	must(t, n.Write(fill(1, 2*block), 0))
	r.sync(n)
	from := r.disk.Pos()
	must(t, n.ZeroRange(extent.Range{Off: 0, End: block}, false))
	must(t, n.recordNow())
	must(t, n.Write(fill(3, block), 0))
	must(t, r.dev.Sync())
	r.sync(n)
	r.crashes(from, readable(n.Ino))
}

// TestSumsHeld: who has a hold on blocks finds in them what is written, so they have no
// checksums; when the hold is gone they get them again.
func TestSumsHeld(t *testing.T) {
	r := newSummed(t, 64)
	n := r.create("f")
	must(t, n.Write(fill(1, 4*block), 0))
	r.sync(n)
	before := homes(t, n)
	id, err := n.Hold(extent.Range{Off: block, End: 3 * block}, 0)
	must(t, err)
	from := r.disk.Pos()
	must(t, n.Write(fill(2, 3*block-1), 0))
	if moved := homes(t, n); moved[0] == before[0] {
		t.Error("a block that nobody holds was overwritten where it is")
	}
	must(t, n.ZeroRange(extent.Range{Off: 2 * block, End: 4 * block}, false))
	must(t, n.Write(fill(3, block+1), 2*block))
	r.sync(n)
	must(t, n.Write(fill(4, 3*block), 0))
	r.sync(n)
	r.crashes(from, readable(n.Ino))
	after := homes(t, n)
	for k, held := range []bool{false, true, true, false} {
		if held && before[k] != after[k] {
			t.Errorf("block %d was at %d, is held, and is at %d", k, before[k], after[k])
		}
		r.flip(after[k])
		if _, err := n.ReadAt(make([]byte, block), int64(k)*block); errors.Is(err, ErrSum) == held {
			t.Errorf("block %d, held: %v, flipped: %v", k, held, err)
		}
		r.flip(after[k])
	}
	r.v.Unhold(id)
	must(t, n.Write(fill(5, 4*block), 0))
	r.sync(n)
	for k, a := range homes(t, n) {
		r.flip(a)
		if _, err := n.ReadAt(make([]byte, block), int64(k)*block); !errors.Is(err, ErrSum) {
			t.Errorf("block %d after the hold, flipped: %v", k, err)
		}
	}
}

// TestSumsNoSpace: on a full volume a write is refused, but not what cannot be: it is
// done in place, where there is no checksum then.
func TestSumsNoSpace(t *testing.T) {
	r := newSummed(t, 64)
	n := r.create("f")
	must(t, n.Write(fill(1, 64*block), 0))
	r.sync(n)
	if err := n.Write(fill(2, block), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("overwrite on a full volume: %v", err)
	}
	from := r.disk.Pos()
	must(t, n.WriteHome(fill(3, 2*block), 4*block))
	must(t, n.Punch(extent.Range{Off: 10, End: block}))
	r.sync(n)
	must(t, n.Truncate(63*block+10))
	r.sync(n)
	want := fill(1, 63*block+10)
	clear(want[10:block])
	copy(want[4*block:], fill(3, 2*block))
	if got := r.read(n); !bytes.Equal(got, want) {
		t.Error("content differs")
	}
	r.crashes(from, readable(n.Ino))
}

// TestSumsOfClones: a clone has the checksums of what it shares, and of what was copied.
func TestSumsOfClones(t *testing.T) {
	r := newSummed(t, 300)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill(1, 8*block), 0))
	id, err := a.Hold(extent.Range{Off: 0, End: block}, 0)
	must(t, err)
	must(t, r.v.Clone(a, extent.Range{Off: 0, End: 8 * block}, b, 0))
	must(t, r.v.SyncStore(context.Background()))
	r.v.Unhold(id)
	r.reopen()
	b = r.load(b.Ino)
	for k, at := range homes(t, b) {
		if _, err := b.ReadAt(make([]byte, block), int64(k)*block); err != nil {
			t.Errorf("block %d: %v", k, err)
		}
		r.flip(at)
		if _, err := b.ReadAt(make([]byte, block), int64(k)*block); !errors.Is(err, ErrSum) {
			t.Errorf("block %d, flipped: %v", k, err)
		}
	}
}

// TestSumsLeaveMemory: what is not in memory any more is read from the store.
func TestSumsLeaveMemory(t *testing.T) {
	const chunks = 20
	r := newSummed(t, chunks*sumBlocks)
	r.v.sums.most = 3
	n := r.create("f")
	for round := range byte(3) {
		for k := range int64(chunks - 4) {
			must(t, n.Write(fill(round*20+byte(k), 2*block), k*sumSpan))
			if k%3 == 0 {
				r.sync(n)
			}
		}
		r.sync(n)
		for k := range int64(chunks - 4) {
			b := make([]byte, 2*block)
			if _, err := n.ReadAt(b, k*sumSpan); err != nil || b[0] != round*20+byte(k) {
				t.Fatalf("chunk %d: %d, %v", k, b[0], err)
			}
		}
	}
	if k := len(r.v.sums.chunks); k > 6 {
		t.Errorf("%d chunks in memory", k)
	}
	r.reopen()
	r.read(r.load(n.Ino))
}

// TestCheckSums: a record of checksums that makes no sense is found.
func TestCheckSums(t *testing.T) {
	for name, c := range map[string]struct {
		k, v []byte
		sums bool
		want ProblemKind
	}{
		"short":       {sumKey(0), make([]byte, 15), true, BadRecord},
		"count":       {sumKey(0), append([]byte{1}, make([]byte, 15)...), true, BadRecord},
		"key":         {append(sumKey(0), 1), make([]byte, 16), true, BadRecord},
		"far":         {sumKey(1000), make([]byte, 16), true, BadSum},
		"very far":    {sumKey(-1), make([]byte, 16), true, BadRecord},
		"no features": {sumKey(0), make([]byte, 16), false, BadSum},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRigWith(t, dataStart+64*block, Options{DataChecksums: c.sums})
			b := r.v.batch()
			b.Put(c.k, c.v)
			_, err := r.v.apply(b)
			must(t, err)
			var got []string
			_, err = Check(context.Background(), r.dev, r.st, func(p Problem) { got = append(got, string(p.Kind)) })
			must(t, err)
			if fmt.Sprint(got) != fmt.Sprintf("[%s]", c.want) {
				t.Errorf("found %v", got)
			}
		})
	}
}

// TestSumsRecordDamaged: a damaged record of checksums is an error of what needs it.
func TestSumsRecordDamaged(t *testing.T) {
	r := newSummed(t, 300)
	n := r.create("f")
	must(t, n.Write(fill(1, 300*block), 0))
	r.sync(n)
	var raw store.Batch
	raw.Term = r.v.term
	k := homes(t, n)[0] / sumSpan
	raw.Put(sumKey(k), []byte("no record"))
	must(t, r.st.Apply(&raw))
	r.reopen()
	n = r.load(n.Ino)
	if _, err := n.ReadAt(make([]byte, block), 0); !errors.Is(err, syscall.EUCLEAN) {
		t.Errorf("read without checksums: %v", err)
	}
	if _, err := n.ReadAt(make([]byte, block), 299*block); err != nil {
		t.Errorf("read of others: %v", err)
	}
}

// TestCheckData: content that the device has spoiled, or cannot read, is found by file and offset, and
// only where content is looked at.
func TestCheckData(t *testing.T) {
	r := newSummed(t, 300)
	a, b := r.create("a"), r.create("b")
	must(t, a.Write(fill(1, 8*block+100), 0))
	must(t, b.Write(fill(2, 200*block), 0))
	r.sync(a)
	r.sync(b)
	r.clone(b, 0, 4*block, a, 16*block)
	r.sync(a)
	r.reopen()
	at, bt := homes(t, r.load(a.Ino)), homes(t, r.load(b.Ino))
	r.check()
	r.flip(at[3] + 77)
	r.flip(at[4])
	r.flip(bt[150])
	r.flip(bt[1]) // which both have
	r.disk.Before(func(o sim.Op) error {
		if o.Kind == sim.Read && o.Device() && o.Off <= bt[170] && bt[170] < o.Off+int64(o.Len) {
			return syscall.EIO
		}
		return nil
	})
	defer r.disk.Before(nil)
	var got []string
	report := func(p Problem) { got = append(got, p.String()) }
	if sum, err := Check(context.Background(), r.dev, r.st, report); err != nil || len(got) > 0 || sum.Verified+sum.Unsummed != 0 {
		t.Errorf("without content: %v, %v, %v", got, sum, err)
	}
	sum, err := CheckData(context.Background(), r.dev, r.st, report)
	must(t, err)
	var want []string
	for _, c := range []struct {
		n      *Inode
		name   string
		off, k int64
		what   string
	}{{a, "/a", 3, 2, ErrSum.Error()}, {a, "/a", 17, 1, ErrSum.Error()}, {b, "/b", 1, 1, ErrSum.Error()}, {b, "/b", 150, 1, ErrSum.Error()},
		{b, "/b", 170, 1, "the device cannot read it"}} {
		want = append(want, fmt.Sprintf("data: inode %d: %s: %d bytes at %d: %s", c.n.Ino, c.name, c.k*block, c.off*block, c.what))
	}
	slices.Sort(got) // an extent's come together
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if ok := int64(9+4+200-6) * block; sum.Verified != ok || sum.Unsummed != 0 || sum.Problems != len(want) {
		t.Errorf("%+v, want %d bytes to match", sum, ok)
	}
}

// TestSumsHeldCostASync of the store, once for each block, before what a hold keeps in its place is overwritten.
func TestSumsHeldCostASync(t *testing.T) {
	r := newSummed(t, 64)
	n := r.create("f")
	must(t, n.Write(fill(1, 4*block), 0))
	r.sync(n)
	_, err := n.Hold(extent.Range{Off: 0, End: 4 * block}, 0)
	must(t, err)
	flushes := 0
	r.disk.Before(func(o sim.Op) error {
		if o.Kind == sim.Flush && !o.Device() {
			flushes++
		}
		return nil
	})
	defer r.disk.Before(nil)
	for k, want := range []int{1, 1, 2, 2} { // blocks 0, 0, 1, 1
		must(t, n.Write(fill(2, block), int64(k/2)*block))
		if flushes != want {
			t.Errorf("%d flushes of the store after write %d, want %d", flushes, k, want)
		}
	}
}

// TestSumsDamageIsLogged, by file and place.
func TestSumsDamageIsLogged(t *testing.T) {
	r := newSummed(t, 64)
	n := r.create("f")
	must(t, n.Write(fill(1, 4*block), 0))
	r.sync(n)
	must(t, r.v.Close())
	var log bytes.Buffer
	var err error
	r.v, err = Open(t.Context(), r.dev, r.st, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	n = r.load(n.Ino)
	r.flip(homes(t, n)[2])
	if _, err := n.ReadAt(make([]byte, block), 2*block); !errors.Is(err, ErrSum) {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("inode=%d offset=%d ", n.Ino, 2*block); !strings.Contains(log.String(), want) {
		t.Errorf("the log does not say %q: %s", want, log.String())
	}
}
