package packet_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/packet"
)

func pair(t testing.TB) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func ends(t testing.TB, timeout time.Duration) (*packet.Sender, *packet.Receiver, func()) {
	t.Helper()
	a, b := pair(t)
	ac, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	bc, err := b.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return packet.NewSender(ac, a.SetWriteDeadline, timeout), packet.NewReceiver(bc, 64, unix.CmsgSpace(8)), func() { a.Close() }
}

func TestMessages(t *testing.T) {
	s, r, hangUp := ends(t, time.Second)
	if err := s.Send([]byte("hello"), unix.UnixRights(0, 1)); err != nil {
		t.Fatal(err)
	}
	data, control, flags, err := r.Receive()
	if err != nil || string(data) != "hello" || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		t.Fatalf("%q, flags %#x, %v", data, flags, err)
	}
	var fds []int
	packet.Control(control, func(kind int32, data []byte) {
		if kind == unix.SCM_RIGHTS {
			fds = packet.Descriptors(fds, data)
		}
	})
	if len(fds) != 2 {
		t.Fatalf("descriptors %v", fds)
	}
	for _, fd := range fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d: flags %#x, %v", fd, flags, err)
		}
		unix.Close(fd)
	}
	if err := s.Send(make([]byte, 100), nil); err != nil {
		t.Fatal(err)
	}
	if data, _, flags, err := r.Receive(); err != nil || len(data) != 64 || flags&unix.MSG_TRUNC == 0 {
		t.Errorf("too long: %d bytes, flags %#x, %v", len(data), flags, err)
	}
	hangUp()
	if data, control, _, err := r.Receive(); err != nil || len(data)+len(control) != 0 {
		t.Errorf("end: %q %q %v", data, control, err)
	}
}

// A receiver that does not read holds up a sender for the timeout, not longer.
func TestTimeout(t *testing.T) {
	s, r, _ := ends(t, 20*time.Millisecond)
	var err error
	n := 0
	for ; err == nil; n++ {
		err = s.Send(make([]byte, 64), nil)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	for range n - 1 { // what was sent is there
		if data, _, _, err := r.Receive(); err != nil || len(data) != 64 {
			t.Fatal(len(data), err)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	s, r, _ := ends(t, time.Second)
	msg := make([]byte, 24)
	if n := testing.AllocsPerRun(100, func() {
		if err := s.Send(msg, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := r.Receive(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a message", n)
	}
}
