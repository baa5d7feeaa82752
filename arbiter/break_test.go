package arbiter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// patient is a caller that waits as long as it takes.
var patient = Caller{Wait: WaitForever}

// change runs a change in the background. The result comes on the channel when it may be applied.
func (w *world) change(c Caller, r extent.Range) <-chan result {
	ch := make(chan result, 1)
	start := time.Now()
	go func() {
		change, err := w.Break(w.t.Context(), c, 5, r, layout.Subtractive)
		ch <- result{change, err, time.Since(start)}
	}()
	return ch
}

type result struct {
	change Change
	err    error
	after  time.Duration
}

func TestSilentHolderDelaysToTheBreakTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		h := newHolder()
		lease := w.lease(w.open(100), whole, h)
		res := <-w.change(patient, whole)
		if res.err != nil || res.after != 10*time.Second {
			t.Fatalf("change: %v after %v", res.err, res.after)
		}
		res.change.Done()
		ev := <-h
		if ev.Kind != EventBreak || ev.Lease != lease || ev.Class != layout.Subtractive || ev.Ask != layout.AskReturn ||
			ev.Path != "/file5" || ev.Deadline == nil || ev.Range.Extent() != whole {
			t.Fatalf("event %+v", ev)
		}
		// He is told the end of it too.
		for _, kind := range []EventKind{EventCut, EventRevoke} {
			if ev := <-h; ev.Kind != kind || ev.Lease != lease || ev.Range.Extent() != whole {
				t.Fatalf("event %+v, want %s", ev, kind)
			}
		}
		if len(w.Leases(Filter{})) != 0 {
			t.Fatalf("leases: %+v", w.Leases(Filter{}))
		}
		if !slices.Equal(w.storage.log, []string{fmt.Sprintf("cut %d [0,∞)", lease)}) {
			t.Fatalf("storage: %v", w.storage.log)
		}
	})
}

func TestDeadHolderDelaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		s := w.open(100)
		w.lease(s, whole, newHolder())
		ch := w.change(patient, whole)
		synctest.Wait()
		w.EndSession(s) // its handle has a copy elsewhere, so nobody closes the lease
		if res := <-ch; res.err != nil || res.after != 0 {
			t.Fatalf("change: %v after %v", res.err, res.after)
		}
		synctest.Wait() // the session is forgotten behind the change that goes on
		if len(w.Sessions(Filter{})) != 0 {
			t.Fatalf("sessions: %+v", w.Sessions(Filter{}))
		}
	})
}

func TestPartialThenFullReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		s := w.open(100)
		lease := w.lease(s, whole, newHolder())
		if err := w.Mapped(lease); err != nil {
			t.Fatal(err)
		}
		ch := w.change(patient, blocks(4, 8))
		time.Sleep(time.Second)
		if err := w.Return(t.Context(), s, lease, blocks(4, 6)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case res := <-ch:
			t.Fatalf("the change went on with half the range returned: %+v", res)
		default:
		}
		time.Sleep(time.Second)
		if err := w.Return(t.Context(), s, lease, blocks(6, 8)); err != nil {
			t.Fatal(err)
		}
		if res := <-ch; res.err != nil || res.after != 2*time.Second {
			t.Fatalf("change: %v after %v", res.err, res.after)
		}
		if l, err := w.Lease(lease); err != nil || len(l.Ranges) != 2 {
			t.Fatalf("lease: %+v %v", l, err)
		}
	})
}

func TestRangeIsFreeOnlyOnceDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		s := w.open(100)
		lease := w.lease(s, whole, newHolder())
		if err := w.Mapped(lease); err != nil {
			t.Fatal(err)
		}
		w.storage.unmap = func() error { time.Sleep(3 * time.Second); return nil }
		ch := w.change(patient, whole)
		synctest.Wait()
		if err := w.CloseLease(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		if res := <-ch; res.err != nil || res.after != 3*time.Second {
			t.Fatalf("change: %v after %v, while detaching takes 3 s", res.err, res.after)
		}
	})
}

func TestFailedCutIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		fails := 2
		w.storage.cut = func() error {
			if fails--; fails >= 0 {
				return syscall.EIO
			}
			return nil
		}
		lease := w.lease(w.open(100), whole, newHolder())
		res := <-w.change(patient, whole)
		if !errors.Is(res.err, syscall.EAGAIN) || res.after != 10*time.Second {
			t.Fatalf("change: %v after %v", res.err, res.after)
		}
		if l, err := w.Lease(lease); err != nil || l.State != layout.StateCutting {
			t.Fatalf("lease: %+v %v", l, err)
		}
		res = <-w.change(patient, whole) // behind the one that goes on by itself
		if res.err != nil || res.after != 3*time.Second {
			t.Fatalf("change: %v after %v; tries were due after 1 s and 3 s", res.err, res.after)
		}
	})
}

func TestMountCallerIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		s := w.open(100)
		h := newHolder()
		w.lease(s, whole, h)
		res := <-w.change(Caller{}, whole)
		if !errors.Is(res.err, syscall.EAGAIN) || res.after != time.Second {
			t.Fatalf("change: %v after %v", res.err, res.after)
		}
		var refused *Refused
		if !errors.As(res.err, &refused) || len(refused.Blockers) == 0 || refused.Blockers[0].PID != 100 {
			t.Fatalf("it does not say who is in the way: %+v", res.err)
		}
		// The break goes on in the background: no conflicting grant, and the lease is cut at its time.
		if _, err := w.Acquire(t.Context(), s, AcquireRequest{File: 5, Range: whole, NoWait: true}, h); !errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("acquire under a barrier: %v", err)
		}
		time.Sleep(9*time.Second + time.Millisecond)
		if ls := w.Leases(Filter{}); len(ls) != 0 {
			t.Fatalf("leases: %+v", ls)
		}
		if res := <-w.change(Caller{}, whole); res.err != nil || res.after != 0 {
			t.Fatalf("second try: %v after %v", res.err, res.after)
		}
	})
}

func TestContextErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		w.lease(w.open(100), whole, newHolder())
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := w.Break(ctx, patient, 5, whole, layout.Subtractive); !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("deadline: %v", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := w.Break(ctx, patient, 5, whole, layout.Subtractive); !errors.Is(err, syscall.EINTR) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		s1, s2 := w.open(100), w.open(200)
		lease := w.lease(s1, whole, newHolder(), unbreakable)
		order := make(chan int, 10)
		for i := range 5 {
			go func() {
				if i%2 == 0 {
					c, err := w.Break(t.Context(), Caller{OnHold: layout.Wait, Wait: WaitForever}, 5, blocks(0, 1), layout.Subtractive)
					if err != nil {
						t.Error(err)
					}
					order <- i
					time.Sleep(time.Second)
					c.Done()
					return
				}
				l, err := w.Acquire(t.Context(), s2, AcquireRequest{File: 5, Range: blocks(0, 1)}, newHolder())
				if err != nil {
					t.Error(err)
				}
				order <- i
				time.Sleep(time.Second)
				if err := w.CloseLease(t.Context(), l.ID); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		if err := w.CloseLease(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if got := <-order; got != i {
				t.Errorf("place %d was served to %d", i, got)
			}
		}
		synctest.Wait()
		time.Sleep(10 * time.Second)
	})
}

func TestEveryHolderIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		var hs []fakeHolder
		for i := range 50 {
			h := newHolder()
			hs = append(hs, h)
			w.lease(w.open(int32(100+i)), blocks(int64(i), int64(i+2)), h)
		}
		ch := w.change(patient, whole)
		synctest.Wait()
		for i, h := range hs {
			if len(h) != 1 {
				t.Errorf("holder %d was told %d times", i, len(h))
			}
		}
		<-ch
	})
}

func TestCloseEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.lease(w.open(100), whole, newHolder())
		ch := w.change(patient, whole)
		synctest.Wait()
		w.Close()
		if res := <-ch; !errors.Is(res.err, syscall.ESHUTDOWN) {
			t.Fatalf("change: %v", res.err)
		}
	})
}

// TestInVain: the kernel lets changes of a file in one after the other, so when one has waited for nothing those behind it do not.
func TestInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{BreakTime: time.Minute})
		defer w.Close()
		w.lease(w.open(100), whole, newHolder())
		for n, want := range []time.Duration{time.Second, 0, 0} {
			if res := <-w.change(Caller{}, whole); !errors.Is(res.err, syscall.EAGAIN) || res.after != want {
				t.Fatalf("change %d: %v after %v, want EAGAIN after %v", n, res.err, res.after, want)
			}
		}
		if res := <-w.change(Caller{Wait: 3 * time.Second}, whole); !errors.Is(res.err, syscall.EAGAIN) || res.after != 3*time.Second {
			t.Fatalf("a change that says how long it waits: %v after %v", res.err, res.after)
		}
		if res := <-w.change(Caller{}, whole); !errors.Is(res.err, syscall.EAGAIN) || res.after != time.Second {
			t.Fatalf("a change later on: %v after %v", res.err, res.after)
		}
	})
}
