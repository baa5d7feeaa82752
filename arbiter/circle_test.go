package arbiter

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// TestCircleOfThree: three sessions, each with a pin on a file of its own, want what the next one has. The one that closes the circle is told,
// whichever way it waits; the others get theirs when it lets go.
func TestCircleOfThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		var s [3]layout.SessionID
		var pins [3]layout.PinID
		for i := range s {
			s[i] = w.open(int32(100 + i))
			lease := w.lease(s[i], whole, newHolder(), onFile(extent.Ino(10+i)))
			pin, err := w.Pin(t.Context(), s[i], w.context(s[i]), lease, blocks(0, 1), layout.Read)
			if err != nil {
				t.Fatal(err)
			}
			pins[i] = pin
		}
		want := func(i, file int) <-chan error {
			done := make(chan error, 1)
			go func() {
				c, err := w.Break(t.Context(), Caller{Session: s[i], OnHold: layout.Wait, Wait: WaitForever}, extent.Ino(10+file), blocks(0, 1), layout.Subtractive)
				c.Done()
				done <- err
			}()
			synctest.Wait()
			return done
		}
		first, second := want(0, 1), want(1, 2)
		if err := <-want(2, 0); !errors.Is(err, syscall.EDEADLK) {
			t.Fatalf("the one that closes the circle: %v", err)
		}
		// A lease behind a change that waits for oneself is a wait for oneself, too.
		_, err := w.Acquire(t.Context(), s[2], AcquireRequest{File: 12, Range: blocks(0, 1)}, nil)
		if !errors.Is(err, syscall.EDEADLK) {
			t.Fatalf("a lease behind the circle: %v", err)
		}
		for i, done := range map[int]<-chan error{2: second, 1: first} {
			select {
			case err := <-done:
				t.Fatalf("change of a file on which session %d has a pin: %v", i, err)
			default:
			}
		}
		for i, done := range []<-chan error{second, first} {
			if err := w.Unpin(t.Context(), s[2-i], pins[2-i]); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Errorf("change when its pin is gone: %v", err)
			}
		}
	})
}

// TestGivingUpLeavesNothing: whoever waits can give up, whatever for, and leaves no barrier, no waiter and no hold.
func TestGivingUpLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		defer w.Close()
		s, other := w.open(100), w.open(200)
		held := w.lease(s, blocks(0, 4), nil, unbreakable)
		pin, err := w.Pin(t.Context(), s, w.context(s), held, blocks(0, 4), layout.Read)
		if err != nil {
			t.Fatal(err)
		}
		for what, wait := range map[string]func(context.Context) error{
			"change that waits for a pin": func(ctx context.Context) error {
				_, err := w.Break(ctx, Caller{OnHold: layout.Wait, Wait: WaitForever}, 5, blocks(0, 1), layout.Subtractive)
				return err
			},
			"seizure whose cut is not over": func(ctx context.Context) error {
				return w.Seize(ctx, held)
			},
			"lease behind another's cut": func(ctx context.Context) error {
				_, err := w.Acquire(ctx, other, AcquireRequest{File: 5, Range: blocks(8, 9), Mode: layout.Exclusive}, nil)
				return err
			},
		} {
			if what == "lease behind another's cut" {
				w.lease(s, blocks(8, 9), nil)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			if what == "seizure whose cut is not over" {
				w.storage.cut = func() error { time.Sleep(5 * time.Second); return nil }
			}
			if err := wait(ctx); !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.EAGAIN) {
				t.Errorf("%s, given up: %v", what, err)
			}
			cancel()
		}
		if err := w.Unpin(t.Context(), s, pin); err != nil && !errors.Is(err, syscall.ENOENT) {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // what goes on behind those who gave up comes to its end
		synctest.Wait()
		for _, sh := range w.shards {
			if c := sh.m.Counts(); c.Requests != 0 || len(sh.waiters) != 0 || len(sh.ends) != 0 {
				t.Errorf("left behind: %+v, %d waiters, %d ends", c, len(sh.waiters), len(sh.ends))
			}
		}
	})
}
