package arbiter

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"testing/synctest"

	"holdfast/layout"
)

// closing is a world in which process 100 has a pin on file 5, and thread 101 of it closes.
func closing(t *testing.T, c Closer, seen error) (*world, layout.SessionID, layout.PinID) {
	w := newWorld(t, Config{Closer: func(thread int32) (Closer, error) { return c, seen }})
	s := w.open(100)
	pin, err := w.Pin(t.Context(), s, w.context(s), w.lease(s, whole, nil), blocks(0, 1), layout.Read)
	if err != nil {
		t.Fatal(err)
	}
	return w, s, pin
}

func TestCloseWaits(t *testing.T) {
	ends := map[string]struct {
		end  func(w *world, s layout.SessionID, pin layout.PinID, cancel func())
		want error
	}{
		"unpinned":       {func(w *world, s layout.SessionID, pin layout.PinID, _ func()) { w.Unpin(context.Background(), s, pin) }, nil},
		"session ends":   {func(w *world, s layout.SessionID, _ layout.PinID, _ func()) { w.EndSession(s) }, nil},
		"interrupted":    {func(_ *world, _ layout.SessionID, _ layout.PinID, cancel func()) { cancel() }, syscall.EINTR},
		"server closing": {func(w *world, _ layout.SessionID, _ layout.PinID, _ func()) { w.Close() }, nil},
	}
	for name, e := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s, pin := closing(t, Closer{Process: 100, Threads: 2}, nil)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- w.AwaitUnpinned(ctx, 101, 5) }()
				synctest.Wait()
				select {
				case err := <-done:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
				if evs := w.Recent(); evs[len(evs)-1].Kind != EventWait || evs[len(evs)-1].PID != 100 {
					t.Errorf("the wait is not told: %+v", evs[len(evs)-1])
				}
				e.end(w, s, pin, cancel)
				if err := <-done; !errors.Is(err, e.want) {
					t.Errorf("%v, want %v", err, e.want)
				}
				if n := len(w.shardOf(5).closing); n != 0 && name != "server closing" {
					t.Errorf("%d waits are kept", n)
				}
			})
		})
	}
}

func TestCloseDoesNotWait(t *testing.T) {
	for name, e := range map[string]struct {
		closer Closer
		seen   error
		want   error
	}{
		"another process": {Closer{Process: 200, Threads: 2}, nil, nil},
		"it ends":         {Closer{Process: 100, Threads: 2, Ending: true}, nil, nil},
		"not to be seen":  {Closer{}, os.ErrPermission, nil},
		"alone":           {Closer{Process: 100, Threads: 1}, nil, syscall.EDEADLK},
	} {
		w, _, _ := closing(t, e.closer, e.seen)
		if err := w.AwaitUnpinned(t.Context(), 101, 5); !errors.Is(err, e.want) {
			t.Errorf("%s: %v, want %v", name, err, e.want)
		}
		if err := w.AwaitUnpinned(t.Context(), 101, 6); err != nil {
			t.Errorf("%s, a file without pins: %v", name, err)
		}
	}
	synctest.Test(t, func(t *testing.T) { // who looks hangs, as it can with a process in execve
		stuck := make(chan struct{})
		defer close(stuck)
		w := newWorld(t, Config{Closer: func(int32) (Closer, error) { <-stuck; return Closer{}, nil }})
		s := w.open(100)
		if _, err := w.Pin(t.Context(), s, w.context(s), w.lease(s, whole, nil), blocks(0, 1), layout.Read); err != nil {
			t.Fatal(err)
		}
		if err := w.AwaitUnpinned(t.Context(), 101, 5); err != nil {
			t.Error(err)
		}
	})
}

// TestProcCloser: what /proc says of this process, which does not end.
func TestProcCloser(t *testing.T) {
	lockThread()
	c, err := procCloser(int32(syscall.Gettid()))
	if err != nil || c.Ending || c.Process != int32(os.Getpid()) || c.Threads < 2 {
		t.Errorf("%+v, %v", c, err)
	}
}
