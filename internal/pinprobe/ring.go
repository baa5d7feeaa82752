package pinprobe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of <linux/io_uring.h> that a ring with one request in flight needs.
const (
	offSQRing = 0
	offCQRing = 0x8000000
	offSQEs   = 0x10000000

	registerBuffers = 0
	enterGetEvents  = 1

	opReadFixed  = 4
	opWriteFixed = 5
)

type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sqOff                                                                  sqOffsets
	cqOff                                                                  cqOffsets
}

type sqe struct {
	opcode, flags  uint8
	ioprio         uint16
	fd             int32
	off, addr      uint64
	len, rwFlags   uint32
	userData       uint64
	bufIndex       uint16
	personality    uint16
	spliceFD       int32
	addr3, padding uint64
}

type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

const entries = 4

// Ring is an io_uring with one registered buffer, whose pages are pinned until
// the last copy of the ring, including its mappings, is gone. It is for one
// goroutine at a time.
type Ring struct {
	fd           int
	p            params
	sq, cq, sqes []byte
	mem          uintptr // address of the registered buffer, which may be unmapped by now
	size         int
}

// NewRing makes an io_uring and registers mem, page aligned, as its buffer 0.
func NewRing(mem []byte) (*Ring, error) {
	r := &Ring{mem: uintptr(unsafe.Pointer(unsafe.SliceData(mem))), size: len(mem)}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, entries, uintptr(unsafe.Pointer(&r.p)), 0)
	if errno != 0 {
		return nil, unsupported("io_uring", os.NewSyscallError("io_uring_setup", errno))
	}
	r.fd = int(fd)
	unix.CloseOnExec(r.fd)
	if err := r.mapQueues(); err != nil {
		r.Close()
		return nil, err
	}
	iov := unix.Iovec{Base: unsafe.SliceData(mem)}
	iov.SetLen(len(mem))
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_REGISTER, fd, registerBuffers, uintptr(unsafe.Pointer(&iov)), 1, 0, 0)
	runtime.KeepAlive(mem)
	if errno != 0 {
		r.Close()
		return nil, fmt.Errorf("register %d bytes as io_uring buffer: %w", len(mem), errno)
	}
	return r, nil
}

func (r *Ring) mapQueues() (err error) {
	mapping := func(off int64, n uint32) (b []byte) {
		if err == nil {
			b, err = unix.Mmap(r.fd, off, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		}
		return b
	}
	r.sq = mapping(offSQRing, r.p.sqOff.array+r.p.sqEntries*4)
	r.cq = mapping(offCQRing, r.p.cqOff.cqes+r.p.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	r.sqes = mapping(offSQEs, r.p.sqEntries*uint32(unsafe.Sizeof(sqe{})))
	if err != nil {
		return fmt.Errorf("map the queues of an io_uring: %w", err)
	}
	return nil
}

// FD returns the ring's descriptor, to register as a context or to pass on.
func (r *Ring) FD() int { return r.fd }

// ReadFixed reads n bytes at fileOff of file into the registered buffer at
// memOff, as a device would write memory: into the pages that were pinned. It
// returns the number of bytes moved.
func (r *Ring) ReadFixed(file *os.File, fileOff int64, memOff, n int) (int, error) {
	return r.fixed(opReadFixed, file, fileOff, memOff, n)
}

// WriteFixed writes n bytes of the registered buffer at memOff to file at
// fileOff, as a device would read memory.
func (r *Ring) WriteFixed(file *os.File, fileOff int64, memOff, n int) (int, error) {
	return r.fixed(opWriteFixed, file, fileOff, memOff, n)
}

func (r *Ring) fixed(op uint8, file *os.File, fileOff int64, memOff, n int) (int, error) {
	if memOff < 0 || n < 0 || memOff+n > r.size {
		return 0, fmt.Errorf("[%d,%d) is beyond the registered buffer of %d bytes: %w", memOff, memOff+n, r.size, syscall.EFAULT)
	}
	tail := word(r.sq, r.p.sqOff.tail)
	slot := tail.Load() & (r.p.sqEntries - 1)
	e := (*sqe)(unsafe.Pointer(&r.sqes[uintptr(slot)*unsafe.Sizeof(sqe{})]))
	*e = sqe{opcode: op, fd: int32(file.Fd()), off: uint64(fileOff), addr: uint64(r.mem) + uint64(memOff), len: uint32(n)}
	word(r.sq, r.p.sqOff.array+4*slot).Store(slot)
	tail.Add(1)
	head, done := word(r.cq, r.p.cqOff.head), word(r.cq, r.p.cqOff.tail)
	for submit := uintptr(1); head.Load() == done.Load(); submit = 0 { // a signal ends the wait early
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), submit, 1, enterGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return 0, os.NewSyscallError("io_uring_enter", errno)
		}
	}
	runtime.KeepAlive(file)
	at := r.p.cqOff.cqes + (head.Load()&(r.p.cqEntries-1))*uint32(unsafe.Sizeof(cqe{}))
	c := *(*cqe)(unsafe.Pointer(&r.cq[at]))
	head.Add(1)
	if c.res < 0 {
		return 0, fmt.Errorf("fixed buffer request: %w", syscall.Errno(-c.res))
	}
	return int(c.res), nil
}

func word(b []byte, off uint32) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&b[off]))
}

// Close unmaps the queues and closes this copy of the descriptor.
func (r *Ring) Close() error {
	var errs []error
	for _, m := range [][]byte{r.sq, r.cq, r.sqes} {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	return errors.Join(append(errs, unix.Close(r.fd))...)
}
