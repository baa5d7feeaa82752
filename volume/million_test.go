package volume

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"holdfast/extent"
	"holdfast/internal/sim"
)

// BenchmarkMillionExtents makes a file of a million extents by punching every other
// block, and does to it what walks through all of them. Run it with -benchtime=1x.
func BenchmarkMillionExtents(b *testing.B) {
	const count = 1_000_000
	const size = 2 * count * extent.BlockSize
	ctx := context.Background()
	for b.Loop() {
		v := onDisk(b, dataStart+size+(1<<30))
		var mu sync.RWMutex
		n, twin := newFile(b, v), newFile(b, v)
		all := extent.Range{Off: 0, End: size}
		must(b, n.Allocate(all, false))
		n.written(all) // of a device that holds zeros
		phase := func(name string, fn func()) {
			start := time.Now()
			fn()
			b.ReportMetric(time.Since(start).Seconds(), name+"-s")
		}
		before := heap()
		phase("punch", func() {
			for i := range int64(count) {
				must(b, n.Punch(extent.Range{Off: 2 * i * extent.BlockSize, End: (2*i + 1) * extent.BlockSize}))
			}
			must(b, v.Sync(ctx, n, &mu))
		})
		b.ReportMetric(float64(heap()-before)/count, "file-B/extent")
		phase("load", func() {
			m, err := v.Load(n.Ino)
			must(b, err)
			_, err = m.extents()
			must(b, err)
		})
		before = heap()
		phase("clone", func() {
			must(b, v.Clone(n, all, twin, 0))
			must(b, v.SyncStore(ctx))
		})
		b.ReportMetric(float64(heap()-before)/count, "clone-B/extent")
		phase("open", func() { must(b, (&Volume{st: v.st, id: v.id}).derive()) })
		phase("collapse", func() { must(b, twin.Collapse(extent.Range{Off: 0, End: extent.BlockSize})) })
		phase("insert", func() { must(b, twin.Insert(extent.Range{Off: 0, End: extent.BlockSize})) })
		phase("truncate", func() {
			must(b, twin.Truncate(0))
			must(b, v.SyncStore(ctx))
		})
		phase("delete", func() {
			must(b, v.Delete(n))
			must(b, v.SyncStore(ctx))
		})
	}
}

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMillionExtents: a file of a million extents reads right, and a truncate of it is done or not wherever the power fails.
func TestMillionExtents(t *testing.T) {
	t.Parallel()
	count := int64(1_000_000)
	if testing.Short() {
		count = 20_000
	}
	const kept = 5
	step := int64(2 * extent.BlockSize)
	r := newRig(t, dataStart+count*extent.BlockSize+64*mib)
	n := r.create("f")
	for i := range count {
		at := i * step
		must(t, n.Allocate(extent.Range{Off: at, End: at + extent.BlockSize}, false))
	}
	places := []int64{0, 1, count / 3, count - 1}
	for _, i := range places {
		must(t, n.Write([]byte{byte(i), 'f'}, i*step))
	}
	n.Attr.Size = count * step
	r.sync(n)
	intact := func(n *Inode) {
		t.Helper()
		for _, i := range places {
			var b [2]byte
			if _, err := n.ReadAt(b[:], i*step); err != nil || b != [2]byte{byte(i), 'f'} {
				t.Fatalf("extent %d reads %q, %v", i, b, err)
			}
		}
	}
	extents := func(n *Inode) (found int64) {
		t.Helper()
		must(t, n.Extents(extent.Range{Off: 0, End: extent.Inf}, func(extent.Extent) bool { found++; return true }))
		return found
	}
	n = r.load(n.Ino)
	if got := extents(n); got != count {
		t.Fatalf("%d extents", got)
	}
	intact(n)
	used := func(r *rig) int64 { s := r.v.Statfs(); return s.Total - s.Free }
	before := used(r)

	r.disk.Settle()
	must(t, n.Truncate(kept*step))
	must(t, r.v.SyncStore(context.Background()))
	after, end := used(r), r.disk.Pos()
	if before-after != (count-kept)*extent.BlockSize || int64(end) < count/200 {
		t.Fatalf("%d bytes were freed in %d steps", before-after, end)
	}
	// When it has begun, in the middle, and when it was done.
	for k, cut := range []int{1, 3, end / 2, end - 1, end} {
		at := r.disk.Cursor()
		at.Seek(cut)
		c := &rig{t: t}
		c.insert(at.Crash([]sim.Choice{sim.All, sim.StoreOnly, sim.Seeded(uint64(k))}[k%3]))
		c.openStore()
		c.open()
		c.check()
		n := c.load(n.Ino)
		switch got := extents(n); {
		case got == count && n.Attr.Size == count*step && used(c) == before:
			intact(n)
		case got == kept && n.Attr.Size == kept*step && used(c) == after && cut > 0:
		default:
			t.Errorf("cut=%d of %d: %d extents, %d bytes, %d used", cut, end, got, n.Attr.Size, used(c))
		}
		if cut == end && n.Attr.Size != kept*step {
			t.Error("what was done and synced is not there")
		}
		must(t, c.v.Close())
		must(t, c.st.Close())
	}
}
