// Package packet sends and receives the messages of a SOCK_SEQPACKET socket with
// their control data, without allocating for each.
//
// The calls go through a syscall.RawConn, so that the runtime's poller waits, and
// deadlines and Close work. A Receiver or Sender is not safe for concurrent use. The
// package must not know what the messages mean.
package packet

import (
	"encoding/binary"
	"errors"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call does one sendmsg or recvmsg that does not wait.
func call(trap, fd uintptr, hdr *unix.Msghdr, flags int) (int, error) {
	for {
		n, _, errno := unix.Syscall(trap, fd, uintptr(unsafe.Pointer(hdr)), uintptr(flags|unix.MSG_DONTWAIT))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// point makes the header refer to data and control.
func point(hdr *unix.Msghdr, iov *unix.Iovec, data, control []byte) {
	iov.Base = unsafe.SliceData(data)
	iov.SetLen(len(data))
	hdr.Iov = iov
	hdr.SetIovlen(1)
	hdr.Control = unsafe.SliceData(control)
	hdr.SetControllen(len(control))
}

// A Receiver receives messages into buffers of its own.
type Receiver struct {
	conn          syscall.RawConn
	data, control []byte
	hdr           unix.Msghdr
	iov           unix.Iovec
	n             int
	err           error
	read          func(fd uintptr) bool
}

// NewReceiver returns a Receiver with buffers of the given sizes.
func NewReceiver(conn syscall.RawConn, data, control int) *Receiver {
	r := &Receiver{conn: conn, data: make([]byte, data), control: make([]byte, control)}
	r.read = func(fd uintptr) bool {
		point(&r.hdr, &r.iov, r.data, r.control)
		r.n, r.err = call(unix.SYS_RECVMSG, fd, &r.hdr, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(r.err, syscall.EAGAIN)
	}
	return r
}

// Receive waits for a message. Data and control are good until the next call; both
// empty mean the end of the connection. flags are those of the kernel: MSG_TRUNC and
// MSG_CTRUNC.
func (r *Receiver) Receive() (data, control []byte, flags int, err error) {
	if err := r.conn.Read(r.read); err != nil {
		return nil, nil, 0, err
	}
	if r.err != nil {
		return nil, nil, 0, r.err
	}
	return r.data[:min(r.n, len(r.data))], r.control[:r.hdr.Controllen], int(r.hdr.Flags), nil
}

// A Sender sends messages.
type Sender struct {
	conn     syscall.RawConn
	deadline func(time.Time) error
	timeout  time.Duration
	hdr      unix.Msghdr
	iov      unix.Iovec
	wait     bool
	err      error
	write    func(fd uintptr) bool
}

// NewSender returns a Sender whose messages wait for at most timeout for room; zero
// means for ever. deadline sets the connection's write deadline.
func NewSender(conn syscall.RawConn, deadline func(time.Time) error, timeout time.Duration) *Sender {
	s := &Sender{conn: conn, deadline: deadline, timeout: timeout}
	s.write = func(fd uintptr) bool {
		_, s.err = call(unix.SYS_SENDMSG, fd, &s.hdr, unix.MSG_NOSIGNAL)
		return !s.wait || !errors.Is(s.err, syscall.EAGAIN)
	}
	return s
}

// Send sends a message whole, or not at all.
func (s *Sender) Send(data, control []byte) error {
	point(&s.hdr, &s.iov, data, control)
	defer point(&s.hdr, &s.iov, nil, nil)
	s.wait = false
	if err := s.conn.Write(s.write); err != nil {
		return err
	}
	if !errors.Is(s.err, syscall.EAGAIN) {
		return s.err
	}
	// Only now: setting a deadline costs more than most messages.
	s.wait = true
	if s.timeout > 0 {
		if err := s.deadline(time.Now().Add(s.timeout)); err != nil {
			return err
		}
	}
	if err := s.conn.Write(s.write); err != nil {
		return err
	}
	return s.err
}

// Control calls fn for each control message of SOL_SOCKET in control.
func Control(control []byte, fn func(kind int32, data []byte)) {
	for len(control) >= unix.SizeofCmsghdr {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return // the kernel writes no malformed ones
		}
		if hdr.Level == unix.SOL_SOCKET {
			fn(hdr.Type, data)
		}
		control = rest
	}
}

// Descriptors appends the descriptors in the data of an SCM_RIGHTS to fds.
func Descriptors(fds []int, data []byte) []int {
	for ; len(data) >= 4; data = data[4:] {
		fds = append(fds, int(int32(binary.NativeEndian.Uint32(data))))
	}
	return fds
}
