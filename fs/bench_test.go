package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"
	"holdfast/volume"
)

// benchFS is a filesystem on real files, with nothing flushed in the background.
func benchFS(b testing.TB, size int64) *FS {
	dir := b.TempDir()
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	dev, err := device.Create(filepath.Join(dir, "device"), size)
	must(err)
	st, err := store.Create(filepath.Join(dir, "meta"), store.Options{})
	must(err)
	must(volume.Create(dev, st, volume.Options{}))
	v, err := volume.Open(ctx, dev, st, volume.Options{})
	must(err)
	arb := arbiter.New(arbiter.Config{})
	f, err := New(v, arb, Options{})
	must(err)
	b.Cleanup(func() {
		must(f.Close(ctx))
		arb.Close()
		must(v.Close())
		must(st.Close())
		must(dev.Close())
	})
	return f
}

// BenchmarkNames is what the server does for the kernel when a program makes files
// of 1 KiB, looks at them again when the kernel has forgotten them, renames and removes
// them: a directory of a thousand in each round. Nanoseconds are of a file.
func BenchmarkNames(b *testing.B) {
	const files = 1000
	f := benchFS(b, 64<<30)
	took := make(map[string]time.Duration)
	var dir extent.Ino
	var inos [files]extent.Ino
	var names [files]string
	content := make([]byte, 1<<10)
	each := func(what string, op func(k int, name string) error) {
		start := time.Now()
		for k := range files {
			if err := op(k, names[k]); err != nil {
				b.Fatal(what, err)
			}
		}
		took[what] += time.Since(start)
	}
	lookup := func(k int, name string) error {
		a, err := f.Lookup(ctx, Caller{}, dir, name)
		inos[k] = a.Ino
		return err
	}
	forget := func() {
		if err := f.Sync(ctx); err != nil { // until then the cache keeps what was changed
			b.Fatal(err)
		}
		for _, ino := range inos {
			f.Forget(ino, 1)
		}
	}
	for round := 0; b.Loop(); round++ {
		for k := range names {
			names[k] = fmt.Sprint("file", k)
		}
		a, err := f.Mkdir(ctx, Caller{}, extent.RootIno, fmt.Sprint("dir", round), 0o755)
		if err != nil {
			b.Fatal(err)
		}
		dir = a.Ino
		each("create", func(k int, name string) error {
			a, err := f.Create(ctx, Caller{}, dir, name, syscall.S_IFREG|0o644, 0)
			inos[k] = a.Ino
			return err
		})
		each("write", func(k int, _ string) error {
			_, err := f.Write(ctx, Caller{}, inos[k], content, 0, false, false)
			f.Release(inos[k])
			return err
		})
		forget()
		each("lookup", lookup)
		each("getattr", func(k int, _ string) error {
			_, err := f.GetAttr(ctx, Caller{}, inos[k])
			return err
		})
		forget()
		each("lookup-again", lookup)
		each("rename", func(k int, name string) error {
			to := "to" + name
			names[k] = to
			return f.Rename(ctx, Caller{}, dir, name, dir, to, 0)
		})
		each("unlink", func(k int, name string) error { return f.Unlink(ctx, Caller{}, dir, name) })
		each("forget-unlinked", func(k int, _ string) error { f.Forget(inos[k], 1); return nil })
		f.Forget(dir, 1)
	}
	b.ReportMetric(0, "ns/op") // of a round: says nothing
	for what, d := range took {
		b.ReportMetric(float64(d.Nanoseconds())/float64(b.N)/files, what+"-ns")
	}
}

// BenchmarkMemory is the memory of the server for a file that the kernel knows, one
// that has a block and one that is open as well. HOLDFAST_BENCH_FILES says how many.
func BenchmarkMemory(b *testing.B) {
	files := 100_000
	if s := os.Getenv("HOLDFAST_BENCH_FILES"); s != "" {
		if _, err := fmt.Sscan(s, &files); err != nil {
			b.Fatal(err)
		}
	}
	f := benchFS(b, 64<<30)
	inos := make([]extent.Ino, files)
	content := make([]byte, 1<<10)
	for i := range inos {
		a, err := f.Create(ctx, Caller{}, extent.RootIno, fmt.Sprintf("a name of some length %d", i), syscall.S_IFREG|0o644, 0)
		if err == nil {
			_, err = f.Write(ctx, Caller{}, a.Ino, content, 0, false, false)
		}
		if err != nil {
			b.Fatal(err)
		}
		f.Release(a.Ino)
		inos[i] = a.Ino
		if i%10_000 == 9_999 || i == files-1 {
			if err := f.Sync(ctx); err != nil {
				b.Fatal(err)
			}
			for _, ino := range inos[i/10_000*10_000 : i+1] {
				f.Forget(ino, 1)
			}
		}
	}
	for b.Loop() {
		before := heap()
		for i := range inos {
			if _, err := f.Lookup(ctx, Caller{}, extent.RootIno, fmt.Sprintf("a name of some length %d", i)); err != nil {
				b.Fatal(err)
			}
		}
		known := heap()
		b.ReportMetric(float64(known-before)/float64(files), "B/known-file")
		for _, ino := range inos {
			if err := f.Open(ctx, Caller{}, ino, 0); err != nil {
				b.Fatal(err)
			}
			if _, err := f.ReadNoAtime(ctx, ino, content, 0); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/float64(files), "B/open-file")
		for _, ino := range inos {
			f.Release(ino)
			f.Forget(ino, 1)
		}
		b.ReportMetric(float64(heap()-before)/float64(files), "B/forgotten-file")
	}
	b.ReportMetric(0, "ns/op")
}

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
