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

// BenchmarkKernel is what the kernel's own leases and locks cost, beside as many of their kind on the same file, to compare
// with. It goes through all of them for each; a million could not even be set up, for that is quadratic.
func BenchmarkKernel(b *testing.B) {
	for _, n := range []int{1, 1000, 10000} {
		b.Run(fmt.Sprintf("SETLEASE/leases=%d", n), func(b *testing.B) { kernelLeases(b, n) })
		b.Run(fmt.Sprintf("OFD_SETLK/locks=%d", n), func(b *testing.B) { kernelLocks(b, n) })
	}
}

// kernelLeases measures the pair on the last of n descriptions of one file, of which all others hold a read lease.
func kernelLeases(b *testing.B, n int) {
	path := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	set := func(fd uintptr, to int) {
		if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, to); err != nil {
			b.Skip("F_SETLEASE:", err)
		}
	}
	var fd uintptr
	for i := range n {
		f, err := os.Open(path)
		if err != nil {
			b.Skip(err)
		}
		defer f.Close()
		if fd = f.Fd(); i < n-1 {
			set(fd, unix.F_RDLCK)
		}
	}
	for b.Loop() {
		set(fd, unix.F_RDLCK)
		set(fd, unix.F_UNLCK)
	}
}

// kernelLocks measures the pair behind n-1 locks of one description, on ranges that do not touch.
func kernelLocks(b *testing.B, n int) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	fd := f.Fd()
	set := func(i int, to int16) {
		lk := unix.Flock_t{Type: to, Start: int64(i) * 2 * extent.BlockSize, Len: extent.BlockSize}
		if err := unix.FcntlFlock(fd, unix.F_OFD_SETLK, &lk); err != nil {
			b.Skip("F_OFD_SETLK:", err)
		}
	}
	for i := range n - 1 {
		set(i, unix.F_WRLCK)
	}
	for b.Loop() {
		set(n-1, unix.F_WRLCK)
		set(n-1, unix.F_UNLCK)
	}
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
