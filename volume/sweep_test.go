package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"
)

// TestDeriveIsWhatTheRecordsSay: on a device of many parts, with records that lie
// over the borders of parts and over each other, against a count of every unit.
func TestDeriveIsWhatTheRecordsSay(t *testing.T) {
	const unit = recordMax / 8
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		st, err := store.Create("meta", store.Options{FS: vfs.NewMem()})
		must(t, err)
		v := &Volume{st: sealed(st)}
		units := 1 + rnd.Int64N(200)
		v.id.size = dataStart + units*unit
		v.size.Store(v.id.size)
		owners := make([]int, units)
		b := v.batch()
		for i := range rnd.IntN(100) {
			n := 1 + rnd.Int64N(min(8, units))
			at := rnd.Int64N(units - n + 1)
			for k := at; k < at+n; k++ {
				owners[k]++
			}
			addr := extent.Addr{Seg: extent.Device, Off: dataStart + at*unit}
			b.Put(ownerKey(addr, n*unit, extent.Ino(i+2), 1<<40), encodeNumber(uint64(n*unit)))
		}
		_, err = v.apply(b)
		must(t, err)
		must(t, v.derive())
		sum := int64(0)
		for k, n := range owners {
			r := extent.Range{Off: dataStart + int64(k)*unit, End: dataStart + int64(k+1)*unit}
			if n == 0 {
				sum += unit
			}
			if got := v.space.free.byAddr.contains(r); got != (n == 0) {
				t.Errorf("seed %d: unit %d has %d owners, free is %v", seed, k, n, got)
			}
			var shared refs
			v.space.refs.m.in(r, func(_ extent.Range, c refs) bool { shared = c; return true })
			if want := (refs{n, n}); n > 1 && shared != want || n < 2 && shared != (refs{}) {
				t.Errorf("seed %d: unit %d has %d owners, counted %v", seed, k, n, shared)
			}
		}
		checkFreeMap(t, v.space.free)
		if got := v.space.free.bytes(); got != sum {
			t.Errorf("seed %d: %d bytes free, want %d", seed, got, sum)
		}
		must(t, st.Close())
		if t.Failed() {
			t.Fatalf("owners %v", owners)
		}
	}
}

// checkFreeMap looks whether both halves say the same, with no two runs that touch.
func checkFreeMap(t *testing.T, f *freeMap) {
	t.Helper()
	end := int64(-1)
	for _, r := range f.byAddr.list() {
		if _, ok := f.bySize.Get(run{r.Off, r.Len()}); !ok || r.Off <= end {
			t.Errorf("free run %v: by size %v, the one before ends at %d", r, ok, end)
		}
		end = r.End
	}
	if a, b := f.byAddr.m.Len(), f.bySize.Len(); a != b {
		t.Errorf("%d free runs by address, %d by size", a, b)
	}
}

// BenchmarkOpen opens a volume of many files and extents. Every tenth extent has free
// blocks behind it in the one case, each in the other. HOLDFAST_LONG makes it a
// million files and ten million extents; run it with -benchtime=1x.
func BenchmarkOpen(b *testing.B) {
	files := int64(10_000)
	if os.Getenv("HOLDFAST_LONG") != "" {
		files = 1_000_000
	}
	for _, every := range []int64{10, 1} {
		b.Run(fmt.Sprintf("files=%d,extents=%d,free=%d", files, 10*files, 10*files/every), func(b *testing.B) {
			benchOpen(b, files, every)
		})
	}
}

func benchOpen(b *testing.B, files, every int64) {
	const perFile = 10
	dir := b.TempDir()
	dev, err := device.Create(filepath.Join(dir, "device"), dataStart+files*perFile*2*extent.BlockSize)
	must(b, err)
	path := filepath.Join(dir, "meta")
	st, err := store.Create(path, store.Options{})
	must(b, err)
	must(b, Create(dev, st, Options{}))
	v, err := Open(context.Background(), dev, st, Options{})
	must(b, err)
	manyFiles(b, v, files, perFile, every)
	must(b, v.Close())
	must(b, st.Close())
	before := heap()
	for b.Loop() {
		start := time.Now()
		st, err = store.Open(path, store.Options{})
		must(b, err)
		b.ReportMetric(time.Since(start).Seconds(), "store-s")
		start, cpu := time.Now(), processorTime(b)
		v, err = Open(context.Background(), dev, st, Options{})
		must(b, err)
		b.ReportMetric(time.Since(start).Seconds(), "open-s")
		b.ReportMetric((processorTime(b) - cpu).Seconds(), "open-cpu-s")
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		b.ReportMetric(float64(v.Info().FreeRuns), "free-runs")
		must(b, v.Close())
		must(b, st.Close())
	}
	b.ReportMetric(0, "ns/op")
	must(b, dev.Close())
}

// manyFiles puts records of files straight into the store, in the order of their
// keys. An extent is a block; behind every so many there is a free one.
func manyFiles(b *testing.B, v *Volume, files, perFile, every int64) {
	const first = 1 << 20
	bat := v.batch()
	put := func(k, value []byte) {
		if bat.Ops() == store.MaxOps {
			_, err := v.apply(bat)
			must(b, err)
			bat.Reset()
		}
		bat.Put(k, value)
	}
	attr := encodeAttr(&Attr{Mode: 0o100644, Nlink: 1, Size: perFile * extent.BlockSize})
	for i := range files {
		put(inodeKey(extent.Ino(first+i)), attr)
	}
	// The extents of a file lie far from each other, so that they cannot be joined.
	home := func(file, k int64) extent.Addr {
		n := k*files + file
		return extent.Addr{Seg: extent.Device, Off: dataStart + (n+n/every)*extent.BlockSize}
	}
	for k := range perFile {
		for i := range files {
			put(ownerKey(home(i, k), extent.BlockSize, extent.Ino(first+i), (k+1)*extent.BlockSize), encodeNumber(extent.BlockSize))
		}
	}
	for i := range files {
		for k := range perFile {
			e := extent.Extent{Off: k * extent.BlockSize, Len: extent.BlockSize, State: extent.Written, Addr: home(i, k)}
			put(extentKey(extent.Ino(first+i), e.Off+e.Len), encodeExtent(e))
		}
	}
	_, err := v.apply(bat)
	must(b, err)
}

// processorTime is what the process has used.
func processorTime(b *testing.B) time.Duration {
	var ru unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &ru))
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
