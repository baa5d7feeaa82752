package local_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/client"
	"holdfast/local/localtest"
)

// userHelper has a file open, becomes a user, and does on a session of its own what it is told.
func userHelper(args []string) error {
	uid, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[2], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setresuid(uid, uid, uid); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := client.Dial(ctx, args[0])
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("session", s.Info().Session)
	for in := bufio.NewReader(os.Stdin); ; {
		line, err := localtest.Line(in)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		word, arg, _ := strings.Cut(line, " ")
		id, _ := strconv.ParseUint(arg, 10, 64)
		switch word {
		case "lease":
			l, err := s.Lease(ctx, f, client.Range{End: client.Inf}, client.Options{Access: client.Write, Unbreakable: true})
			if err == nil {
				id = l.ID()
			}
			answer(err, id)
		case "pin":
			id, err := pinAll(ctx, s, f)
			answer(err, id)
		case "seize":
			answer(s.Seize(ctx, id), 0)
		case "expire":
			answer(s.Expire(ctx, id), 0)
		case "revoke":
			answer(s.Truncate(ctx, f, 0, client.ChangeOptions{OnHold: client.OnHoldRevoke}), 0)
		case "defer":
			answer(s.Truncate(ctx, f, 0, client.ChangeOptions{OnHold: client.OnHoldDefer}), 0)
		case "ended":
			<-s.Done()
			answer(nil, 0)
		}
	}
}

// pinAll takes a lease, maps it, and pins it.
func pinAll(ctx context.Context, s *client.Session, f *os.File) (lease uint64, err error) {
	r := client.Range{End: 1 << 16}
	l, err := s.Lease(ctx, f, r, client.Options{Access: client.Write})
	if err != nil {
		return 0, err
	}
	if _, err := l.Map(ctx); err != nil {
		return 0, err
	}
	c, err := s.Register(ctx, client.Memory, nil)
	if err != nil {
		return 0, err
	}
	_, err = c.Pin(ctx, l, r, client.Write)
	return l.ID(), err
}

func answer(err error, id uint64) {
	var errno syscall.Errno
	errors.As(err, &errno)
	if err != nil && errno == 0 {
		errno = syscall.EIO
	}
	fmt.Println("errno", int(errno), id)
}

// user is a helper that speaks as another user.
type user struct {
	*localtest.Process
	session uint64
}

func startUser(t *testing.T, s *localtest.Server, uid int, path string) user {
	t.Helper()
	p := localtest.Helper(t, "user", nil, s.Socket, fmt.Sprint(uid), path)
	id, err := strconv.ParseUint(p.Want("session"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return user{p, id}
}

// do has the helper do something, wants the errno, and returns the number of what came of it.
func (u user) do(t *testing.T, line string, want syscall.Errno) (id uint64) {
	t.Helper()
	u.Say(line)
	var errno int
	if _, err := fmt.Sscan(u.Want("errno"), &errno, &id); err != nil || syscall.Errno(errno) != want {
		t.Fatalf("%s: %v (%v), want %v", line, syscall.Errno(errno), err, want)
	}
	return id
}

// TestScenario19OwnerSeizes: an unbreakable lease, and a seizure, are for the owner of the file and administrators; the end of a
// session of another for administrators.
func TestScenario19OwnerSeizes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 1<<16))
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 1000, -1); err != nil {
		t.Fatal(err)
	}
	owner, stranger := startUser(t, s, 1000, path), startUser(t, s, 2000, path)
	admin, err := client.Dial(t.Context(), s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()

	stranger.do(t, "lease", syscall.EPERM)
	pinned := stranger.do(t, "pin", 0)
	held := owner.do(t, "lease", 0)
	stranger.do(t, fmt.Sprint("seize ", held), syscall.EPERM)
	stranger.do(t, "revoke", syscall.EPERM)
	stranger.do(t, "defer", syscall.EPERM)
	owner.do(t, fmt.Sprint("expire ", stranger.session), syscall.EPERM)
	owner.do(t, "seize 4711", syscall.ENOENT)
	if n := len(s.Arbiter.Leases(arbiter.Filter{})); n != 2 {
		t.Fatalf("%d leases after what was refused", n)
	}

	owner.do(t, fmt.Sprint("seize ", pinned), 0)
	if ls, ps := s.Arbiter.Leases(arbiter.Filter{}), s.Arbiter.Pins(arbiter.Filter{}); len(ls) != 1 || uint64(ls[0].ID) != held || len(ps) != 0 || s.FS.Windows() != 0 {
		t.Fatalf("after the seizure: leases %+v, pins %+v, %d windows", ls, ps, s.FS.Windows())
	}
	if err := admin.Seize(t.Context(), held); err != nil {
		t.Fatalf("an administrator seizes: %v", err)
	}

	stranger.do(t, "pin", 0)
	if err := admin.Expire(t.Context(), stranger.session); err != nil {
		t.Fatal(err)
	}
	stranger.do(t, "ended", 0)
	if ls, ps := s.Arbiter.Leases(arbiter.Filter{}), s.Arbiter.Pins(arbiter.Filter{}); len(ls)+len(ps) != 0 || s.FS.Windows() != 0 {
		t.Fatalf("after the end of the session: leases %+v, pins %+v, %d windows", ls, ps, s.FS.Windows())
	}
	if err := admin.Expire(t.Context(), 4711); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("nobody expires: %v", err)
	}
	owner.do(t, "lease", 0) // which nobody has taken from him
}
