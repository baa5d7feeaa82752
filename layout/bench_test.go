package layout

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
	"holdfast/extent"
)

const file1 extent.Ino = 1

// crowd returns a machine with n leases on one file, by several sessions.
func crowd(tb testing.TB, n int, r func(i int) extent.Range) *Machine {
	m := New(Config{})
	for s := SessionID(1); s <= 100; s++ {
		m.Step(0, &Input{Op: OpOpenSession, Session: s})
	}
	for i := range n {
		es := m.Step(0, &Input{Op: OpAcquire, Session: SessionID(1 + i%100), File: file1, Range: r(i), NoWait: true})
		if es[0].Kind != Granted {
			tb.Fatalf("lease %d: %s", i, renderEffects(es))
		}
	}
	return m
}

func infinite(int) extent.Range { return extent.Range{Off: 0, End: extent.Inf} }
func disjoint(i int) extent.Range {
	return extent.Range{Off: int64(i) * extent.BlockSize, End: int64(i+1) * extent.BlockSize}
}

func BenchmarkGrantRelease(b *testing.B) {
	for _, shape := range []struct {
		name string
		r    func(int) extent.Range
	}{{"infinite", infinite}, {"disjoint", disjoint}} {
		for _, n := range []int{0, 1000, 1000000} {
			b.Run(fmt.Sprintf("%s/leases=%d", shape.name, max(n, 1)), func(b *testing.B) {
				m := crowd(b, n, shape.r)
				acquire := Input{Op: OpAcquire, File: file1, Access: Write}
				var release Input
				rnd := rand.New(rand.NewPCG(1, 2))
				pair := func(i int) {
					acquire.Session = SessionID(1 + i%100)
					acquire.Range = shape.r(i)
					release = Input{Op: OpCloseLease, Lease: m.Step(0, &acquire)[0].Lease}
					m.Step(0, &release)
				}
				// The steady state is what counts: nodes that the crowd left full have split, its garbage is collected.
				for i := 0; i < n; i += 8 {
					pair(i)
				}
				runtime.GC()
				b.ReportAllocs()
				for b.Loop() {
					pair(rnd.IntN(max(n, 1)))
				}
			})
		}
	}
}

// BenchmarkBreakUnleased is what a change costs that meets nobody: leave, and done.
func BenchmarkBreakUnleased(b *testing.B) {
	m := crowd(b, 1000, disjoint)
	in := Input{Op: OpBreak, File: 2, Range: infinite(0), Class: Subtractive, OnHold: Fail}
	var done Input
	b.ReportAllocs()
	for b.Loop() {
		id := m.Step(0, &in)[0].Change
		done = Input{Op: OpDone, File: 2, Change: id}
		m.Step(0, &done)
	}
}

// BenchmarkBreakBeside is the same on a file with a million leases, none of which is in the range.
func BenchmarkBreakBeside(b *testing.B) {
	m := crowd(b, 1000000, disjoint)
	in := Input{Op: OpBreak, File: file1, Range: extent.Range{Off: 1 << 50, End: extent.Inf}, Class: Subtractive, OnHold: Fail}
	var done Input
	b.ReportAllocs()
	for b.Loop() {
		id := m.Step(0, &in)[0].Change
		done = Input{Op: OpDone, File: file1, Change: id}
		m.Step(0, &done)
	}
}

// BenchmarkKernel is what the kernel's own leases and locks cost, to compare with.
func BenchmarkKernel(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	fd := f.Fd()
	b.Run("SETLEASE", func(b *testing.B) {
		for b.Loop() {
			if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK); err != nil {
				b.Skip("F_SETLEASE:", err)
			}
			if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("OFD_SETLK", func(b *testing.B) {
		for b.Loop() {
			lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 4096}
			if err := unix.FcntlFlock(fd, unix.F_OFD_SETLK, &lk); err != nil {
				b.Skip("F_OFD_SETLK:", err)
			}
			lk.Type = unix.F_UNLCK
			if err := unix.FcntlFlock(fd, unix.F_OFD_SETLK, &lk); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLeaseBytes reports what a lease costs in memory.
func BenchmarkLeaseBytes(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(leaseBytes(b, infinite), "infinite-B/lease")
		b.ReportMetric(leaseBytes(b, disjoint), "disjoint-B/lease")
	}
}

func heapBytes() uint64 {
	var ms runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

func leaseBytes(tb testing.TB, r func(int) extent.Range) float64 {
	const n = 200000
	before := heapBytes()
	m := crowd(tb, n, r)
	grown := heapBytes() - before
	runtime.KeepAlive(m)
	return float64(grown) / n
}

// TestLeaseBytes holds a lease to 256 bytes.
func TestLeaseBytes(t *testing.T) {
	for name, r := range map[string]func(int) extent.Range{"infinite": infinite, "disjoint": disjoint} {
		if got := leaseBytes(t, r); got > 256 {
			t.Errorf("%s: %.0f bytes a lease", name, got)
		}
	}
}

// TestHotStepsAllocateNothing: a change that meets nobody, and a grant with its release.
func TestHotStepsAllocateNothing(t *testing.T) {
	m := crowd(t, 100, disjoint)
	if n := testing.AllocsPerRun(1000, func() {
		in := Input{Op: OpBreak, File: 2, Range: infinite(0), Class: Subtractive, OnHold: Fail}
		done := Input{Op: OpDone, File: 2, Change: m.Step(0, &in)[0].Change}
		m.Step(0, &done)
	}); n != 0 {
		t.Errorf("a break on an unleased file allocates %v times", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		in := Input{Op: OpAcquire, File: file1, Range: infinite(0), Session: 1}
		end := Input{Op: OpCloseLease, Lease: m.Step(0, &in)[0].Lease}
		m.Step(0, &end)
	}); n != 0 {
		t.Errorf("grant and release allocate %v times", n)
	}
}
