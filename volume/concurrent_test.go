package volume

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"holdfast/extent"
)

// TestConcurrent has several goroutines on each of several files, as fs does:
// overwriting under the shared lock, writing, punching and truncating under the
// exclusive one, syncing with none, while others create, list and delete.
func TestConcurrent(t *testing.T) {
	const files, rounds, size = 4, 150, 1 << 20
	r := newRig(t, dataStart+16*mib)
	ctx := context.Background()
	type file struct {
		n  *Inode
		mu sync.RWMutex
	}
	var all [files]file
	var wg sync.WaitGroup
	spawn := func(seed uint64, fn func(rng *rand.Rand) error) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 0))
			for range rounds {
				if err := fn(rng); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range all {
		f := &all[i]
		f.n = r.create(string(rune('a' + i)))
		p := fill(byte(i+1), 9000)
		spawn(uint64(i), func(rng *rand.Rand) error {
			off := rng.Int64N(size)
			if f.mu.RLock(); f.n.Plan(extent.Range{Off: off, End: off + int64(len(p))}) {
				defer f.mu.RUnlock()
				return f.n.Overwrite(p, off)
			}
			f.mu.RUnlock()
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.n.Write(p, off)
		})
		spawn(uint64(i+100), func(rng *rand.Rand) error {
			f.mu.RLock()
			defer f.mu.RUnlock()
			b := make([]byte, 20000)
			k, err := f.n.ReadAt(b, rng.Int64N(size))
			for _, c := range b[:k] {
				if c != 0 && c != byte(i+1) {
					t.Errorf("file %d shows %#x", i, c)
					break
				}
			}
			return err
		})
		spawn(uint64(i+200), func(rng *rand.Rand) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if rng.IntN(2) == 0 {
				return f.n.Truncate(rng.Int64N(size))
			}
			off := rng.Int64N(size)
			return f.n.Punch(extent.Range{Off: off, End: off + 50000})
		})
		spawn(uint64(i+400), func(rng *rand.Rand) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			from, to := rng.Int64N(64)*4096, (64+rng.Int64N(64))*4096
			if from+65536 > f.n.Attr.Size || to < from+65536 {
				return nil
			}
			return r.v.Clone(f.n, extent.Range{Off: from, End: from + 65536}, f.n, to)
		})
		spawn(uint64(i+300), func(*rand.Rand) error { return r.v.Sync(ctx, f.n, &f.mu) })
	}
	spawn(1000, func(*rand.Rand) error {
		return r.v.SyncAll(ctx, func(sync func(*Inode, *sync.RWMutex) error) error {
			for i := range all {
				if err := sync(all[i].n, &all[i].mu); err != nil {
					return err
				}
			}
			return nil
		})
	})
	spawn(1001, func(rng *rand.Rand) error {
		ino, err := r.v.NewIno()
		if err != nil {
			return err
		}
		n := r.v.New(ino, Attr{Mode: syscall.S_IFREG})
		tx := r.v.Begin()
		tx.PutInode(n)
		tx.PutOrphan(ino)
		if err := tx.Commit(); err != nil {
			return err
		}
		if err := n.Write(fill(200, 30000), 0); err != nil {
			return err
		}
		return r.v.Delete(n)
	})
	wg.Wait()
	var want [files][]byte
	for i := range all {
		must(t, r.v.Sync(ctx, all[i].n, &all[i].mu))
		want[i] = r.read(all[i].n)
		all[i].n.TrimPrealloc()
	}
	r.powerCut()
	var used rangeSet
	for i := range all {
		n := r.load(all[i].n.Ino)
		if !bytes.Equal(r.read(n), want[i]) {
			t.Errorf("file %d differs after a power cut", i)
		}
		must(t, n.HomeExtents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
			used.add(extent.Range{Off: e.Addr.Off, End: e.Addr.Off + e.Len})
			return true
		}))
	}
	if i := r.v.Info(); i.Free+used.bytes != i.Total {
		t.Errorf("%d used, %+v", used.bytes, i)
	}
}

// TestSyncIsShared: those who ask for a sync of one file while it is synced are
// served together.
func TestSyncIsShared(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	n := r.create("f")
	var mu sync.RWMutex
	var wg sync.WaitGroup
	before := r.dev.syncs.Load()
	for range 50 {
		wg.Go(func() {
			mu.Lock()
			err := n.Write([]byte("x"), n.Attr.Size)
			mu.Unlock()
			if err == nil {
				err = r.v.Sync(context.Background(), n, &mu)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if k := r.dev.syncs.Load() - before; k > 50 || k == 0 {
		t.Errorf("%d flushes", k)
	}
	if n.Dirty() {
		t.Error("dirty after the syncs")
	}
	// Nothing to do is nothing done.
	before = r.dev.syncs.Load()
	must(t, r.v.Sync(context.Background(), n, &mu))
	if r.dev.syncs.Load() != before {
		t.Error("a clean file flushes the device")
	}
}

// TestReadDirIsStable: a listing that goes on by cookie sees each entry that was
// there all the time once, whatever comes and goes.
func TestReadDirIsStable(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	for _, name := range []string{"b", "a", "d", "c"} {
		r.create(name)
	}
	del := func(name string) {
		e, err := r.v.LookupEntry(extent.RootIno, name)
		must(t, err)
		tx := r.v.Begin()
		tx.DelEntry(extent.RootIno, name, e.Cookie)
		must(t, tx.Commit())
	}
	got, last := "", uint64(0)
	step := func() bool {
		more := false
		must(t, r.v.ReadDir(extent.RootIno, last, func(name string, e Entry) bool {
			got, last, more = got+name, e.Cookie, true
			return false
		}))
		return more
	}
	step()
	step()
	del("a")
	del("d")
	r.create("e")
	for step() {
	}
	if got != "bace" {
		t.Errorf("listed %q", got)
	}
	if e, err := r.v.DirEmpty(extent.RootIno); err != nil || e {
		t.Error(e, err)
	}
	for _, name := range []string{"b", "c", "e"} {
		del(name)
	}
	if e, err := r.v.DirEmpty(extent.RootIno); err != nil || !e {
		t.Error(e, err)
	}
}
