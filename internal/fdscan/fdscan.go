// Package fdscan finds out from the kernel which processes have copies of a
// descriptor: by the inodes of sockets, and by comparing open files.
//
// It reads other processes' entries in /proc, which can hang with a process in
// execve that waits for a filesystem: callers that serve one look with a time
// limit. It has no state and must not know what the descriptors are for.
package fdscan

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Found is one descriptor of a process.
type Found struct {
	PID  int32
	FD   int
	Name string // what /proc calls it
}

// Scan returns the descriptors of all processes whose name is wanted, but of those at which this one may not look. It ends early,
// with an error, when ctx does.
func Scan(ctx context.Context, wanted func(name string) bool) (found []Found, err error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		pid, err := strconv.ParseInt(p.Name(), 10, 32)
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		found = append(found, ScanProcess(int32(pid), wanted)...)
	}
	return found, nil
}

// ScanProcess is Scan of one process.
func ScanProcess(pid int32, wanted func(string) bool) (found []Found) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended, or is not to be looked at
	}
	for _, e := range fds {
		fd, nerr := strconv.Atoi(e.Name())
		name, rerr := os.Readlink(dir + "/" + e.Name())
		if nerr == nil && rerr == nil && wanted(name) {
			found = append(found, Found{pid, fd, name})
		}
	}
	return found
}

// Same reports whether two descriptors are copies of one.
func Same(pid1 int32, fd1 int, pid2 int32, fd2 int) bool {
	const kcmpFile = 0
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), kcmpFile, uintptr(fd1), uintptr(fd2), 0)
	return errno == 0 && r == 0
}

// Socket is what /proc calls the socket with the inode.
func Socket(ino uint64) string { return "socket:[" + strconv.FormatUint(ino, 10) + "]" }

// The request and the answers of the kernel's listing of Unix sockets (linux/unix_diag.h, in numbers of the machine).
const (
	sockDiagByFamily = 20
	showPeer         = 4 // UDIAG_SHOW_PEER
	attrPeer         = 2 // UNIX_DIAG_PEER
	diagRequestSize  = unix.SizeofNlMsghdr + 24
	diagMessageSize  = 16
)

// Peers returns, by the inode of a connected Unix socket, the inode of its other end, for all of this network namespace. An error
// that is errors.ErrUnsupported says that this kernel cannot tell.
func Peers() (map[uint64]uint64, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, unsupported(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return nil, err
	}
	if err := unix.Sendto(fd, peersRequest(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, unsupported(err)
	}
	peers := map[uint64]uint64{}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, fmt.Errorf("list of Unix sockets: %w", err)
		}
		done, err := parsePeers(buf[:n], peers)
		if done || err != nil {
			return peers, err
		}
	}
}

func peersRequest() []byte {
	b := make([]byte, 0, diagRequestSize)
	b = binary.NativeEndian.AppendUint32(b, diagRequestSize)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...)
	b = append(b, unix.AF_UNIX, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // in all states
	b = binary.NativeEndian.AppendUint32(b, 0)          // of all inodes
	b = binary.NativeEndian.AppendUint32(b, showPeer)
	return append(b, make([]byte, 8)...)
}

// parsePeers adds what one datagram of the kernel says.
func parsePeers(b []byte, peers map[uint64]uint64) (done bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false, err
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return false, syscall.EBADMSG
			}
			return false, unsupported(syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
		}
		if len(m.Data) < diagMessageSize {
			continue
		}
		ino := binary.NativeEndian.Uint32(m.Data[4:])
		for rest := m.Data[diagMessageSize:]; len(rest) >= unix.SizeofRtAttr; {
			n, kind := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
			if n < unix.SizeofRtAttr || n > len(rest) {
				break
			}
			if kind == attrPeer && n >= unix.SizeofRtAttr+4 {
				peers[uint64(ino)] = uint64(binary.NativeEndian.Uint32(rest[unix.SizeofRtAttr:]))
			}
			rest = rest[min((n+3)&^3, len(rest)):]
		}
	}
	return false, nil
}

// unsupported marks what a kernel without the feature, or a sandbox, answers.
func unsupported(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EPROTONOSUPPORT) ||
		errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) {
		return fmt.Errorf("this kernel does not list Unix sockets: %w", errors.Join(err, errors.ErrUnsupported))
	}
	return err
}
