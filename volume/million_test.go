package volume

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"holdfast/extent"
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
