package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/client"
	"holdfast/local/localtest"
)

func TestMain(m *testing.M) {
	helpers.Run()
	goleak.VerifyTestMain(m)
}

var helpers = localtest.Helpers{"hold": holdHelper, "keep": keepHelper, "sigio": sigioHelper, "many": manyHelper, "exec": execHelper}

func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func dial(t testing.TB, s *localtest.Server) *client.Session {
	t.Helper()
	c, err := client.Dial(t.Context(), s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func lease(t testing.TB, c *client.Session, f *os.File, r client.Range, o client.Options) *client.Lease {
	t.Helper()
	l, err := c.Lease(t.Context(), f, r, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func leases(s *localtest.Server) []arbiter.LeaseInfo { return s.Arbiter.Leases(arbiter.Filter{}) }

// socketpair returns two ends: one for this process, one for a helper's descriptor 3.
func socketpair(t testing.TB) (mine, its *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine, its = os.NewFile(uintptr(fds[0]), "mine"), os.NewFile(uintptr(fds[1]), "its")
	t.Cleanup(func() { mine.Close(); its.Close() })
	return mine, its
}

// pass sends a copy of a handle over a socket.
func pass(to int, f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	ctl := conn.Control(func(fd uintptr) { sent = unix.Sendmsg(to, []byte{1}, unix.UnixRights(int(fd)), nil, 0) })
	return errors.Join(ctl, sent)
}

func receive(from int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(from, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 {
		return -1, fmt.Errorf("no descriptor came: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// holdHelper takes an unbreakable lease on a file, pins it, and passes the context's
// or the lease's handle over descriptor 3. Then it waits to be killed.
func holdHelper(args []string) error {
	ctx := context.Background()
	s, err := client.Dial(ctx, args[0])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l, err := s.Lease(ctx, f, client.Range{End: 8192}, client.Options{Access: client.Write, Unbreakable: true})
	if err != nil {
		return err
	}
	handle := l.File()
	if args[2] == "context" {
		c, err := s.Register(ctx, client.Memory, nil)
		if err != nil {
			return err
		}
		if _, err := c.Pin(ctx, l, client.Range{End: 4096}, client.Write); err != nil {
			return err
		}
		if err := errors.Join(f.Close(), l.Close()); err != nil {
			return err
		}
		handle = c.File()
	}
	if err := pass(3, handle); err != nil {
		return err
	}
	fmt.Println("holding")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// keepHelper keeps the handle that comes over descriptor 3 until it is told to close it.
func keepHelper([]string) error {
	fd, err := receive(3)
	if err != nil {
		return err
	}
	fmt.Println("kept")
	if _, err := localtest.Line(bufio.NewReader(os.Stdin)); err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	fmt.Println("closed")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// sigioHelper takes a lease and waits for SIGIO on its handle.
func sigioHelper(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := client.Dial(ctx, args[0])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l, err := s.Lease(ctx, f, client.Range{End: 8192}, client.Options{})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGIO)
	conn, err := l.File().SyscallConn()
	if err != nil {
		return err
	}
	ctl := conn.Control(func(fd uintptr) {
		_, err = unix.FcntlInt(fd, unix.F_SETOWN, os.Getpid())
		if err == nil {
			_, err = unix.FcntlInt(fd, unix.F_SETFL, unix.O_ASYNC|unix.O_NONBLOCK)
		}
	})
	if err := errors.Join(ctl, err); err != nil {
		return err
	}
	fmt.Println("waiting")
	select {
	case <-signals:
	case <-ctx.Done():
		return ctx.Err()
	}
	ev, err := l.ReadEvent()
	if err != nil {
		return err
	}
	fmt.Println("break", ev.Range)
	return l.Release(ctx)
}

// manyHelper opens sessions with leases each and says what they cost it.
func manyHelper(args []string) error {
	ctx := context.Background()
	sessions, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	each, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var all []*client.Session
	for range sessions {
		s, err := client.Dial(ctx, args[0])
		if err != nil {
			return err
		}
		all = append(all, s)
		for i := range each {
			if _, err := s.Lease(ctx, f, client.Range{Off: int64(i) * 4096, End: int64(i+1) * 4096}, client.Options{}); err != nil {
				return fmt.Errorf("lease %d of session %d: %w", i, len(all), err)
			}
		}
	}
	fmt.Println("have", sessions*each)
	if _, err := localtest.Line(bufio.NewReader(os.Stdin)); err != nil {
		return err
	}
	for _, s := range all {
		if err := s.Close(); err != nil {
			return err
		}
	}
	fmt.Println("closed")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
