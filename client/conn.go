package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/packet"
	"holdfast/wire"
)

// Error is what a server answered. errors.Is finds its errno.
type Error struct {
	Op    string
	Errno syscall.Errno
	Text  string // the server's explanation
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Op, e.Text) }

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// connect returns a new connection to the socket.
func connect(ctx context.Context, socket string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR) {
			break
		}
		// The server's queue is full, and the kernel has no event for room in it.
		timer := time.NewTimer(time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(ctx.Err(), unix.Close(fd))
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect %s: %w", socket, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "holdfast:"+socket), nil
}

// exchange sends the first message of a connection and waits for the answer.
func exchange(ctx context.Context, f *os.File, op wire.Op, req, reply wire.Body) error {
	return exchangeWith(ctx, f, op, req, -1, reply)
}

// exchangeWith is exchange with a descriptor, unless that is negative, on a connection on
// which nothing else is asked.
func exchangeWith(ctx context.Context, f *os.File, op wire.Op, req wire.Body, fd int, reply wire.Body) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, wire.HeaderSize+wire.MaxText)
	err := write(f, wire.Append(buf[:0], wire.Header{Op: op}, req), fd)
	n := 0
	// A server that refuses may answer and hang up before it was asked.
	if err == nil || errors.Is(err, syscall.EPIPE) {
		n, err = f.Read(buf)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%v: %w", op, ctx.Err())
	case err != nil:
		return fmt.Errorf("%v: %w", op, hangup(err))
	}
	hdr, body, err := wire.ParseHeader(buf[:n])
	if err != nil {
		return err
	}
	if hdr.Status != 0 {
		return &Error{op.String(), syscall.Errno(hdr.Status), string(body)}
	}
	return reply.Decode(body)
}

// write sends a message, with a descriptor unless that is negative.
func write(f *os.File, msg []byte, fd int) error {
	if fd < 0 {
		_, err := f.Write(msg)
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return packet.NewSender(conn, f.SetWriteDeadline, 0).Send(msg, unix.UnixRights(fd))
}

// hangup names the end of a connection.
func hangup(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("connection has ended: %w", syscall.ECONNRESET)
	}
	return err
}

// A part is one message of an answer. It owns its descriptors.
type part struct {
	body []byte
	fds  []int
}

func closeParts(parts []part) error {
	var errs error
	for _, p := range parts {
		for _, fd := range p.fds {
			if fd >= 0 { // else it is kept
				errs = errors.Join(errs, unix.Close(fd))
			}
		}
	}
	return errs
}

// receive waits for the next message, after asking for it unless ask is nil; see
// packet.Receiver.Ask. The body is good until the next call.
func receive(in *packet.Receiver, ask func() (alone, asked bool)) (hdr wire.Header, body []byte, fds []int, err error) {
	data, control, flags, err := in.Ask(ask)
	switch {
	case err != nil:
		return hdr, nil, nil, err
	case len(data) == 0:
		return hdr, nil, nil, io.EOF
	}
	if len(control) > 0 {
		fds = rights(control)
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("message was cut: out of descriptors? %w", syscall.EMFILE)
	} else {
		hdr, body, err = wire.ParseHeader(data)
	}
	if err != nil {
		return hdr, nil, nil, errors.Join(err, closeParts([]part{{fds: fds}}))
	}
	return hdr, body, fds, nil
}

func rights(control []byte) (fds []int) {
	packet.Control(control, func(kind int32, data []byte) {
		if kind == unix.SCM_RIGHTS {
			fds = packet.Descriptors(fds, data)
		}
	})
	return fds
}
