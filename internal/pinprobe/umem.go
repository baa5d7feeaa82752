// Package pinprobe pins memory for long through the two interfaces of the
// kernel that any machine has: an AF_XDP socket's umem and an io_uring's
// registered buffers. It serves the probe of what can be pinned here, and tests,
// in which a ring's fixed buffers stand for a device's DMA engine: what it moves
// goes to the pages that were pinned, whatever is mapped at their address by now.
//
// It is for small numbers of requests, one at a time, and knows nothing of
// windows or leases.
package pinprobe

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unsupported marks err as "this mechanism is not to be had here", which tests
// skip on, as against "it is here and refused this memory".
func unsupported(what string, err error) error {
	return fmt.Errorf("%s is not available: %w (%w)", what, err, errors.ErrUnsupported)
}

// Umem is an AF_XDP socket with a registered umem. Its pages are pinned until
// the last copy of the descriptor is closed.
type Umem struct {
	fd int
}

// chunkSize of the umem's frames; one page is accepted on every kernel.
const chunkSize = 4096

// NewUmem makes an AF_XDP socket and registers mem, page aligned, as its umem.
// It needs CAP_NET_RAW.
func NewUmem(mem []byte) (*Umem, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, unsupported("AF_XDP", err)
	}
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))),
		Len:  uint64(len(mem)),
		Size: chunkSize,
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	if errno != 0 {
		unix.Close(fd)
		return nil, fmt.Errorf("register %d bytes as AF_XDP umem: %w", len(mem), errno)
	}
	return &Umem{fd: fd}, nil
}

// FD returns the socket, to register as a context or to pass on.
func (u *Umem) FD() int { return u.fd }

// Close closes this copy of the socket.
func (u *Umem) Close() error { return unix.Close(u.fd) }
