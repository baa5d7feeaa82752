package client

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast/wire"
)

// memory is the descriptors of the windows that a lease was given. They are kept for as
// long as the lease or a pin under it: a server that dies leaves the memory to its
// holders, and the next one wants it back.
type memory struct {
	mu   sync.Mutex
	refs int            // the open lease, and its pins
	fds  map[uint64]int // by segment
}

// keep takes the descriptors of an answer to MAP, one of each window, and closes the rest.
func (m *memory) keep(parts []part) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range parts {
		var reply wire.MapReply
		if reply.Decode(parts[k].body) != nil {
			continue
		}
		for _, piece := range reply.Pieces {
			fd := &parts[k].fds[piece.FD]
			if _, has := m.fds[piece.Segment]; has || *fd < 0 || m.refs == 0 {
				continue
			}
			if m.fds == nil {
				m.fds = make(map[uint64]int)
			}
			m.fds[piece.Segment] = *fd
			*fd = -1
		}
	}
	return closeParts(parts)
}

// ref keeps the memory, until as many calls of unref.
func (m *memory) ref() {
	m.mu.Lock()
	m.refs++
	m.mu.Unlock()
}

func (m *memory) unref() (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refs--; m.refs > 0 {
		return nil
	}
	for _, fd := range m.fds {
		err = errors.Join(err, unix.Close(fd))
	}
	m.fds = nil
	return err
}

// windows returns copies of the descriptors of memory that was not detached, by segment. The
// caller closes them.
func (m *memory) windows() map[uint64]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[uint64]int, len(m.fds))
	for seg, fd := range m.fds {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Size == 0 {
			continue
		}
		if own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			out[seg] = own
		}
	}
	return out
}
