package fdscan

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestPeersAndScan: the other end of a socket is found by this one's inode, and its copies in this process by its own.
func TestPeersAndScan(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	dup, err := unix.FcntlInt(uintptr(fds[1]), unix.F_DUPFD_CLOEXEC, 50)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dup)
	other := inode(t, fds[1])
	peers, err := Peers()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil || peers[inode(t, fds[0])] != other {
		t.Fatalf("the other end of %d is %d, want %d (%v)", inode(t, fds[0]), peers[inode(t, fds[0])], other, err)
	}
	found, err := Scan(t.Context(), func(name string) bool { return name == Socket(other) })
	if err != nil || len(found) != 2 {
		t.Fatalf("found %v, %v, want two copies", found, err)
	}
	for _, f := range found {
		if int(f.PID) != os.Getpid() || f.FD != fds[1] && f.FD != dup {
			t.Errorf("found %+v, want descriptors %d and %d of %d", f, fds[1], dup, os.Getpid())
		}
	}
	self := int32(os.Getpid())
	if !Same(self, fds[1], self, dup) || Same(self, fds[0], self, fds[1]) {
		t.Error("copies are not told from others")
	}
}
