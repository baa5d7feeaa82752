package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/wire"
)

// statFD returns device and inode of a descriptor without a request to the
// filesystem it is of: that could be ours, or one that hangs.
func statFD(fd int) (dev, ino uint64, err error) {
	st, err := statxFD(fd)
	return unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, err
}

func statxFD(fd int) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_TYPE, &st)
	return st, err
}

// A dataFile is what an open descriptor of a file proves.
type dataFile struct {
	ino      extent.Ino
	readable bool
	writable bool
}

// identify finds out what file fd is. It does not close it.
func (s *Server) identify(fd int) (dataFile, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return dataFile{}, fmt.Errorf("data descriptor: %w", err)
	}
	if flags&unix.O_PATH != 0 {
		return dataFile{}, fmt.Errorf("data descriptor is O_PATH, which proves no right: %w", syscall.EBADF)
	}
	ino, ok := s.cfg.Identity(fd)
	if !ok {
		return dataFile{}, fmt.Errorf("data descriptor is no file of this volume's mount: %w", syscall.EXDEV)
	}
	mode := flags & unix.O_ACCMODE
	return dataFile{
		ino:      ino,
		readable: mode == unix.O_RDONLY || mode == unix.O_RDWR,
		writable: mode == unix.O_WRONLY || mode == unix.O_RDWR,
	}, nil
}

// mayHold checks that the descriptor allows a lease with this access. To write
// through a window is to read it too, so it needs O_RDWR, as mmap does.
func (f dataFile) mayHold(a wire.Access) error {
	switch {
	case !f.readable:
		return fmt.Errorf("data descriptor is not open for reading: %w", syscall.EACCES)
	case a == wire.AccessWrite && !f.writable:
		return fmt.Errorf("a write lease needs a data descriptor opened O_RDWR: %w", syscall.EACCES)
	}
	return nil
}

const (
	anonInodeMagic = 0x09041934
	ringName       = "anon_inode:[io_uring]"
)

// contextNames are the kinds as listings show them.
var contextNames = map[wire.ContextKind]string{
	wire.ContextMemory: "memory", wire.ContextXDP: "xdp", wire.ContextIOUring: "io_uring", wire.ContextRDMA: "rdma",
}

// verifyContext checks that the object is what the request says, by the word of the
// kernel, and returns the name that the kernel gives it.
func (r *request) verifyContext(m wire.Register) (string, error) {
	want := 0
	if m.Kind == wire.ContextXDP || m.Kind == wire.ContextRDMA {
		want = 1
	}
	if len(r.fds) != want {
		return "", fmt.Errorf("a context of kind %s comes with %d descriptors, not %d: %w", contextNames[m.Kind], want, len(r.fds), syscall.EINVAL)
	}
	switch m.Kind {
	case wire.ContextMemory:
		return "memory", nil
	case wire.ContextIOUring:
		return r.verifyIOUring(m.Number)
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.fds[0]))
	if err != nil {
		return "", err
	}
	if m.Kind == wire.ContextXDP {
		return verifyXDP(r.fds[0], link)
	}
	return verifyRDMA(r.fds[0], link)
}

func verifyXDP(fd int, link string) (string, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_XDP {
		return "", fmt.Errorf("%s is no AF_XDP socket: %w", link, syscall.EINVAL)
	}
	return link + " AF_XDP", nil
}

// verifyIOUring looks at a descriptor of the session's process from outside: since
// Linux 6.7 an io_uring cannot be passed.
func (r *request) verifyIOUring(number uint32) (string, error) {
	if r.caller.pid != r.peer.pid {
		return "", fmt.Errorf("only process %d itself registers an io_uring: %w", r.peer.pid, syscall.EPERM)
	}
	path := fmt.Sprintf("/proc/%d/fd/%d", r.peer.pid, number)
	link, err := os.Readlink(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("the server may not look at process %d; run it as root or as the same user: %w", r.peer.pid, err)
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("process %d has no descriptor %d: %w", r.peer.pid, number, syscall.EBADF)
	case err != nil:
		return "", err
	}
	// A file can have any name, but not lie in the kernel's own anon_inodefs. The
	// name is asked first: Statfs of a client's own filesystem could hang.
	var st unix.Statfs_t
	if link != ringName || unix.Statfs(path, &st) != nil || st.Type != anonInodeMagic {
		return "", fmt.Errorf("%s is no io_uring: %w", link, syscall.EINVAL)
	}
	if !alive(r.peer.pidfd) { // it may have been another's
		return "", fmt.Errorf("process %d is gone: %w", r.peer.pid, syscall.ESRCH)
	}
	return link, nil
}

func verifyRDMA(fd int, link string) (string, error) {
	st, err := statxFD(fd)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "", fmt.Errorf("%s is no RDMA device: %w", link, syscall.EINVAL)
	}
	// The name of a node can be anything; its number leads to the driver.
	sys, err := os.Readlink(fmt.Sprintf("/sys/dev/char/%d:%d", st.Rdev_major, st.Rdev_minor))
	if err != nil || !strings.Contains(sys, "/infiniband_verbs/uverbs") {
		return "", fmt.Errorf("%s is no RDMA device: %w", link, syscall.EINVAL)
	}
	return "/dev/infiniband/" + sys[strings.LastIndexByte(sys, '/')+1:], nil
}
