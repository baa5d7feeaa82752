package arbiter_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/internal/remote"
	"holdfast/layout"
)

// storage is one file whose blocks are on a device that remote hosts write to. What is held is not given to others.
type storage struct {
	dev   *remote.Device
	mu    sync.Mutex
	holds int
	cuts  int
}

func (s *storage) Prepare(context.Context, extent.Ino, extent.Range, layout.Access, arbiter.PrepareFlags) error {
	return nil
}

func (s *storage) Hold(extent.Ino, extent.Range, uint32) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds++
	return uint64(s.holds), nil
}

func (s *storage) Unhold(uint64) {}

func (s *storage) Orphan(extent.Ino, uint64, extent.Range) error { return nil }

func (s *storage) Unmap(context.Context, extent.Ino, layout.LeaseID, extent.Range) error { return nil }

func (s *storage) Cut(context.Context, extent.Ino, layout.LeaseID, extent.Range) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts++
	return nil
}

func (s *storage) Get(extent.Ino) error   { return nil }
func (s *storage) Put(extent.Ino)         {}
func (s *storage) Path(extent.Ino) string { return "/file" }

// far is an arbiter with one remote host that has a file pinned, and goes on writing to it.
type far struct {
	*arbiter.Arbiter
	t     *testing.T
	dev   remote.Device
	host  *remote.Host
	lease layout.LeaseID
}

const farFile = 5

var pinned = extent.Range{Off: 0, End: 4 * extent.BlockSize}

func newFar(t *testing.T, cfg arbiter.Config, can arbiter.Capabilities) *far {
	cfg.BreakTime, cfg.StepTime = 10*time.Second, 5*time.Second
	f := &far{Arbiter: arbiter.New(cfg), t: t, host: remote.NewHost("far", can)}
	f.Attach(&storage{dev: &f.dev})
	f.dev.Give(pinned, "far")
	s, err := f.OpenSession(arbiter.SessionInfo{Name: "far", Kind: "remote"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Register(s, f.host)
	if err != nil {
		t.Fatal(err)
	}
	l, err := f.Acquire(t.Context(), s, arbiter.AcquireRequest{File: farFile, Range: pinned, Access: layout.Write}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.lease = l.ID
	pin, err := f.Pin(t.Context(), s, c, l.ID, pinned, layout.Write)
	if err != nil {
		t.Fatal(err)
	}
	f.host.Grip(pin, &f.dev, pinned)
	return f
}

// truncate asks for the range, and gives its blocks to another when it may.
func (f *far) truncate(wait time.Duration) (time.Duration, error) {
	start := time.Now()
	c, err := f.Break(f.t.Context(), arbiter.Caller{OnHold: layout.Revoke, Wait: wait}, farFile, pinned, layout.Subtractive)
	if err == nil {
		f.dev.Give(pinned, "another")
		c.Done()
	}
	f.write()
	return time.Since(start), err
}

// write has the host write. No block that it reaches may be another's.
func (f *far) write() {
	f.t.Helper()
	if err := f.host.Write(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *far) count(kind arbiter.EventKind, reason string) (n int) {
	for _, ev := range f.Recent() {
		if ev.Kind == kind && (reason == "" || ev.Reason == reason) {
			n++
		}
	}
	return n
}

// TestScenario08SilentHolderIsFenced: a holder ignores the break. At the deadline it is cut, and its blocks are another's only then.
func TestScenario08SilentHolderIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t, arbiter.Config{}, arbiter.Capabilities{GiveBack: true, Disassociate: true, Fence: true})
		defer f.Close()
		f.host.Script(layout.GiveBack, remote.Answer{Silent: true})
		f.host.Script(layout.Disassociate, remote.Answer{Err: syscall.EBUSY})
		f.host.Script(layout.Fence, remote.Answer{Delay: 2 * time.Second})
		after, err := f.truncate(arbiter.WaitForever)
		if want := 17 * time.Second; err != nil || after != want {
			t.Errorf("truncate: %v after %v, want nil after %v: the break, a silent step, the fence", err, after, want)
		}
		if want := []layout.CutStep{layout.GiveBack, layout.Disassociate, layout.Fence}; !slices.Equal(f.host.Asked(), want) {
			t.Errorf("steps %v, want %v", f.host.Asked(), want)
		}
		if told := f.host.Told(); len(told) != 1 || told[0].Ask != layout.AskDropPins || told[0].Deadline == nil {
			t.Errorf("the context was told %+v", told)
		}
		if n := f.count(arbiter.EventCutFailed, "disassociate: "+syscall.EBUSY.Error()); n != 1 {
			t.Errorf("%d events tell of the step that failed", n)
		}
		if len(f.Pins(arbiter.Filter{}))+len(f.Leases(arbiter.Filter{})) != 0 {
			t.Errorf("left: %+v %+v", f.Pins(arbiter.Filter{}), f.Leases(arbiter.Filter{}))
		}
	})
}

// TestScenario08MildStepIsEnough: the host gives back what it is asked for, and nothing harder is tried.
func TestScenario08MildStepIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t, arbiter.Config{AllowKill: true}, arbiter.Capabilities{GiveBack: true, Disassociate: true, Fence: true, Kill: true})
		defer f.Close()
		f.host.Script(layout.GiveBack, remote.Answer{Delay: time.Second})
		if after, err := f.truncate(arbiter.WaitForever); err != nil || after != 11*time.Second {
			t.Errorf("truncate: %v after %v", err, after)
		}
		if asked := f.host.Asked(); len(asked) != 1 {
			t.Errorf("steps %v", asked)
		}
	})
}

// TestScenario09FenceFails: a fence fails again and again. Its blocks are nobody else's, the lease is listed as cutting, an event
// tells of each failure; in the end it works.
func TestScenario09FenceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t, arbiter.Config{}, arbiter.Capabilities{Fence: true, Kill: true})
		defer f.Close()
		no := remote.Answer{Err: remote.ErrUnreachable}
		f.host.Script(layout.Fence, no, no, no, no, remote.Answer{})
		if after, err := f.truncate(arbiter.WaitForever); !errors.Is(err, syscall.EAGAIN) || after != 10*time.Second {
			t.Fatalf("truncate: %v after %v", err, after)
		}
		// Tries at 10, 11, 13, 17 s fail, and the one at 25 s works.
		for n := 1; n <= 4; n++ {
			f.write()
			pins := f.Pins(arbiter.Filter{})
			if len(pins) != 1 || pins[0].Cutting == nil || pins[0].Cutting.Tries != n || pins[0].Cutting.Step != 0 {
				t.Fatalf("after %d tries: pins %+v", n, pins)
			}
			if l, err := f.Lease(f.lease); err != nil || l.State != layout.StateCutting {
				t.Fatalf("after %d tries: lease %+v, %v", n, l, err)
			}
			if got := f.count(arbiter.EventCutFailed, "fence: "+remote.ErrUnreachable.Error()); got != n {
				t.Fatalf("after %d tries %d events tell of it", n, got)
			}
			if _, err := f.Break(t.Context(), arbiter.Caller{}, farFile, pinned, layout.Subtractive); !errors.Is(err, syscall.ETXTBSY) {
				t.Fatalf("after %d tries a change that does not revoke: %v", n, err)
			}
			time.Sleep(time.Duration(1<<(n-1))*time.Second + time.Millisecond)
			synctest.Wait()
		}
		if after, err := f.truncate(arbiter.WaitForever); err != nil || after != 0 {
			t.Fatalf("truncate after the fence has worked: %v after %v", err, after)
		}
		if asked := f.host.Asked(); len(asked) != 5 || slices.Contains(asked, layout.Kill) {
			t.Errorf("steps %v", asked)
		}
	})
}

// TestScenario09AdministratorExpires: the fence never works, so all leases of the session are seized; that does not give away its blocks
// either. With its end, which its protocol tells when the host is known gone, they are free.
func TestScenario09AdministratorExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t, arbiter.Config{}, arbiter.Capabilities{Fence: true})
		defer f.Close()
		f.host.Script(layout.Fence, remote.Answer{Err: remote.ErrUnreachable})
		session := f.Sessions(arbiter.Filter{})[0].ID
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.Expire(ctx, session, func() {}); !errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("seize: %v", err)
		}
		f.write()
		if n := f.count(arbiter.EventCutFailed, ""); n < 5 {
			t.Errorf("%d failures in a minute", n)
		}
		if _, err := f.truncate(0); !errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("truncate beside a fence that fails: %v", err)
		}
		f.host.Script(layout.Fence, remote.Answer{})
		if err := f.Expire(t.Context(), session, func() {}); err != nil {
			t.Fatalf("seize once the host can be reached: %v", err)
		}
		if after, err := f.truncate(0); err != nil {
			t.Fatalf("truncate: %v after %v", err, after)
		}
	})
}

// TestKillIsLast: where the administrator allowed it, a host that answers to nothing else loses its session.
func TestKillIsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t, arbiter.Config{AllowKill: true}, arbiter.Capabilities{Fence: true, Kill: true})
		defer f.Close()
		f.host.Script(layout.Fence, remote.Answer{Err: remote.ErrUnreachable})
		if after, err := f.truncate(arbiter.WaitForever); err != nil || after != 10*time.Second {
			t.Errorf("truncate: %v after %v", err, after)
		}
		if asked := f.host.Asked(); !slices.Equal(asked, []layout.CutStep{layout.Fence, layout.Kill}) {
			t.Errorf("steps %v", asked)
		}
	})
}
