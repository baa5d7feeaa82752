package client_test

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/local"
	"holdfast/local/localtest"
)

// The handle of a lease, and that of a context with a pin, live as long as any copy
// in any process: dup, SCM_RIGHTS, kill and close do what they do to descriptors.
func TestLastCloseOfTheLastCopy(t *testing.T) {
	for _, kind := range []string{"lease", "context"} {
		t.Run(kind, func(t *testing.T) {
			s := localtest.Start(t, localtest.Options{})
			path := s.FS.Create("f", make([]byte, 8192))
			f := open(t, path, os.O_RDWR)
			c := dial(t, s)
			truncate := func() error { return c.Truncate(t.Context(), f, 0, client.ChangeOptions{}) }

			mine, its := socketpair(t)
			holder := localtest.Helper(t, "hold", []*os.File{its}, s.Socket, path, kind)
			holder.Want("holding")
			var fd int
			var err error
			conn, _ := mine.SyscallConn()
			if ctl := conn.Control(func(m uintptr) { fd, err = receive(int(m)) }); ctl != nil || err != nil {
				t.Fatal(ctl, err)
			}
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			mine2, its2 := socketpair(t)
			keeper := localtest.Helper(t, "keep", []*os.File{its2})
			conn, _ = mine2.SyscallConn()
			if ctl := conn.Control(func(m uintptr) { err = unix.Sendmsg(int(m), []byte{1}, unix.UnixRights(fd), nil, 0) }); ctl != nil || err != nil {
				t.Fatal(ctl, err)
			}
			keeper.Want("kept")

			held := func(when string) {
				t.Helper()
				if err := truncate(); !errors.Is(err, syscall.ETXTBSY) {
					t.Errorf("%s: truncate: %v", when, err)
				}
			}
			held("three processes have it")
			holder.Kill()
			s.Await(t, "lease is unattended", func() bool { l := leases(s); return len(l) == 1 && l[0].Unattended })
			held("its process is dead")
			unix.Close(fd)
			held("one of two copies here is closed")
			unix.Close(dup)
			held("another process has the last copy")
			keeper.Say("close")
			keeper.Want("closed")
			s.Await(t, "lease ends", func() bool { return len(leases(s)) == 0 })
			if err := truncate(); err != nil {
				t.Errorf("nobody holds it: truncate: %v", err)
			}
		})
	}
}

// A handle whose only copy was in a killed process ends with it.
func TestKill(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 8192))
	mine, its := socketpair(t)
	holder := localtest.Helper(t, "hold", []*os.File{its}, s.Socket, path, "context")
	holder.Want("holding")
	mine.Close() // and with it the copy that is on its way
	its.Close()
	if n := len(leases(s)); n != 1 {
		t.Fatalf("%d leases", n)
	}
	holder.Kill()
	s.Await(t, "everything of it ends", func() bool { return len(leases(s)) == 0 && s.Stats() == local.Stats{} })
}

func TestSIGIO(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 8192))
	f := open(t, path, os.O_RDWR)
	c := dial(t, s)
	p := localtest.Helper(t, "sigio", nil, s.Socket, path)
	p.Want("waiting")
	if err := c.Truncate(t.Context(), f, 4096, client.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := p.Want("break"); got != "[4096,∞)" {
		t.Errorf("break of %s", got)
	}
}

// A thousand sessions with ten leases each, and what one lease costs the server.
func TestManySessions(t *testing.T) {
	sessions, each := 1000, 10
	if testing.Short() || raceEnabled {
		sessions = 100
	}
	need := sessions*(each+2) + 1000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for sessions > 10 && uint64(need) > limit.Cur {
		sessions /= 2
		need = sessions*(each+2) + 1000
		t.Logf("descriptor limit is %d: %d sessions", limit.Cur, sessions)
	}
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 100*4096))
	other := dial(t, s)
	fds, mem := openFDs(t), heap()
	p := localtest.Helper(t, "many", nil, s.Socket, path, strconv.Itoa(sessions), strconv.Itoa(each))
	p.Want("have")
	if _, err := other.List(t.Context(), client.ListServer, client.Filter{}); err != nil {
		t.Fatal(err)
	}
	n := sessions * each
	if got := len(leases(s)); got != n {
		t.Errorf("%d leases, want %d", got, n)
	}
	perLease := float64(openFDs(t)-fds) / float64(n)
	bytes := (heap() - mem) / int64(n)
	t.Logf("%d sessions, %d leases: %.2f descriptors and %d bytes a lease, sessions included", sessions, n, perLease, bytes)
	// One for the handle; a session's socket and pidfd, shared by its leases.
	if perLease > 1.25 {
		t.Errorf("%.2f descriptors a lease", perLease)
	}
	if bytes > 4096 && !raceEnabled {
		t.Errorf("%d bytes a lease", bytes)
	}
	p.Say("close")
	p.Want("closed")
	s.Await(t, "all leases end", func() bool { return len(leases(s)) == 0 && s.Stats().Connections == 1 })
	if got := openFDs(t); got > fds+5 {
		t.Errorf("%d descriptors are open, %d before", got, fds)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func openFDs(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
