package arbiter

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"holdfast/extent"
	"holdfast/layout"
)

func TestRefusalSaysWho(t *testing.T) {
	w := newWorld(t, Config{})
	s := w.open(100)
	lease := w.lease(s, whole, newHolder())
	c, err := w.Register(s, fakeContext("uverbs0"))
	if err != nil {
		t.Fatal(err)
	}
	pin, err := w.Pin(t.Context(), s, c, lease, blocks(0, 1), layout.Write)
	if err != nil {
		t.Fatal(err)
	}
	events := w.Subscribe(10)
	defer events.Close()

	_, err = w.Break(t.Context(), Caller{PID: 999}, 5, whole, layout.Subtractive)
	var refused *Refused
	if !errors.Is(err, syscall.ETXTBSY) || !errors.As(err, &refused) {
		t.Fatalf("break: %v", err)
	}
	b := refused.Blockers[0]
	if b.Pin != pin || b.Context != c || b.ContextName != "uverbs0" || b.PID != 100 || b.Program != "prog100" {
		t.Fatalf("blocker %+v", b)
	}
	ev := <-events.C
	if ev.Kind != EventRefuse || ev.Errno != syscall.ETXTBSY || ev.Reason == "" || len(ev.Blockers) == 0 || ev.Path != "/file5" {
		t.Fatalf("event %+v", ev)
	}
	foreseen, errno := w.Would(Caller{PID: 999}, 5, whole, layout.Subtractive)
	if errno != syscall.ETXTBSY || len(foreseen) != 2 {
		t.Fatalf("would: %v %+v", errno, foreseen)
	}
	text, err := json.Marshal(w.Pins(Filter{}))
	if want := `"range":{"offset":0,"length":4096},"access":"write"`; err != nil || !strings.Contains(string(text), want) {
		t.Fatalf("listing %s lacks %s (%v)", text, want, err)
	}
	if err := w.CloseContext(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// TestDenialsAreTold: what asks for something that is gone is told to be denied; only the close of a lease that has ended refuses nobody.
func TestDenialsAreTold(t *testing.T) {
	w := newWorld(t, Config{})
	s := w.open(100)
	lease := w.lease(s, blocks(0, 4), nil)
	ctx := t.Context()
	if err := w.Return(ctx, s, lease, whole); err != nil {
		t.Fatal(err)
	}
	before := len(w.Recent())
	if err := w.CloseLease(ctx, lease); err != nil {
		t.Errorf("close of a lease that is gone: %v", err)
	}
	if err := w.Return(ctx, s, lease, whole); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("return of a lease that is gone: %v", err)
	}
	told := w.Recent()[before:]
	if len(told) != 1 || told[0].Kind != EventDeny || told[0].Errno != syscall.ENOENT || told[0].Lease != lease || told[0].Range == nil {
		t.Errorf("events %+v", told)
	}
}

// TestOwn: the process of the session, its threads, its descendants and those it admitted are "own"; a co-holder is not.
func TestOwn(t *testing.T) {
	family := map[int32][2]int32{ // thread → process, parent
		101: {100, 1},                    // a thread of 100
		300: {300, 250}, 250: {250, 100}, // a grandchild
		400: {400, 1},
	}
	synctest.Test(t, func(t *testing.T) { // /proc is asked for 100 ms only, which a busy machine can be elsewhere
		w := newWorld(t, Config{Lineage: func(pid int32) (int32, int32, error) {
			if f, ok := family[pid]; ok {
				return f[0], f[1], nil
			}
			return 0, 0, syscall.ESRCH
		}})
		defer w.Close()
		s := w.open(100)
		lease := w.lease(s, whole, newHolder())
		if _, err := w.Pin(t.Context(), s, w.context(s), lease, blocks(0, 1), layout.Read); err != nil {
			t.Fatal(err)
		}
		if err := w.Admit(s, 500); err != nil {
			t.Fatal(err)
		}
		for pid, want := range map[int32]syscall.Errno{
			100: syscall.EDEADLK, 101: syscall.EDEADLK, 300: syscall.EDEADLK, 500: syscall.EDEADLK, 400: syscall.ETXTBSY, 77: syscall.ETXTBSY,
		} {
			if _, err := w.Break(t.Context(), Caller{PID: pid}, 5, whole, layout.Subtractive); !errors.Is(err, want) {
				t.Errorf("break by %d: %v, want %v", pid, err, want)
			}
		}
		// So is another session of the process, by which it may have pinned something elsewhere. A later process of that number is not.
		second, idle, stranger := w.open(100), w.open(100), w.open(400)
		if _, err := w.Pin(t.Context(), second, w.context(second), w.lease(second, blocks(8, 9), nil), blocks(8, 9), layout.Read); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			Caller
			r    extent.Range
			want syscall.Errno
		}{
			"the second session":             {Caller{PID: 100, Session: second}, blocks(0, 1), syscall.EDEADLK},
			"one that holds nothing":         {Caller{PID: 100, Session: idle}, whole, syscall.EDEADLK},
			"the first session":              {Caller{PID: 100, Session: s}, blocks(8, 9), syscall.EDEADLK},
			"the process through the mount":  {Caller{PID: 100}, blocks(0, 1), syscall.EDEADLK},
			"the process, at the other":      {Caller{PID: 100}, blocks(8, 9), syscall.EDEADLK},
			"a session of another process":   {Caller{PID: 400, Session: stranger}, blocks(0, 1), syscall.ETXTBSY},
			"a session, of all of its pins":  {Caller{PID: 100, Session: second}, whole, syscall.EDEADLK},
			"a stranger, of all of the pins": {Caller{PID: 400, Session: stranger}, whole, syscall.ETXTBSY},
		} {
			if _, err := w.Break(t.Context(), c.Caller, 5, c.r, layout.Subtractive); !errors.Is(err, c.want) {
				t.Errorf("break by %s: %v, want %v", name, err, c.want)
			}
			if _, errno := w.Would(c.Caller, 5, c.r, layout.Subtractive); errno != c.want {
				t.Errorf("break by %s: foreseen %v, want %v", name, errno, c.want)
			}
		}
		w.EndSession(second)
		w.EndSession(idle)
		w.Dismiss(s, 500)
		if got := w.SessionOf(500); got != 0 {
			t.Errorf("a dismissed process still speaks for session %d", got)
		}
		w.EndSession(s)
		if got := w.SessionOf(100); got != 0 {
			t.Errorf("process 100 still speaks for session %d", got)
		}
		if _, err := w.Break(t.Context(), Caller{PID: 100, Session: w.open(100)}, 5, whole, layout.Subtractive); !errors.Is(err, syscall.ETXTBSY) {
			t.Errorf("break by a later process of that number: %v", err)
		}
	})
}

func TestHangingProcIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		w := newWorld(t, Config{Lineage: func(int32) (int32, int32, error) { <-hang; return 0, 0, syscall.ESRCH }})
		defer w.Close()
		w.lease(w.open(100), whole, newHolder(), unbreakable)
		for range 2 * maxLookups {
			start := time.Now()
			_, err := w.Break(t.Context(), Caller{PID: 9}, 5, whole, layout.Subtractive)
			if !errors.Is(err, syscall.ETXTBSY) || time.Since(start) > lookupLimit {
				t.Fatalf("break: %v after %v", err, time.Since(start))
			}
		}
		close(hang)
		synctest.Wait()
	})
}

// TestProcLineage asks the real /proc, about a thread and about a child.
func TestProcLineage(t *testing.T) {
	tid := make(chan int32)
	stop := make(chan struct{})
	go func() { // a thread of its own: it is never unlocked, so it is not reused
		lockThread()
		tid <- int32(unix.Gettid())
		<-stop
	}()
	defer close(stop)
	if process, parent, err := procLineage(<-tid); err != nil || int(process) != os.Getpid() || int(parent) != os.Getppid() {
		t.Errorf("thread: process %d parent %d: %v", process, parent, err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, parent, err := procLineage(int32(cmd.Process.Pid)); err != nil || int(parent) != os.Getpid() {
		t.Errorf("child: parent %d: %v", parent, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestRights(t *testing.T) {
	w := newWorld(t, Config{})
	s1, s2 := w.open(100), w.open(200)
	lease := w.lease(s1, blocks(0, 4), newHolder())
	ctx := t.Context()
	for what, err := range map[string]error{
		"return of another's lease": w.Return(ctx, s2, lease, whole),
		"unbreakable without right": second(w.Acquire(ctx, s1, AcquireRequest{File: 5, Range: whole, Unbreakable: true}, nil)),
		"upgrade without right":     second(w.Modify(ctx, s1, lease, ModifyRequest{Access: layout.Write, Unbreakable: true})),
	} {
		if !errors.Is(err, syscall.EPERM) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := w.Acquire(ctx, 12345, AcquireRequest{File: 5, Range: whole}, nil); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("acquire of nobody: %v", err)
	}
	if l, err := w.Modify(ctx, s1, lease, ModifyRequest{Access: layout.Write, Mode: layout.Exclusive, MayUnbreakable: true, Unbreakable: true}); err != nil ||
		!l.Unbreakable || l.Mode != layout.Exclusive || l.Seq != 2 {
		t.Errorf("modify: %+v %v", l, err)
	}
	if _, err := w.Break(ctx, Caller{}, 5, extent.Range{Off: 0, End: 1}, layout.Additive); !errors.Is(err, syscall.ETXTBSY) {
		t.Errorf("additive change into an exclusive lease: %v", err)
	}
	if err := w.CloseLease(ctx, lease); err != nil {
		t.Error(err)
	}
	if refs, _ := w.storage.count(); refs != 0 {
		t.Errorf("%d files are kept", refs)
	}
}

func second[T any](_ T, err error) error { return err }
