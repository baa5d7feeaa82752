package local

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/packet"
	"holdfast/wire"
)

// A message is what one recvmsg brought. Its descriptors belong to whoever has it.
type message struct {
	data    []byte
	fds     []int
	cred    unix.Ucred
	hasCred bool
	pidfd   int // -1: none
	sock    int // on which it came
	// quiet: after it had come there was nothing more to receive.
	quiet bool
	// broken is what the kernel says is wrong with the message: cut in its data or
	// in its descriptors.
	broken error
}

// controlSize has room for credentials, a pidfd and two descriptors. Most of what a
// client sends beyond that the kernel drops, and says so.
var controlSize = unix.CmsgSpace(unix.SizeofUcred) + unix.CmsgSpace(4) + unix.CmsgSpace(2*4)

// A receiver receives the messages of one connection.
type receiver struct {
	in  *packet.Receiver
	fds [8]int
}

func newReceiver(conn syscall.RawConn) *receiver {
	return &receiver{in: packet.NewReceiver(conn, wire.MaxRequest, controlSize)}
}

// receive waits for the next message into m, io.EOF at the end of the connection.
// m.data and m.fds are good until the next call.
func (r *receiver) receive(m *message) error {
	data, control, flags, err := r.in.Receive()
	if err != nil {
		return err
	}
	return r.parse(m, data, control, flags)
}

// serve calls each for every message, until it or the connection returns an error,
// which is io.EOF at its end. The message is good until each returns.
func (r *receiver) serve(each func(m *message) error) error {
	var m message
	return r.in.Serve(func(fd uintptr, data, control []byte, flags int) (quiet bool, err error) {
		if err := r.parse(&m, data, control, flags); err != nil {
			return false, err
		}
		m.sock = int(fd)
		err = each(&m)
		return m.quiet, err
	})
}

// parse makes m of what was received, io.EOF of the end of the connection.
func (r *receiver) parse(m *message, data, control []byte, flags int) error {
	*m = message{pidfd: -1, sock: -1}
	// With SO_PASSCRED a message always brings credentials, also an empty one. Only
	// the end of the connection brings nothing.
	if len(data)+len(control) == 0 {
		return io.EOF
	}
	m.data, m.fds = data, r.fds[:0]
	packet.Control(control, m.control)
	switch {
	case flags&unix.MSG_TRUNC != 0:
		m.broken = fmt.Errorf("message is longer than %d bytes: %w", wire.MaxRequest, syscall.EMSGSIZE)
	case flags&unix.MSG_CTRUNC != 0:
		m.broken = fmt.Errorf("descriptors were lost: too many for a request, or the server has no more: %w", syscall.EMFILE)
	case len(data) == 0:
		m.broken = fmt.Errorf("empty message: %w", syscall.EBADMSG)
	}
	return nil
}

func (m *message) control(kind int32, data []byte) {
	switch {
	case kind == unix.SCM_CREDENTIALS && len(data) >= unix.SizeofUcred:
		m.cred = unix.Ucred{Pid: int32(word(data)), Uid: word(data[4:]), Gid: word(data[8:])}
		m.hasCred = true
	case kind == unix.SCM_PIDFD && len(data) >= 4:
		m.pidfd = int(int32(word(data)))
	case kind == unix.SCM_RIGHTS:
		m.fds = packet.Descriptors(m.fds, data)
	}
}

func word(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
