package local_test

import (
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/local"
	"holdfast/local/localtest"
	"holdfast/wire"
)

// A clock that stands until it is moved.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	timers []*timer
}

type timer struct {
	c  chan time.Time
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) NewTimer(d time.Duration) arbiter.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &timer{make(chan time.Time, 1), c.now.Add(d)}
	c.timers = append(c.timers, t)
	return t
}

func (t *timer) C() <-chan time.Time { return t.c }
func (t *timer) Stop() bool          { return true }

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.timers = slices.DeleteFunc(c.timers, func(t *timer) bool {
		due := !t.at.After(c.now)
		if due {
			t.c <- c.now
		}
		return due
	})
}

func leases(s *localtest.Server) int { return len(s.Arbiter.Leases(arbiter.Filter{})) }

func TestTickets(t *testing.T) {
	c := &clock{now: time.Unix(1000, 0)}
	s := localtest.Start(t, localtest.Options{Clock: c})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	r, _ := hello(t, s.Socket, 0)
	attach := func(k wire.Ticket) syscall.Errno {
		return connect(t, s.Socket).call(wire.OpAttach, &wire.Attach{Ticket: k}, nil)
	}
	t.Run("used twice", func(t *testing.T) {
		h, l := r.lease(s, fd)
		if errno := attach(l.Ticket); errno != syscall.EACCES {
			t.Errorf("second use: %v", errno)
		}
		h.f.Close()
		s.Await(t, "lease ends", func() bool { return leases(s) == 0 })
		if errno := attach(l.Ticket); errno != syscall.EACCES {
			t.Errorf("use after the end: %v", errno)
		}
	})
	t.Run("guessed", func(t *testing.T) {
		var l wire.LeaseReply
		r.must(wire.OpAcquire, acquire(block), &l, fd)
		for bit := range 128 {
			k := l.Ticket
			k[bit/8] ^= 1 << (bit % 8)
			if errno := attach(k); errno != syscall.EACCES {
				t.Fatalf("ticket with bit %d wrong: %v", bit, errno)
			}
		}
		if errno := attach(l.Ticket); errno != 0 {
			t.Errorf("right ticket after wrong ones: %v", errno)
		}
		r.must(wire.OpReturn, &wire.Return{Lease: l.Lease, Range: extent.Range{End: extent.Inf}}, nil)
	})
	t.Run("expired", func(t *testing.T) {
		var l wire.LeaseReply
		r.must(wire.OpAcquire, acquire(block), &l, fd)
		c.advance(9 * time.Second)
		r.ping()
		if leases(s) != 1 {
			t.Fatal("lease ended before its ticket expired")
		}
		c.advance(2 * time.Second)
		s.Await(t, "lease ends with its ticket", func() bool { return leases(s) == 0 })
		if errno := attach(l.Ticket); errno != syscall.EACCES {
			t.Errorf("expired ticket: %v", errno)
		}
	})
	t.Run("session ended", func(t *testing.T) {
		r, _ := hello(t, s.Socket, 0)
		var l wire.LeaseReply
		r.must(wire.OpAcquire, acquire(block), &l, fd)
		r.f.Close()
		s.Await(t, "lease ends with its session", func() bool { return leases(s) == 0 })
		if errno := attach(l.Ticket); errno != syscall.EACCES {
			t.Errorf("attached after the session's end: %v", errno)
		}
	})
	if n := s.Stats().Tickets; n != 0 {
		t.Errorf("%d tickets are left", n)
	}
}

// The end of a handle is the end of its last copy, or a hang-up, or a message on it,
// which nobody has to send.
func TestHandleEnds(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	r, _ := hello(t, s.Socket, 0)
	for name, end := range map[string]func(h *raw){
		"close": func(h *raw) { h.f.Close() },
		"shutdown of a copy": func(h *raw) {
			_ = h.rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		},
		"half-close": func(h *raw) {
			_ = h.rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
		},
		"message":       func(h *raw) { h.send([]byte("hello")) },
		"empty message": func(h *raw) { h.send(nil) },
		"sent over itself": func(h *raw) {
			_ = h.rc.Control(func(fd uintptr) { h.send([]byte{1}, int(fd)) })
			h.f.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := r.lease(s, fd)
			var dup int
			if err := h.rc.Control(func(fd uintptr) { dup, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
				t.Fatal(err)
			}
			if name == "close" || name == "sent over itself" {
				h.f.Close()
				r.ping()
				r.ping()
				if leases(s) != 1 {
					t.Fatal("lease ended though a copy of its handle is open")
				}
				h = newRaw(t, dup)
			} else {
				defer unix.Close(dup)
			}
			end(h)
			s.Await(t, "lease ends", func() bool { return leases(s) == 0 })
			r.ping()
		})
	}
}

// A released lease hangs up its handle, so that whoever polls it knows.
func TestReleaseHangsUp(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	r, _ := hello(t, s.Socket, 0)
	h, l := r.lease(s, fd)
	var left wire.LeaseReply
	r.must(wire.OpReturn, &wire.Return{Lease: l.Lease, Range: extent.Range{End: extent.Inf}}, &left)
	if left.State != wire.StateReleased || len(left.Pieces) != 0 {
		t.Errorf("after release: %+v", left)
	}
	h.ended()
	if errno := r.call(wire.OpLeaseInfo, &wire.ID{ID: l.Lease}, nil); errno != syscall.ENOENT {
		t.Errorf("info after release: %v", errno)
	}
}

func TestLimits(t *testing.T) {
	s := localtest.Start(t, localtest.Options{Limits: local.Limits{Connections: 8, Sessions: 3, Leases: 2, Contexts: 1, Requests: 2}})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	refused := func(r *raw, op wire.Op, body wire.Body, want syscall.Errno, text string, fds ...int) {
		t.Helper()
		r.send(message(op, body), fds...)
		if errno, got := r.answer(); errno != want || !strings.Contains(string(got), text) {
			t.Errorf("%v: %v %q, want %v %q", op, errno, got, want, text)
		}
	}
	a, info := hello(t, s.Socket, 0)
	if info.MaxLeases != 2 || info.MaxRequests != 2 {
		t.Errorf("limits told: %+v", info)
	}
	b, _ := hello(t, s.Socket, 0)
	c, _ := hello(t, s.Socket, 0)
	refused(connect(t, s.Socket), wire.OpHello, &wire.Hello{Version: 1}, syscall.EUSERS, "limit of 3 sessions")
	h1, _ := a.lease(s, fd)
	a.lease(s, fd)
	refused(a, wire.OpAcquire, acquire(block), syscall.ENOLCK, "limit of 2 leases", fd)
	a.must(wire.OpRegister, &wire.Register{Kind: wire.ContextMemory}, &wire.RegisterReply{})
	refused(a, wire.OpRegister, &wire.Register{Kind: wire.ContextMemory}, syscall.EMFILE, "limit of 1 contexts")
	// What is given back can be had again.
	h1.f.Close()
	s.Await(t, "lease ends", func() bool { return leases(s) == 1 })
	h1, _ = a.lease(s, fd)

	// Two exclusive requests wait for a's leases; the third is one too many.
	exclusive := acquire(block)
	exclusive.Mode = wire.ModeExclusive
	for i := range 2 {
		b.send(wire.Append(nil, wire.Header{Op: wire.OpAcquire, Request: uint32(i)}, exclusive), fd)
	}
	refused(b, wire.OpAcquire, exclusive, syscall.EBUSY, "limit of 2 requests", fd)
	b.ping() // what need not wait does not
	b.send(message(wire.OpCancel, &wire.Cancel{Request: 1}))
	for range 2 { // in any order
		hdr, _, _, _ := b.receive()
		switch {
		case hdr.Op == wire.OpAcquire && hdr.Request == 1 && syscall.Errno(hdr.Status) == syscall.EINTR:
		case hdr.Op == wire.OpCancel && hdr.Status == 0:
		default:
			t.Errorf("cancelled: %+v", hdr)
		}
	}
	c.ping()

	// 3 sessions and 2 handles are 5 connections, and three more may say nothing yet.
	for range 3 {
		connect(t, s.Socket)
	}
	s.Await(t, "eight connections", func() bool { return s.Stats().Connections == 8 })
	late := connect(t, s.Socket)
	if text := string(late.ended()); !strings.Contains(text, "limit of 8 connections") {
		t.Errorf("ninth connection: %q", text)
	}
	_ = h1
}

func TestRegisterChecksTheDescriptor(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	r, _ := hello(t, s.Socket, 0)
	file := open(t, s.FS.Create("anon_inode:[io_uring]", nil), unix.O_RDWR)
	null := open(t, "/dev/null", unix.O_RDWR)
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(udp)
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC) // an anonymous inode too
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	for _, c := range []struct {
		kind wire.ContextKind
		fds  []int
	}{
		{wire.ContextXDP, []int{udp}},
		{wire.ContextXDP, []int{file}},
		{wire.ContextXDP, nil},
		{wire.ContextIOUring, []int{file}}, // comes by number
		{wire.ContextRDMA, []int{null}},
		{wire.ContextRDMA, []int{file}},
		{wire.ContextMemory, []int{null}},
	} {
		if errno := r.call(wire.OpRegister, &wire.Register{Kind: c.kind}, nil, c.fds...); errno != syscall.EINVAL {
			t.Errorf("kind %d with %v: %v", c.kind, c.fds, errno)
		}
	}
	for fd, want := range map[int]syscall.Errno{file: syscall.EINVAL, epoll: syscall.EINVAL, 9999: syscall.EBADF} {
		if errno := r.call(wire.OpRegister, &wire.Register{Kind: wire.ContextIOUring, Number: uint32(fd)}, nil); errno != want {
			t.Errorf("io_uring by number %d: %v, want %v", fd, errno, want)
		}
	}
	register := func(kind wire.ContextKind, name string, number int, fds ...int) {
		t.Helper()
		before := openFDs(t)
		var reply wire.RegisterReply
		r.must(wire.OpRegister, &wire.Register{Kind: kind, Number: uint32(number)}, &reply, fds...)
		if !strings.Contains(reply.Name, name) {
			t.Errorf("kind %d is called %q, want %q", kind, reply.Name, name)
		}
		if after := openFDs(t); after != before {
			t.Errorf("kind %d: the server keeps a copy: %d descriptors, %d before", kind, after, before)
		}
	}
	register(wire.ContextMemory, "memory", 0)
	t.Run("io_uring", func(t *testing.T) {
		ring, err := ioUring()
		if err != nil {
			t.Skip("no io_uring here:", err)
		}
		defer unix.Close(ring)
		register(wire.ContextIOUring, "anon_inode:[io_uring]", ring)
	})
	t.Run("xdp", func(t *testing.T) {
		xsk, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Skip("no AF_XDP socket here:", err)
		}
		defer unix.Close(xsk)
		register(wire.ContextXDP, "AF_XDP", 0, xsk)
	})
}

func ioUring() (int, error) {
	var params [120]byte // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, addressOf(&params), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
