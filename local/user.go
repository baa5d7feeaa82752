package local

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/wire"
)

// A user is what all connections of one uid use up together. Its fields are
// guarded by Server.mu.
type user struct {
	uid         uint32
	connections int
	sessions    int
	// inFlight are descriptors that were sent, and not seen to be read.
	inFlight int
	// lingering are sockets of ended sessions whose client has not read what was
	// sent to it. The kernel counts the descriptors in there against this server
	// until it does, so they stay counted here.
	lingering []lingering
	// closing has a token for each descriptor of this user that is being closed.
	closing chan struct{}
}

type lingering struct {
	fd       int
	inFlight int
}

// maxClosing is how many closes of one user's descriptors run at a time.
const maxClosing = 8

// connect counts a new connection of uid. Each is undone by disconnect.
func (s *Server) connect(uid uint32) (*user, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[uid]
	if u == nil {
		u = &user{uid: uid, closing: make(chan struct{}, maxClosing)}
		s.users[uid] = u
	}
	if u.connections >= s.cfg.Limits.Connections {
		u.sweep()
	}
	if limit := s.cfg.Limits.Connections; u.connections >= limit {
		return nil, fmt.Errorf("limit of %d connections of user %d: %w", limit, uid, syscall.EUSERS)
	}
	u.connections++
	return u, nil
}

func (s *Server) disconnect(u *user) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.connections--
	if u.connections == 0 && len(u.closing) == 0 {
		delete(s.users, u.uid)
	}
}

// addSession counts a session of u.
func (s *Server) addSession(ses *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit := s.cfg.Limits.Sessions; ses.user.sessions >= limit {
		return fmt.Errorf("limit of %d sessions of user %d: %w", limit, ses.user.uid, syscall.EUSERS)
	}
	if s.stopping {
		return fmt.Errorf("server is stopping: %w", syscall.ESHUTDOWN)
	}
	ses.user.sessions++
	s.sessions[ses] = struct{}{}
	return nil
}

func (s *Server) removeSession(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ses)
	ses.user.sessions--
	if ses.inFlight == 0 {
		return
	}
	if fd, ok := ses.unread(); ok {
		ses.user.lingering = append(ses.user.lingering, lingering{fd, ses.inFlight})
		ses.user.connections++
		return
	}
	ses.user.inFlight -= ses.inFlight
}

// sweep forgets the ended sessions whose client has read or closed.
func (u *user) sweep() {
	left := u.lingering[:0]
	for _, l := range u.lingering {
		if n, err := unix.IoctlGetInt(l.fd, unix.SIOCOUTQ); err == nil && n > 0 {
			left = append(left, l)
			continue
		}
		unix.Close(l.fd)
		u.inFlight -= l.inFlight
		u.connections--
	}
	u.lingering = left
}

// reserve counts n descriptors that are about to be sent to ses.
func (s *Server) reserve(ses *session, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, limit := ses.user, s.cfg.Limits.InFlight
	// One session of a user shall leave some to the others.
	if ses.inFlight > 0 && ses.drained() {
		u.inFlight -= ses.inFlight
		ses.inFlight = 0
	}
	if share := max(limit/8, wire.MaxFDs); ses.inFlight+n > share {
		return fmt.Errorf("limit of %d descriptors sent to a session and not read: %w", share, syscall.ETOOMANYREFS)
	}
	if u.inFlight+n > limit {
		u.sweep()
		for other := range s.sessions {
			if other.user == u && other.inFlight > 0 && other.drained() {
				u.inFlight -= other.inFlight
				other.inFlight = 0
			}
		}
	}
	if u.inFlight+n > limit {
		return fmt.Errorf("limit of %d descriptors sent to user %d and not read: %w", limit, u.uid, syscall.ETOOMANYREFS)
	}
	u.inFlight += n
	ses.inFlight += n
	return nil
}

// drained reports whether the client has read all that was sent to it.
func (s *session) drained() bool {
	n := 1
	err := s.raw.Control(func(fd uintptr) {
		if got, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			n = got
		}
	})
	return err == nil && n == 0
}

// unread returns a copy of the session's socket if the client has not read all.
func (s *session) unread() (fd int, ok bool) {
	if s.drained() {
		return -1, false
	}
	err := s.raw.Control(func(raw uintptr) {
		var dupErr error
		fd, dupErr = unix.FcntlInt(raw, unix.F_DUPFD_CLOEXEC, 0)
		ok = dupErr == nil
	})
	return fd, ok && err == nil
}

// dispose closes descriptors that came from u. They can be of a filesystem that a
// client serves itself, whose close never returns: no more than a few threads of
// this server may be lost to that for one user.
func (u *user) dispose(fds []int) error {
	if len(fds) == 0 {
		return nil
	}
	u.closing <- struct{}{}
	defer func() { <-u.closing }()
	var errs error
	for _, fd := range fds {
		// The error of a close is about what its owner wrote, except for EBADF.
		if err := unix.Close(fd); errors.Is(err, syscall.EBADF) {
			errs = errors.Join(errs, fmt.Errorf("close of descriptor %d: %w", fd, err))
		}
	}
	return errs
}
