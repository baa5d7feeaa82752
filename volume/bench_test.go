package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"
)

func byCount(n int64) string { return fmt.Sprintf("n=%d", n) }

// scattered gives n a map of count extents that cannot be joined.
func scattered(n *Inode, count int64) {
	for i := range count {
		n.m.insert(mapping{off: i * extent.BlockSize, len: extent.BlockSize, home: dataStart + (i%2)*2*extent.BlockSize, state: extent.Written})
	}
	n.Attr.Size = count * extent.BlockSize
}

func BenchmarkExtents(b *testing.B) {
	for _, count := range []int64{1, 1_000, 1_000_000} {
		b.Run(byCount(count), func(b *testing.B) {
			v := &Volume{}
			n := v.New(2, Attr{})
			scattered(n, count)
			rng := rand.New(rand.NewPCG(1, 2))
			sum := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				off := rng.Int64N(count) * extent.BlockSize
				_ = n.Extents(extent.Range{Off: off, End: off + 1}, func(e extent.Extent) bool {
					sum += e.Len
					return true
				})
			}
		})
	}
}

// nullDevice does nothing, so that what remains is the volume's own cost.
type nullDevice struct{ device.Device }

func (d *nullDevice) ReadAt(p []byte, off int64) (int, error)  { return len(p), nil }
func (d *nullDevice) WriteAt(p []byte, off int64) (int, error) { return len(p), nil }

func BenchmarkReadAt(b *testing.B) {
	benchMapped(b, func(n *Inode, p []byte, off int64) error { _, err := n.ReadAt(p, off); return err })
}

func BenchmarkOverwrite(b *testing.B) {
	benchMapped(b, func(n *Inode, p []byte, off int64) error { return n.Overwrite(p, off) })
}

func benchMapped(b *testing.B, op func(n *Inode, p []byte, off int64) error) {
	for _, count := range []int64{1, 1_000, 1_000_000} {
		b.Run(byCount(count), func(b *testing.B) {
			v := &Volume{dev: &nullDevice{}}
			n := v.New(2, Attr{})
			scattered(n, count)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				rng := rand.New(rand.NewPCG(1, 2))
				p := make([]byte, extent.BlockSize)
				for pb.Next() {
					if err := op(n, p, rng.Int64N(count)*extent.BlockSize); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// TestHotPathAllocatesNothing: reads and overwrites of what is mapped, and
// questions about it.
func TestHotPathAllocatesNothing(t *testing.T) {
	v := &Volume{dev: &nullDevice{}}
	n := v.New(2, Attr{})
	scattered(n, 1000)
	p := make([]byte, 3*extent.BlockSize)
	r := extent.Range{Off: 5000, End: 5000 + int64(len(p))}
	sum := int64(0)
	for what, op := range map[string]func(){
		"read":      func() { _, _ = n.ReadAt(p, r.Off) },
		"overwrite": func() { _ = n.Overwrite(p, r.Off) },
		"plan":      func() { _ = n.Plan(r) },
		"extents":   func() { _ = n.Extents(r, func(e extent.Extent) bool { sum += e.Len; return true }) },
	} {
		if k := testing.AllocsPerRun(100, op); k != 0 {
			t.Errorf("%s: %v allocations", what, k)
		}
	}
}

// onDisk makes a volume on real files.
func onDisk(b testing.TB, size int64) *Volume { return onDiskWith(b, size, Options{}) }

func onDiskWith(b testing.TB, size int64, o Options) *Volume {
	dir := b.TempDir()
	dev, err := device.Create(filepath.Join(dir, "device"), size)
	must(b, err)
	st, err := store.Create(filepath.Join(dir, "meta"), store.Options{})
	must(b, err)
	must(b, Create(dev, st, o))
	v, err := Open(context.Background(), dev, st, Options{})
	must(b, err)
	b.Cleanup(func() {
		must(b, v.Close())
		must(b, st.Close())
		must(b, dev.Close())
	})
	return v
}

// BenchmarkStream writes a file in a stream, as a copy does, and syncs it.
func BenchmarkStream(b *testing.B) {
	v := onDisk(b, 1<<30)
	p := make([]byte, mib)
	var mu sync.RWMutex
	b.SetBytes(64 * mib)
	for b.Loop() {
		n := newFile(b, v)
		for off := int64(0); off < 64*mib; off += mib {
			must(b, n.Write(p, off))
		}
		must(b, v.Sync(context.Background(), n, &mu))
		must(b, v.Delete(n))
	}
}

// BenchmarkSums does the same with and without checksums of data.
func BenchmarkSums(b *testing.B) {
	const size = 64 * mib
	var mu sync.RWMutex
	for _, sums := range []bool{false, true} {
		run := func(name string, length int64, op func(v *Volume, n *Inode, p []byte, off int64) error) {
			b.Run(fmt.Sprintf("%s/checksums=%v", name, sums), func(b *testing.B) {
				v := onDiskWith(b, 1<<30, Options{DataChecksums: sums})
				n := newFile(b, v)
				must(b, n.Write(make([]byte, size), 0))
				must(b, v.Sync(context.Background(), n, &mu))
				p, rng := make([]byte, length), rand.New(rand.NewPCG(1, 2))
				b.SetBytes(length)
				for b.Loop() {
					must(b, op(v, n, p, rng.Int64N(size/length)*length))
				}
			})
		}
		for name, length := range map[string]int64{"1MiB": mib, "4KiB": extent.BlockSize} {
			run("read-"+name, length, func(_ *Volume, n *Inode, p []byte, off int64) error {
				_, err := n.ReadAt(p, off)
				return err
			})
			run("overwrite-"+name, length, func(_ *Volume, n *Inode, p []byte, off int64) error {
				if n.Plan(extent.Range{Off: off, End: off + length}) {
					return n.Overwrite(p, off)
				}
				return n.Write(p, off)
			})
			run("overwrite-sync-"+name, length, func(v *Volume, n *Inode, p []byte, off int64) error {
				if err := n.Write(p, off); err != nil {
					return err
				}
				return v.Sync(context.Background(), n, &mu)
			})
		}
	}
}

// BenchmarkFsync appends a block and syncs, alone and with others, which share the
// syncs of device and store.
func BenchmarkFsync(b *testing.B) {
	for _, files := range []int{1, 16} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			v := onDisk(b, 4<<30)
			b.SetParallelism(files)
			b.RunParallel(func(pb *testing.PB) {
				n := newFile(b, v)
				var mu sync.RWMutex
				p := make([]byte, extent.BlockSize)
				for pb.Next() {
					mu.Lock()
					err := n.Write(p, n.Attr.Size%(64*mib))
					mu.Unlock()
					if err == nil {
						err = v.Sync(context.Background(), n, &mu)
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkDelete removes a file of many extents.
func BenchmarkDelete(b *testing.B) {
	const count = 100_000
	v := onDisk(b, 2<<30)
	var mu sync.RWMutex
	for b.Loop() {
		b.StopTimer()
		n := newFile(b, v)
		for i := range int64(count) {
			must(b, n.Allocate(extent.Range{Off: 2 * i * extent.BlockSize, End: (2*i + 1) * extent.BlockSize}, true))
		}
		must(b, v.Sync(context.Background(), n, &mu))
		b.StartTimer()
		must(b, v.Delete(n))
		must(b, v.SyncStore(context.Background()))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/extent")
}

func newFile(b testing.TB, v *Volume) *Inode {
	ino, err := v.NewIno()
	must(b, err)
	n := v.New(ino, Attr{Mode: 0o100644, Nlink: 1})
	tx := v.Begin()
	tx.PutInode(n)
	must(b, tx.Commit())
	return n
}
