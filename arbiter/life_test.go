package arbiter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

func lockThread() { runtime.LockOSThread() }

func TestPinsHoldBlocksAndTransfer(t *testing.T) {
	w := newWorld(t, Config{})
	ctx := t.Context()
	s := w.open(100)
	lease := w.lease(s, whole, newHolder())
	c, err := w.Register(s, fakeContext("ring"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Pin(ctx, s, c, lease, blocks(0, 2), layout.Write); err != nil {
		t.Fatal(err)
	}
	w.storage.hold = func() error { return syscall.EIO }
	if _, err := w.Pin(ctx, s, c, lease, blocks(4, 5), layout.Write); !errors.Is(err, syscall.EIO) {
		t.Errorf("pin whose hold fails: %v", err)
	}
	w.storage.hold = nil
	if n := len(w.Pins(Filter{File: 5})); n != 1 {
		t.Errorf("%d pins", n)
	}
	if err := w.CloseLease(ctx, lease); err != nil {
		t.Fatal(err)
	}
	if l, err := w.Lease(lease); err != nil || !l.Closed || l.Contexts[0] != c {
		t.Fatalf("after close: %+v %v", l, err)
	}
	w.EndSession(s)
	if l, err := w.Lease(lease); err != nil || !l.Unattended {
		t.Fatalf("after the end of the session: %+v %v", l, err)
	}
	if ss := w.Sessions(Filter{}); len(ss) != 1 || !ss[0].Ended || ss[0].Pins != 1 {
		t.Fatalf("sessions %+v", ss)
	}
	if cs := w.Contexts(Filter{File: 5}); len(cs) != 1 || cs[0].Pins != 1 {
		t.Fatalf("contexts %+v", cs)
	}
	if err := w.CloseContext(ctx, c); err != nil {
		t.Fatal(err)
	}
	if refs, holds := w.storage.count(); refs != 0 || holds != 0 {
		t.Errorf("%d files and %d holds are kept", refs, holds)
	}
	if len(w.Sessions(Filter{})) != 0 || len(w.Leases(Filter{})) != 0 {
		t.Errorf("left: %+v %+v", w.Sessions(Filter{}), w.Leases(Filter{}))
	}
}

// TestContextClosedWhilePinning: the pin is in the table already, its hold not yet taken.
func TestContextClosedWhilePinning(t *testing.T) {
	w := newWorld(t, Config{})
	s := w.open(100)
	lease := w.lease(s, whole, nil)
	c, err := w.Register(s, fakeContext("ring"))
	if err != nil {
		t.Fatal(err)
	}
	w.storage.hold = func() error { return w.CloseContext(t.Context(), c) }
	if _, err := w.Pin(t.Context(), s, c, lease, blocks(0, 2), layout.Write); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("pin: %v", err)
	}
	if _, holds := w.storage.count(); holds != 0 {
		t.Errorf("%d holds are kept", holds)
	}
}

// TestDeadlockAcrossFiles: two sessions wait for each other's pins on files of different shards. The later one is told.
func TestDeadlockAcrossFiles(t *testing.T) {
	w := newWorld(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var sessions [2]layout.SessionID
	for i := range sessions {
		sessions[i] = w.open(int32(100 + i))
		c, err := w.Register(sessions[i], fakeContext("x"))
		if err != nil {
			t.Fatal(err)
		}
		lease := w.lease(sessions[i], whole, nil, onFile(extent.Ino(10+i)))
		if _, err := w.Pin(ctx, sessions[i], c, lease, blocks(0, 1), layout.Read); err != nil {
			t.Fatal(err)
		}
	}
	events := w.Subscribe(10)
	defer events.Close()
	first := make(chan error)
	wait := Caller{OnHold: layout.Wait, Wait: WaitForever}
	go func() {
		c := wait
		c.Session = sessions[0]
		_, err := w.Break(ctx, c, 11, whole, layout.Subtractive)
		first <- err
	}()
	for ev := range events.C {
		if ev.Kind == EventWait {
			break
		}
	}
	wait.Session = sessions[1]
	if _, err := w.Break(ctx, wait, 10, whole, layout.Subtractive); !errors.Is(err, syscall.EDEADLK) {
		t.Errorf("the later one: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, syscall.EINTR) {
		t.Errorf("the first one: %v", err)
	}
}

func TestFailedPrepareReleases(t *testing.T) {
	w := newWorld(t, Config{})
	w.storage.prepare = func() error { return syscall.ENOSPC }
	_, err := w.Acquire(t.Context(), w.open(100), AcquireRequest{File: 5, Range: whole}, nil)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("acquire: %v", err)
	}
	if refs, _ := w.storage.count(); refs != 0 || len(w.Leases(Filter{})) != 0 {
		t.Errorf("left: %d refs, %+v", refs, w.Leases(Filter{}))
	}
}

func TestSlowSubscriberLosesOnlyItsOwn(t *testing.T) {
	w := newWorld(t, Config{Events: 64 * 4})
	slow, fast := w.Subscribe(1), w.Subscribe(100)
	s := w.open(100)
	for range 20 {
		if err := w.CloseLease(t.Context(), w.lease(s, whole, nil)); err != nil {
			t.Fatal(err)
		}
	}
	last := uint64(0)
	for range 41 {
		ev := <-fast.C
		if ev.Seq <= last {
			t.Fatalf("event %d after %d", ev.Seq, last)
		}
		last = ev.Seq
	}
	if fast.Dropped() != 0 || slow.Dropped() < 38 {
		t.Errorf("dropped: fast %d, slow %d", fast.Dropped(), slow.Dropped())
	}
	if recent := w.Recent(); len(recent) != 5 || recent[4].Kind != EventRelease {
		t.Errorf("recent: %+v", recent)
	}
	slow.Close()
	fast.Close()
	for range fast.C { // it is closed
	}
}

// TestStress has many sessions acquire, pin, return, die, and many changes meet them. Nothing is left in the end, and no change was let
// go on while a pin or another's lease was on its range.
func TestStress(t *testing.T) {
	w := newWorld(t, Config{Shards: 4, BreakTime: 2 * time.Millisecond, MountWait: time.Millisecond})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(2)
		go func() { defer wg.Done(); w.hold(t, g) }()
		go func() { defer wg.Done(); w.alter(t, g) }()
	}
	wg.Wait()
	deadline := time.After(10 * time.Second)
	events := w.Subscribe(1000)
	defer events.Close()
	for len(w.Leases(Filter{})) > 0 { // cuts in the background
		select {
		case <-events.C:
		case <-deadline:
			t.Fatalf("left: %+v", w.Leases(Filter{}))
		}
	}
	w.Close()
	if refs, holds := w.storage.count(); refs != 0 || holds != 0 {
		t.Errorf("%d files and %d holds are kept", refs, holds)
	}
}

// hold is a client that takes and gives.
func (w *world) hold(t *testing.T, g int) {
	rnd := rand.New(rand.NewPCG(1, uint64(g)))
	ctx := t.Context()
	for range 30 {
		s := w.open(int32(1000 + g))
		c, err := w.Register(s, fakeContext("x"))
		if err != nil {
			t.Error(err)
		}
		for range 10 {
			from := rnd.Int64N(8)
			req := AcquireRequest{
				File: extent.Ino(1 + rnd.IntN(3)), Range: blocks(from, from+1+rnd.Int64N(4)), Access: layout.Write, NoWait: rnd.IntN(2) == 0,
				Mode: layout.Mode(rnd.IntN(6) / 5), Unbreakable: rnd.IntN(4) == 0, MayUnbreakable: true,
			}
			l, err := w.Acquire(ctx, s, req, newHolder())
			if err != nil {
				continue
			}
			if rnd.IntN(2) == 0 {
				_ = w.Mapped(l.ID) // it may have been cut already
			}
			p, err := w.Pin(ctx, s, c, l.ID, blocks(from, from+1), layout.Write)
			if err == nil && rnd.IntN(2) == 0 {
				if err := w.Unpin(ctx, s, p); err != nil {
					t.Error("unpin:", err)
				}
			}
			if rnd.IntN(3) == 0 {
				_ = w.Return(ctx, s, l.ID, blocks(from, from+2)) // pinned, or gone
			}
			if rnd.IntN(4) > 0 {
				if err := w.CloseLease(ctx, l.ID); err != nil {
					t.Error("close:", err)
				}
			} else {
				defer func() { // its handle has a copy somewhere that lives on
					if err := w.CloseLease(ctx, l.ID); err != nil {
						t.Error("close:", err)
					}
				}()
			}
		}
		w.EndSession(s)
		if err := w.CloseContext(ctx, c); err != nil {
			t.Error(err)
		}
	}
}

// alter is a filesystem that wants to change things.
func (w *world) alter(t *testing.T, g int) {
	rnd := rand.New(rand.NewPCG(2, uint64(g)))
	for range 300 {
		from := rnd.Int64N(8)
		file, r := extent.Ino(1+rnd.IntN(3)), blocks(from, from+1+rnd.Int64N(4))
		class := []layout.Class{layout.Subtractive, layout.Additive, layout.Moving}[rnd.IntN(3)]
		caller := Caller{OnHold: []layout.OnHold{layout.Fail, layout.Wait}[rnd.IntN(2)]}
		change, err := w.Break(t.Context(), caller, file, r, class)
		if err != nil {
			var refused *Refused
			if !errors.As(err, &refused) {
				t.Error(err)
			}
			continue
		}
		for _, l := range w.Leases(Filter{File: file}) {
			for _, lr := range append(l.Ranges, l.Leaving...) {
				if lr.Extent().Overlaps(r) && (class != layout.Additive || l.Mode == layout.Exclusive) {
					t.Errorf("a %v change of %v goes on beside %+v", class, r, l)
				}
			}
		}
		change.Done()
	}
}

func TestUnleasedBreakAllocatesNothing(t *testing.T) {
	w := newWorld(t, Config{})
	w.lease(w.open(100), blocks(0, 1), nil)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		c, err := w.Break(ctx, Caller{PID: 1}, 6, whole, layout.Subtractive)
		if err != nil {
			t.Fatal(err)
		}
		c.Done()
	}); n != 0 {
		t.Errorf("a break on an unleased file allocates %v times", n)
	}
}

type noStorage struct{ fakeStorage }

func (*noStorage) Get(extent.Ino) error { return nil }
func (*noStorage) Put(extent.Ino)       {}

// TestLeaseBytes holds a lease, in all tables of the arbiter, to 256 bytes.
func TestLeaseBytes(t *testing.T) {
	const n = 200000
	a := New(Config{})
	a.Attach(&noStorage{})
	defer a.Close()
	var ids []layout.SessionID
	for i := range 100 {
		s, err := a.OpenSession(SessionInfo{PID: int32(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s)
	}
	before := heapBytes()
	for i := range n {
		req := AcquireRequest{File: extent.Ino(1 + i%100), Range: extent.Range{Off: int64(i) * extent.BlockSize, End: extent.Inf}}
		if _, err := a.Acquire(t.Context(), ids[i%100], req, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := float64(heapBytes()-before) / n; got > 256 {
		t.Errorf("%.0f bytes a lease", got)
	} else {
		t.Logf("%.0f bytes a lease", got)
	}
	runtime.KeepAlive(a)
}

func heapBytes() uint64 {
	var ms runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

func BenchmarkAcquireClose(b *testing.B) {
	a := New(Config{})
	a.Attach(&noStorage{})
	defer a.Close()
	s, err := a.OpenSession(SessionInfo{PID: 1})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{0, 1000, 100000} {
		b.Run(fmt.Sprintf("leases=%d", max(n, 1)), func(b *testing.B) {
			for range n - a.shardOf(1).m.Counts().Leases {
				if _, err := a.Acquire(b.Context(), s, AcquireRequest{File: 1, Range: whole}, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				l, err := a.Acquire(b.Context(), s, AcquireRequest{File: 1, Range: whole}, nil)
				if err != nil {
					b.Fatal(err)
				}
				if err := a.CloseLease(b.Context(), l.ID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBreakUnleased(b *testing.B) {
	a := New(Config{})
	a.Attach(&noStorage{})
	defer a.Close()
	b.ReportAllocs()
	for b.Loop() {
		c, err := a.Break(b.Context(), Caller{PID: 1}, 1, whole, layout.Subtractive)
		if err != nil {
			b.Fatal(err)
		}
		c.Done()
	}
}
