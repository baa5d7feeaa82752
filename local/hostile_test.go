package local_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
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

func message(op wire.Op, body wire.Body) []byte {
	return wire.Append(nil, wire.Header{Op: op, Request: 5}, body)
}

// Each malformed message gets its error, takes nothing with it, and leaves its own
// session and the others as they were.
func TestMalformedMessages(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	rdwr := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	rdonly := open(t, s.FS.Create("g", nil), unix.O_RDONLY)
	wronly := open(t, s.FS.Create("w", nil), unix.O_WRONLY)
	path := open(t, s.FS.Create("h", nil), unix.O_PATH)
	foreign := open(t, "/dev/null", unix.O_RDWR)

	flip := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	good := message(wire.OpAcquire, acquire(block))
	write := acquire(block)
	write.Access = wire.AccessWrite
	allocate := acquire(block)
	allocate.Flags = wire.LeaseAllocate
	huge := flip(flip(good, wire.HeaderSize+7, 0x7f), wire.HeaderSize+15, 0x7f)
	for _, c := range []struct {
		name  string
		msg   []byte
		fds   []int
		errno syscall.Errno
	}{
		{"empty", nil, nil, syscall.EBADMSG},
		{"one byte", []byte{1}, nil, syscall.EBADMSG},
		{"half a header", good[:8], nil, syscall.EBADMSG},
		{"half a body", good[:20], []int{rdwr}, syscall.EBADMSG},
		{"longer than its header says", append(bytes.Clone(good), 0), []int{rdwr}, syscall.EBADMSG},
		{"longer than any request", make([]byte, wire.MaxRequest+1), nil, syscall.EMSGSIZE},
		{"reserved field", flip(good, len(good)-1, 1), []int{rdwr}, syscall.EINVAL},
		{"unknown flag", flip(good, wire.HeaderSize+19, 0x80), []int{rdwr}, syscall.EINVAL},
		{"overflowing range", huge, []int{rdwr}, syscall.EINVAL},
		{"an answer", flip(good, 2, byte(wire.FlagReply)), []int{rdwr}, syscall.EINVAL},
		{"unknown operation", flip(good, 0, 200), nil, syscall.EOPNOTSUPP},
		{"a second HELLO", message(wire.OpHello, &wire.Hello{Version: wire.Version}), nil, syscall.EOPNOTSUPP},
		{"ATTACH in a session", message(wire.OpAttach, &wire.Attach{}), nil, syscall.EOPNOTSUPP},
		{"no descriptor", good, nil, syscall.EINVAL},
		{"two descriptors", good, []int{rdwr, rdonly}, syscall.EINVAL},
		{"unasked descriptor", message(wire.OpUnpin, &wire.ID{ID: 1}), []int{rdwr}, syscall.EINVAL},
		{"file of another filesystem", good, []int{foreign}, syscall.EXDEV},
		{"O_PATH", good, []int{path}, syscall.EBADF},
		{"write lease, read-only descriptor", message(wire.OpAcquire, write), []int{rdonly}, syscall.EACCES},
		{"write lease, write-only descriptor", message(wire.OpAcquire, write), []int{wronly}, syscall.EACCES},
		{"read lease that allocates", message(wire.OpAcquire, allocate), []int{rdwr}, syscall.EACCES},
		{"change, read-only descriptor", message(wire.OpChange, &wire.Change{Kind: wire.ChangePunch, Range: block}), []int{rdonly}, syscall.EBADF},
		{"change that is a write", message(wire.OpChange, &wire.Change{Kind: wire.ChangeWrite, Range: block}), []int{rdwr}, syscall.EINVAL},
		{"lease of nobody", message(wire.OpReturn, &wire.Return{Lease: 99, Range: block}), nil, syscall.ENOENT},
		{"context of nobody", message(wire.OpPin, &wire.Pin{Context: 1, Lease: 1, Range: block, Access: wire.AccessRead}), nil, syscall.ENOENT},
		{"admits a file", message(wire.OpAdmit, nil), []int{rdwr}, syscall.EBADF},
		{"cancels nothing", message(wire.OpCancel, &wire.Cancel{Request: 3}), nil, syscall.ENOENT},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := openFDs(t)
			other, _ := hello(t, s.Socket, 0)
			r, _ := hello(t, s.Socket, 0)
			r.send(c.msg, c.fds...)
			errno, text := r.answer()
			if errno != c.errno || len(text) == 0 {
				t.Errorf("%v %q, want %v", errno, text, c.errno)
			}
			r.ping()
			other.ping()
			r.f.Close()
			other.f.Close()
			s.Await(t, "sessions end", func() bool { return s.Stats().Connections == 0 })
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors open, %d before", after, before)
			}
		})
	}
}

func openFDs(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// A descriptor that nobody asked for is closed at once, and 253 of them too.
func TestUnaskedDescriptorsAreClosed(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	r, _ := hello(t, s.Socket, 0)
	for _, n := range []int{1, 2, 3, 253} {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		fds := make([]int, n)
		for i := range fds {
			fds[i] = p[1]
		}
		r.send(message(wire.OpLeaseInfo, &wire.ID{ID: 1}), fds...)
		if err := unix.Close(p[1]); err != nil {
			t.Fatal(err)
		}
		want := syscall.EINVAL
		if n == 253 {
			want = syscall.EMFILE // the server did not let them in
		}
		if errno, text := r.answer(); errno != want {
			t.Errorf("%d descriptors: %v %s", n, errno, text)
		}
		// With no writer left, the pipe is at its end.
		if got, err := unix.Read(p[0], make([]byte, 1)); got != 0 || err != nil {
			t.Errorf("%d descriptors: pipe: %d, %v", n, got, err)
		}
		unix.Close(p[0])
	}
	r.ping()
}

func TestFirstMessage(t *testing.T) {
	s := localtest.Start(t, localtest.Options{Limits: local.Limits{HelloTime: 50 * time.Millisecond}})
	rdwr := open(t, s.FS.Create("f", nil), unix.O_RDWR)
	version := message(wire.OpHello, &wire.Hello{Version: 2})
	for _, c := range []struct {
		name string
		msg  []byte
		fds  []int
		text string
	}{
		{"a request", message(wire.OpUnpin, &wire.ID{ID: 1}), nil, "HELLO"},
		{"another version", version, nil, "version 2"},
		{"descriptors", message(wire.OpHello, &wire.Hello{Version: 1}), []int{rdwr}, "no descriptors"},
		{"empty", nil, nil, "empty"},
		{"garbage", bytes.Repeat([]byte{0xff}, 100), nil, "bytes follow"},
		{"guessed ticket", message(wire.OpAttach, &wire.Attach{Ticket: wire.Ticket{1, 2, 3}}), nil, "unknown"},
	} {
		r := connect(t, s.Socket)
		r.send(c.msg, c.fds...)
		if text := string(r.ended()); !strings.Contains(text, c.text) {
			t.Errorf("%s: %q, want %q", c.name, text, c.text)
		}
	}
	// One that says nothing, or only half closes, is ended too.
	silent, half := connect(t, s.Socket), connect(t, s.Socket)
	if err := half.rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		t.Fatal(err)
	}
	silent.ended()
	half.ended()
	s.Await(t, "connections end", func() bool { return s.Stats().Connections == 0 })
}

// A client that asks and never reads loses its session; nobody else notices.
func TestClientThatNeverReads(t *testing.T) {
	s := localtest.Start(t, localtest.Options{Limits: local.Limits{WriteTime: 100 * time.Millisecond}})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	other, _ := hello(t, s.Socket, 0)
	guilty, _ := hello(t, s.Socket, 0)
	h, _ := guilty.lease(s, fd)
	ask := message(wire.OpLeaseInfo, &wire.ID{ID: 1})
	for {
		err := guilty.try(ask)
		other.ping() // answered all the while
		if err == syscall.EAGAIN {
			continue // both directions are full
		}
		if err != nil {
			break // hung up on
		}
	}
	s.Await(t, "session ends", func() bool { return s.Stats().Sessions == 1 })
	other.ping()
	// Its lease has a handle, and so lives on, unattended.
	s.Await(t, "lease is unattended", func() bool {
		l := s.Arbiter.Leases(arbiter.Filter{})
		return len(l) == 1 && l[0].Unattended
	})
	h.f.Close()
	s.Await(t, "lease ends", func() bool { return len(s.Arbiter.Leases(arbiter.Filter{})) == 0 })
}

// Descriptors that one client does not read are counted, and refused to it alone.
func TestUnreadDescriptors(t *testing.T) {
	s := localtest.Start(t, localtest.Options{Limits: local.Limits{InFlight: 64}})
	fd := open(t, s.FS.Create("f", make([]byte, 1<<20)), unix.O_RDWR)
	guilty, _ := hello(t, s.Socket, 0)
	var l wire.LeaseReply
	whole := extent.Range{End: 8 * localtest.Granule}
	guilty.must(wire.OpAcquire, acquire(whole), &l, fd)
	ask := message(wire.OpMap, &wire.Map{Lease: l.Lease, Range: whole})
	other, _ := hello(t, s.Socket, 0)
	// 8 windows each: after 32 descriptors that it has not read, no more.
	for range 8 {
		had := guilty.queued()
		for guilty.send(ask); guilty.queued() == had; {
			other.ping()
		}
	}
	refused := false
	var l2 wire.LeaseReply
	other.must(wire.OpAcquire, acquire(whole), &l2, fd)
	other.send(message(wire.OpMap, &wire.Map{Lease: l2.Lease, Range: whole}))
	if hdr, body, fds, _ := other.receive(); hdr.Status != 0 || len(fds) != 8 {
		t.Fatalf("innocent client: %v %s", syscall.Errno(hdr.Status), body)
	} else {
		closeAll(fds)
	}
	if n := s.Stats().InFlight; n > 32+8 {
		t.Errorf("%d descriptors in flight", n)
	}
	for range 8 {
		hdr, body, fds, _ := guilty.receive()
		closeAll(fds)
		if syscall.Errno(hdr.Status) == syscall.ETOOMANYREFS {
			refused = true
			if !strings.Contains(string(body), "32 descriptors") {
				t.Errorf("error does not name the limit: %s", body)
			}
		}
	}
	if !refused {
		t.Error("the limit was not met")
	}
	// It has read: now it gets some again.
	guilty.send(ask)
	if hdr, body, fds, _ := guilty.receive(); hdr.Status != 0 || len(fds) != 8 {
		t.Fatalf("after reading: %v %s", syscall.Errno(hdr.Status), body)
	} else {
		closeAll(fds)
	}
}

// All sessions of a user together have a limit too, also those that have ended: what
// they have not read is on its way for as long as their client has its end open.
func TestUnreadDescriptorsOfAUser(t *testing.T) {
	s := localtest.Start(t, localtest.Options{Limits: local.Limits{InFlight: 64}})
	fd := open(t, s.FS.Create("f", make([]byte, 1<<20)), unix.O_RDWR)
	whole := extent.Range{End: 8 * localtest.Granule}
	mapAll := func() (*raw, func()) {
		r, _ := hello(t, s.Socket, 0)
		var l wire.LeaseReply
		r.must(wire.OpAcquire, acquire(whole), &l, fd)
		return r, func() { r.send(message(wire.OpMap, &wire.Map{Lease: l.Lease, Range: whole})) }
	}
	other, _ := hello(t, s.Socket, 0)
	var guilty []*raw
	for range 2 {
		r, ask := mapAll()
		guilty = append(guilty, r)
		for range 4 {
			had := r.queued()
			for ask(); r.queued() == had; {
				other.ping()
			}
		}
	}
	refused := func(when string) {
		t.Helper()
		r, ask := mapAll()
		defer r.f.Close()
		ask()
		if errno, text := r.answer(); errno != syscall.ETOOMANYREFS || !strings.Contains(string(text), "64 descriptors sent to user") {
			t.Errorf("%s: %v %s", when, errno, text)
		}
	}
	refused("two sessions have read nothing")
	// The server ends them; their ends here are open and full.
	for _, r := range guilty {
		r.send(message(wire.OpUnpin, nil)) // wakes the reader, to no effect
		if err := r.rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
			t.Fatal(err)
		}
	}
	s.Await(t, "sessions end", func() bool { return s.Stats().Sessions == 1 })
	refused("two ended sessions have read nothing")
	for _, r := range guilty {
		r.f.Close()
	}
	r, ask := mapAll()
	ask()
	if hdr, body, fds, _ := r.receive(); hdr.Status != 0 || len(fds) != 8 {
		t.Fatalf("after they closed: %v %s", syscall.Errno(hdr.Status), body)
	} else {
		closeAll(fds)
	}
}

// queued returns how many bytes wait to be read.
func (r *raw) queued() (n int) {
	r.t.Helper()
	var err error
	ctl := r.rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	if err := errors.Join(ctl, err); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
