package local_test

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/local/localtest"
	"holdfast/wire"
)

func TestMain(m *testing.M) {
	helpers.Run()
	goleak.VerifyTestMain(m)
}

// A raw connection speaks bytes, also wrong ones.
type raw struct {
	t  testing.TB
	f  *os.File
	rc syscall.RawConn
}

func connect(t testing.TB, socket string) *raw {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	return newRaw(t, fd)
}

func newRaw(t testing.TB, fd int) *raw {
	t.Helper()
	f := os.NewFile(uintptr(fd), "raw")
	rc, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	r := &raw{t, f, rc}
	t.Cleanup(func() { f.Close() })
	return r
}

// patience bounds each wait for an answer: a wait that ends by it is a failure.
const patience = 20 * time.Second

// try sends bytes and descriptors without waiting.
func (r *raw) try(p []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	var err error
	ctl := r.rc.Control(func(fd uintptr) { _, err = unix.SendmsgN(int(fd), p, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) })
	return errors.Join(ctl, err)
}

func (r *raw) send(p []byte, fds ...int) {
	r.t.Helper()
	if err := r.try(p, fds...); err != nil {
		r.t.Fatal(err)
	}
}

// receive waits for a message; n = 0 is the end of the connection.
func (r *raw) receive() (hdr wire.Header, body []byte, fds []int, ended bool) {
	r.t.Helper()
	buf, oob := make([]byte, wire.MaxMessage), make([]byte, unix.CmsgSpace(4*wire.MaxFDs))
	var n, oobn int
	var err error
	if err := r.f.SetReadDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	wait := r.rc.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, syscall.EAGAIN)
	})
	switch {
	case wait != nil:
		r.t.Fatalf("no answer: %v", wait)
	case errors.Is(err, syscall.ECONNRESET) || err == nil && n == 0:
		return hdr, nil, nil, true
	case err != nil:
		r.t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			r.t.Fatal(err)
		}
		fds = append(fds, got...)
	}
	hdr, body, err = wire.ParseHeader(buf[:n])
	if err != nil {
		r.t.Fatal(err)
	}
	return hdr, body, fds, false
}

// answer waits for the answer to a request and returns its errno and body.
func (r *raw) answer() (syscall.Errno, []byte) {
	r.t.Helper()
	for {
		hdr, body, _, ended := r.receive()
		if ended {
			r.t.Fatal("connection was ended")
		}
		if hdr.Op != wire.OpEvent {
			return syscall.Errno(hdr.Status), body
		}
	}
}

// call sends a request and decodes its answer.
func (r *raw) call(op wire.Op, req, reply wire.Body, fds ...int) syscall.Errno {
	r.t.Helper()
	r.send(wire.Append(nil, wire.Header{Op: op, Request: 1}, req), fds...)
	errno, body := r.answer()
	if errno == 0 && reply != nil {
		if err := reply.Decode(body); err != nil {
			r.t.Fatal(err)
		}
	}
	return errno
}

// must is call that succeeds.
func (r *raw) must(op wire.Op, req, reply wire.Body, fds ...int) {
	r.t.Helper()
	r.send(wire.Append(nil, wire.Header{Op: op, Request: 1}, req), fds...)
	errno, body := r.answer()
	if errno != 0 {
		r.t.Fatalf("%v: %v: %s", op, errno, body)
	}
	if reply != nil {
		if err := reply.Decode(body); err != nil {
			r.t.Fatal(err)
		}
	}
}

func hello(t testing.TB, socket string, flags uint32) (*raw, wire.HelloReply) {
	t.Helper()
	r := connect(t, socket)
	var reply wire.HelloReply
	r.must(wire.OpHello, &wire.Hello{Version: wire.Version, Flags: flags}, &reply)
	return r, reply
}

// ping makes sure that the session answers.
func (r *raw) ping() {
	r.t.Helper()
	if errno := r.call(wire.OpLeaseInfo, &wire.ID{ID: 1 << 60}, nil); errno != syscall.ENOENT {
		r.t.Fatalf("ping: %v", errno)
	}
}

// ended waits until the server ends the connection, reading what it says before.
func (r *raw) ended() []byte {
	r.t.Helper()
	var last []byte
	for {
		_, body, fds, ended := r.receive()
		for _, fd := range fds {
			unix.Close(fd)
		}
		if ended {
			return last
		}
		last = body
	}
}

func open(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func acquire(r extent.Range) *wire.Acquire {
	return &wire.Acquire{Range: r, Access: wire.AccessRead, Mode: wire.ModeShared}
}

var block = extent.Range{Off: 0, End: extent.BlockSize}

// lease gets a lease and its handle.
func (r *raw) lease(s *localtest.Server, fd int) (*raw, wire.LeaseReply) {
	r.t.Helper()
	var l wire.LeaseReply
	r.must(wire.OpAcquire, acquire(block), &l, fd)
	h := connect(r.t, s.Socket)
	var a wire.AttachReply
	h.must(wire.OpAttach, &wire.Attach{Ticket: l.Ticket}, &a)
	if a.Kind != wire.ObjectLease || a.ID != l.Lease {
		r.t.Fatalf("attached %+v to lease %d", a, l.Lease)
	}
	return h, l
}
