package local_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
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
	"holdfast/local"
	"holdfast/local/localtest"
	"holdfast/wire"
)

var helpers = localtest.Helpers{"listen": listenHelper, "session": sessionHelper, "speak": speakHelper, "attach": attachHelper, "grow": growHelper, "list": listHelper,
	"user": userHelper}

// socketpair returns two ends, the first for this process, the second to be given
// to a helper as its descriptor 3.
func socketpair(t testing.TB) (*raw, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[1]), "pair")
	t.Cleanup(func() { f.Close() })
	return newRaw(t, fds[0]), f
}

// plain is a blocking connection of a helper.
type plain int

func dialPlain(socket string) (plain, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return plain(fd), unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
}

func (p plain) call(op wire.Op, body wire.Body, fds ...int) (syscall.Errno, error) {
	if err := unix.Sendmsg(int(p), message(op, body), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, err
	}
	buf := make([]byte, wire.MaxMessage)
	// The test that shares the socket has made it non-blocking.
	for {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}, -1); err == nil {
			break
		} else if !errors.Is(err, syscall.EINTR) {
			return 0, err
		}
	}
	n, err := unix.Read(int(p), buf)
	if err != nil {
		return 0, err
	}
	hdr, _, err := wire.ParseHeader(buf[:n])
	return syscall.Errno(hdr.Status), err
}

// sessionHelper opens a session, sends a copy of its socket over descriptor 3, and
// does what it is told.
func sessionHelper(args []string) error {
	flags, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil {
		return err
	}
	s, err := dialPlain(args[0])
	if err != nil {
		return err
	}
	if errno, err := s.call(wire.OpHello, &wire.Hello{Version: wire.Version, Flags: uint32(flags)}); err != nil || errno != 0 {
		return errors.Join(err, errno)
	}
	if err := unix.Sendmsg(3, []byte{1}, unix.UnixRights(int(s)), nil, 0); err != nil {
		return err
	}
	fmt.Println("open")
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := localtest.Line(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		word, rest, _ := strings.Cut(line, " ")
		var errno syscall.Errno
		switch word {
		case "admit":
			var fd int
			if fd, err = unix.PidfdOpen(os.Getppid(), 0); err == nil {
				errno, err = s.call(wire.OpAdmit, nil, fd)
			}
		case "setuid":
			err = unix.Setresuid(1000, 1000, 1000)
		case "unbreakable":
			var fd int
			if fd, err = unix.Open(rest, unix.O_RDWR, 0); err == nil {
				req := acquire(block)
				req.Flags = wire.LeaseUnbreakable
				errno, err = s.call(wire.OpAcquire, req, fd)
			}
		}
		if err != nil {
			return err
		}
		fmt.Println("errno", int(errno))
	}
}

// speakHelper sends a request on the session that is its descriptor 3.
func speakHelper([]string) error {
	errno, err := plain(3).call(wire.OpLeaseInfo, &wire.ID{ID: 1 << 60})
	fmt.Println("errno", int(errno))
	return err
}

// attachHelper attaches with a ticket, as another user if it may.
func attachHelper(args []string) error {
	if args[2] != "0" {
		uid, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		if err := unix.Setresuid(uid, uid, uid); err != nil {
			return err
		}
	}
	s, err := dialPlain(args[0])
	if err != nil {
		return err
	}
	var m wire.Attach
	k, err := hex.DecodeString(args[1])
	if err != nil {
		return err
	}
	copy(m.Ticket[:], k)
	errno, err := s.call(wire.OpAttach, &m)
	fmt.Println("errno", int(errno))
	return err
}

// listHelper lists the leases as user 1000.
func listHelper(args []string) error {
	if err := unix.Setresuid(1000, 1000, 1000); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := client.Dial(ctx, args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l, err := c.Lease(ctx, f, client.Range{End: 4096}, client.Options{})
	if err != nil {
		return err
	}
	raw, err := c.List(ctx, client.ListLeases, client.Filter{})
	if err != nil {
		return err
	}
	var list []arbiter.LeaseInfo
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	for _, info := range list {
		if uint64(info.ID) == l.ID() {
			fmt.Println("own", info.Path)
		}
	}
	for _, info := range list {
		if uint64(info.ID) != l.ID() {
			fmt.Println("foreign", info.PID, info.Path)
		}
	}
	return nil
}

// Everyone may know that there is a lease, and whose; its path is not everyone's.
func TestPathsOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	s := localtest.Start(t, localtest.Options{})
	fd := open(t, s.FS.Create("secret", make([]byte, 8192)), unix.O_RDWR)
	path := s.FS.Create("own", make([]byte, 8192))
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	r, _ := hello(t, s.Socket, 0)
	r.lease(s, fd)
	p := localtest.Helper(t, "list", nil, s.Socket, path)
	if got := p.Want("own"); got != path {
		t.Errorf("own path is %q", got)
	}
	if got := p.Want("foreign"); got != fmt.Sprint(os.Getpid()) {
		t.Errorf("foreign lease: %q", got)
	}
}

// growHelper asks for a larger volume as user 1000.
func growHelper(args []string) error {
	if err := unix.Setresuid(1000, 1000, 1000); err != nil {
		return err
	}
	c, err := client.Dial(context.Background(), args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Grow(context.Background(), 1<<20)
	_, serr := c.Scrub(context.Background(), nil, 0)
	f, ferr := os.OpenFile(args[1], os.O_RDWR, 0)
	if ferr != nil {
		return ferr
	}
	defer f.Close()
	_, derr := c.Defrag(context.Background(), f, true)
	_, eerr := c.Evacuate(context.Background(), 1<<20, true)
	for what, err := range map[string]error{"grow": err, "scrub": serr, "defrag with force": derr, "evacuate": eerr} {
		if !errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	_, derr = c.Defrag(context.Background(), f, false)
	fmt.Println("refused", errors.Is(derr, syscall.EOPNOTSUPP)) // the filesystem of the test has none
	return nil
}

// A scrub is done in steps, each of which says where the next begins.
func TestScrub(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	c, err := client.Dial(t.Context(), s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Scrub(t.Context(), []byte("cursor"), 4096)
	if err != nil || string(got) != `{"bytes":4096,"next":"Y3Vyc29y"}` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := c.Scrub(t.Context(), make([]byte, 193), 0); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a long cursor: %v", err)
	}
}

// What users have used up is listed.
func TestLimitsListed(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	c, err := client.Dial(t.Context(), s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var uses []arbiter.LimitUse
	if err := json.Unmarshal(raw, &uses); err != nil {
		t.Fatal(err)
	}
	used := map[arbiter.UserLimit]int64{}
	for _, u := range uses {
		used[arbiter.UserLimit{User: u.User, Limit: u.Limit}] = u.Used
	}
	if n := used[arbiter.UserLimit{User: uint32(os.Getuid()), Limit: arbiter.LimitSessions}]; n != 1 {
		t.Errorf("%d sessions: %s", n, raw)
	}
	if n := used[arbiter.UserLimit{User: 7, Limit: arbiter.LimitOrphaned}]; n != 4096 {
		t.Errorf("%d bytes of orphans: %s", n, raw)
	}
}

// The size of the volume, what is damaged in it, and moving what others hold, are for administrators.
func TestGrow(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	c, err := client.Dial(t.Context(), s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if size, err := c.Grow(t.Context(), 1<<20); err != nil || size != 1<<20 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	if _, err := c.Grow(t.Context(), 4096); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("smaller: %v", err)
	}
	if _, err := c.Grow(t.Context(), -1); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("negative: %v", err)
	}
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	path := s.FS.Create("f", make([]byte, 4096))
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := localtest.Helper(t, "grow", nil, s.Socket, path).Want("refused"); got != "true" {
		t.Fatalf("another user is refused, and may defragment without force: %s", got)
	}
}

// openSession starts a session helper and returns a copy of its session.
func openSession(t *testing.T, s *localtest.Server, flags uint32) (*localtest.Process, *raw) {
	t.Helper()
	mine, its := socketpair(t)
	p := localtest.Helper(t, "session", []*os.File{its}, s.Socket, fmt.Sprint(flags))
	p.Want("open")
	var fds []int
	var oob [64]byte
	if err := mine.rc.Read(func(fd uintptr) bool {
		_, n, _, _, err := unix.Recvmsg(int(fd), make([]byte, 1), oob[:], unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			msgs, _ := unix.ParseSocketControlMessage(oob[:n])
			fds, _ = unix.ParseUnixRights(&msgs[0])
		}
		return !errors.Is(err, syscall.EAGAIN)
	}); err != nil || len(fds) != 1 {
		t.Fatal(err, fds)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	return p, newRaw(t, fds[0])
}

// Who has a copy of a session and is not its process gets EPERM, until he is admitted.
func TestForeignProcess(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	for _, flags := range []uint32{0, wire.HelloShared} {
		p, copied := openSession(t, s, flags)
		if errno := copied.call(wire.OpLeaseInfo, &wire.ID{ID: 1}, nil); errno != syscall.EPERM {
			t.Errorf("flags %d: request of a foreign process: %v", flags, errno)
		}
		p.Say("admit")
		p.Want("errno 0")
		if errno := copied.call(wire.OpLeaseInfo, &wire.ID{ID: 1}, nil); errno != syscall.ENOENT {
			t.Errorf("flags %d: request of an admitted process: %v", flags, errno)
		}
		if errno := copied.call(wire.OpAdmit, nil, nil, pidfd(t)); errno != syscall.EPERM {
			t.Errorf("flags %d: an admitted process admits: %v", flags, errno)
		}
		p.Kill()
	}
}

func pidfd(t *testing.T) int {
	t.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// A descendant speaks on a session that was opened for sharing, and on no other.
func TestDescendant(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	for flags, want := range map[uint32]syscall.Errno{0: syscall.EPERM, wire.HelloShared: syscall.ENOENT} {
		r, _ := hello(t, s.Socket, flags)
		var dup int
		if err := r.rc.Control(func(fd uintptr) { dup, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(dup), "copy")
		p := localtest.Helper(t, "speak", []*os.File{f})
		if got := p.Want("errno"); got != fmt.Sprint(int(want)) {
			t.Errorf("flags %d: request of a child: errno %s, want %d", flags, got, want)
		}
		f.Close()
	}
}

// A process that has given up its user has given up its rights, also on a session
// it opened before.
func TestCredentialsNarrow(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 8192))
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	p, _ := openSession(t, s, 0)
	p.Say("unbreakable " + path)
	p.Want("errno 0")
	p.Say("setuid")
	p.Want("errno 0")
	p.Say("unbreakable " + path)
	if got := p.Want("errno"); got != fmt.Sprint(int(syscall.EPERM)) {
		t.Errorf("unbreakable lease on root's file as user 1000: errno %s", got)
	}
	if err := os.Chown(path, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	p.Say("unbreakable " + path)
	p.Want("errno 0")
}

// A ticket is of no use to another process, nor does its try spoil it.
func TestTicketOfAnother(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	r, _ := hello(t, s.Socket, 0)
	attach := func(k wire.Ticket, uid string) string {
		return localtest.Helper(t, "attach", nil, s.Socket, fmt.Sprintf("%x", k[:]), uid).Want("errno")
	}
	var l wire.LeaseReply
	r.must(wire.OpAcquire, acquire(block), &l, fd)
	if os.Getuid() == 0 {
		if got := attach(l.Ticket, "1000"); got != fmt.Sprint(int(syscall.EPERM)) {
			t.Errorf("another user: errno %s", got)
		}
	}
	p, copied := openSession(t, s, 0)
	defer p.Kill()
	p.Say("admit")
	p.Want("errno 0")
	var theirs wire.LeaseReply
	copied.must(wire.OpAcquire, acquire(block), &theirs, fd)
	// A child of ours is no relative of p.
	if got := attach(theirs.Ticket, "0"); got != fmt.Sprint(int(syscall.EPERM)) {
		t.Errorf("foreign process: errno %s", got)
	}
	for _, k := range []wire.Ticket{l.Ticket, theirs.Ticket} { // ours, and that of who admitted us
		if errno := connect(t, s.Socket).call(wire.OpAttach, &wire.Attach{Ticket: k}, nil); errno != 0 {
			t.Errorf("the right one: %v", errno)
		}
	}
}

// A session ends with its process, though others have copies of its socket.
func TestDeathEndsTheSession(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	p, copied := openSession(t, s, 0)
	p.Say("admit")
	p.Want("errno 0")
	h, _ := copied.lease(s, fd)
	p.Kill()
	copied.ended()
	// The handle is ours: it lives, unattended, until we close it.
	s.Await(t, "lease is unattended", func() bool {
		l := s.Arbiter.Leases(arbiter.Filter{})
		return len(l) == 1 && l[0].Unattended
	})
	h.f.Close()
	s.Await(t, "lease ends", func() bool { return leases(s) == 0 })
	s.Await(t, "nothing is left", func() bool { return s.Stats() == local.Stats{} })
}
