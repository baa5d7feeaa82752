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

// sendPlain is sendmsg of a message without control data, which costs the kernel less.
func sendPlain(fd uintptr, iov *unix.Iovec) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(iov.Base)), uintptr(iov.Len),
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return errno
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
	ask           func() (alone, asked bool) // nil but for the begin of Ask
}

// NewReceiver returns a Receiver with buffers of the given sizes.
func NewReceiver(conn syscall.RawConn, data, control int) *Receiver {
	r := &Receiver{conn: conn, data: make([]byte, data), control: make([]byte, control)}
	r.read = func(fd uintptr) bool {
		if r.ask == nil {
			return r.try(fd)
		}
		alone, asked := r.ask()
		r.ask = nil
		if !asked {
			r.err = ErrUnasked
			return true
		}
		return !alone && r.try(fd)
	}
	return r
}

// try does one recvmsg. It returns false if there was nothing to receive.
func (r *Receiver) try(fd uintptr) bool {
	point(&r.hdr, &r.iov, r.data, r.control)
	r.n, r.err = call(unix.SYS_RECVMSG, fd, &r.hdr, unix.MSG_CMSG_CLOEXEC)
	return !errors.Is(r.err, syscall.EAGAIN)
}

// message is what the last recvmsg brought.
func (r *Receiver) message() (data, control []byte, flags int) {
	return r.data[:min(r.n, len(r.data))], r.control[:r.hdr.Controllen], int(r.hdr.Flags)
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
	data, control, flags = r.message()
	return data, control, flags, nil
}

// ErrUnasked is what Ask returns if nothing was asked, so that it has not waited.
var ErrUnasked = errors.New("nothing was asked")

// Ask calls ask, which sends what a message will answer, and waits for that as Receive
// does. ask returns alone if no other message can have come before. That saves the
// receive that finds nothing: the poller forgets what it has seen when Ask begins, and
// not again, so what comes after ask was called wakes it. Whoever says alone and is
// wrong waits beside a message that is there.
//
// If ask returns that it has not asked, the error is ErrUnasked. With another error ask
// may not have been called.
func (r *Receiver) Ask(ask func() (alone, asked bool)) (data, control []byte, flags int, err error) {
	r.ask = ask
	defer func() { r.ask = nil }()
	return r.Receive()
}

// Serve calls each for every message, until it or the connection returns an error. Data
// and control are good until each returns; both empty mean the end of the connection.
//
// each returns quiet if after its message had come it saw nothing on fd to receive, not
// even the end. That saves the receive that finds nothing: the poller forgets what it
// has seen when Serve begins, and not again, so what comes after that look wakes Serve.
func (r *Receiver) Serve(each func(fd uintptr, data, control []byte, flags int) (quiet bool, err error)) error {
	var failed error
	err := r.conn.Read(func(fd uintptr) bool {
		for r.try(fd) {
			if failed = r.err; failed != nil {
				return true
			}
			data, control, flags := r.message()
			var quiet bool
			if quiet, failed = each(fd, data, control, flags); failed != nil {
				return true
			}
			if quiet {
				return false
			}
		}
		return false
	})
	if err != nil {
		return err
	}
	return failed
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
		if s.hdr.Controllen == 0 {
			s.err = sendPlain(fd, &s.iov)
		} else {
			_, s.err = call(unix.SYS_SENDMSG, fd, &s.hdr, unix.MSG_NOSIGNAL)
		}
		return !s.wait || !errors.Is(s.err, syscall.EAGAIN)
	}
	return s
}

// Try sends a message whole, or not at all: EAGAIN if there is no room for it.
func (s *Sender) Try(data, control []byte) error {
	point(&s.hdr, &s.iov, data, control)
	defer point(&s.hdr, &s.iov, nil, nil)
	s.wait = false
	if err := s.conn.Write(s.write); err != nil {
		return err
	}
	return s.err
}

// Send sends a message whole, or not at all. It waits for room.
func (s *Sender) Send(data, control []byte) error {
	if err := s.Try(data, control); !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	point(&s.hdr, &s.iov, data, control)
	defer point(&s.hdr, &s.iov, nil, nil)
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
