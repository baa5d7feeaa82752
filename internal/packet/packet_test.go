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

// settle returns when the poller has seen what has come on other sockets: it has woken
// goroutines for what came later.
func settle(t *testing.T) {
	t.Helper()
	a, b := pair(t)
	ended := make(chan error, 1)
	echo := func(f *os.File) error {
		buf := make([]byte, 1)
		for range 100 {
			if _, err := f.Write(buf); err != nil {
				return err
			}
			if _, err := f.Read(buf); err != nil {
				return err
			}
		}
		return nil
	}
	go func() { ended <- echo(a) }()
	if err := errors.Join(echo(b), <-ended); err != nil {
		t.Fatal(err)
	}
}

// Serve hears of every message, whenever it comes, and of the end: those that were there
// before, that come while one is served, and that come after its server saw that there
// was nothing more.
func TestServe(t *testing.T) {
	s, r, hangUp := ends(t, time.Second)
	send := func(n byte) {
		if err := s.Send([]byte{n}, nil); err != nil {
			t.Error(err)
		}
	}
	send(0)
	send(1)
	settle(t)
	const last = 100
	want := byte(0)
	stop := errors.New("stop")
	err := r.Serve(func(fd uintptr, data, _ []byte, _ int) (quiet bool, err error) {
		if len(data) == 0 {
			return false, stop
		}
		if data[0] != want {
			t.Errorf("message %d, want %d", data[0], want)
		}
		want++
		if want > 1 && want%3 == 0 {
			send(want)
			settle(t)
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		if want == last {
			hangUp()
		} else if want > 1 && want%3 != 0 {
			send(want) // after the look
		}
		return n == 0, err
	})
	if !errors.Is(err, stop) || want != last {
		t.Errorf("after %d messages: %v", want, err)
	}
}

// Ask waits for what it asked for, and if something may have come before looks at once.
func TestAsk(t *testing.T) {
	s, r, _ := ends(t, time.Second)
	send := func(text string) {
		if err := s.Send([]byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		data, _, _, err := r.Ask(func() (alone, asked bool) {
			send("answer")
			return true, true
		})
		if err != nil || string(data) != "answer" {
			t.Fatalf("%q, %v", data, err)
		}
	}
	send("before")
	settle(t)
	data, _, _, err := r.Ask(func() (alone, asked bool) { return false, true })
	if err != nil || string(data) != "before" {
		t.Fatalf("%q, %v", data, err)
	}
	send("before")
	if _, _, _, err = r.Ask(func() (alone, asked bool) { return true, false }); !errors.Is(err, packet.ErrUnasked) {
		t.Error(err)
	}
	if data, _, _, err := r.Receive(); err != nil || string(data) != "before" {
		t.Errorf("%q, %v", data, err)
	}
}

// Try does not wait for room, Send goes on where there is some again.
func TestTry(t *testing.T) {
	s, r, _ := ends(t, 0)
	n := 0
	var err error
	for ; err == nil; n++ {
		err = s.Try([]byte("full"), nil)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- s.Send([]byte("late"), nil) }()
	for want := "full"; want != "late"; n-- {
		if n == 1 {
			want = "late"
		}
		if data, _, _, err := r.Receive(); err != nil || string(data) != want {
			t.Fatalf("%q, %v; want %q", data, err, want)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
