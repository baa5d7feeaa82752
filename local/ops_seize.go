package local

import (
	"fmt"
	"syscall"

	"holdfast/layout"
	"holdfast/wire"
)

// seize takes a lease, whosever it is, from its holder.
func (r *request) seize() error {
	var m wire.ID
	if err := m.Decode(r.body); err != nil {
		return err
	}
	info, err := r.srv.cfg.Arbiter.Lease(layout.LeaseID(m.ID))
	if err != nil {
		return err
	}
	uid, _, err := r.srv.cfg.FS.Attr(r.ctx, info.File)
	if err != nil {
		return err
	}
	if !r.caller.owns(uid) {
		return fmt.Errorf("to seize a lease needs the owner of the file or an administrator: %w", syscall.EPERM)
	}
	if err := r.srv.cfg.Arbiter.Seize(r.ctx, info.ID); err != nil && !gone(err) {
		return err
	}
	return r.done(nil)
}

// expire ends a session and takes all that it holds.
func (r *request) expire() error {
	var m wire.ID
	if err := m.Decode(r.body); err != nil {
		return err
	}
	if !r.caller.admin {
		return fmt.Errorf("only an administrator ends the session of another: %w", syscall.EPERM)
	}
	id := layout.SessionID(m.ID)
	arb := r.srv.cfg.Arbiter
	if err := arb.Expire(r.ctx, id, func() { r.srv.killSession(id) }); err != nil {
		return err
	}
	return r.done(nil)
}

// killSession hangs up the connection of a session. Its own requests end then.
func (s *Server) killSession(id layout.SessionID) {
	s.mu.Lock()
	var found *session
	for ses := range s.sessions {
		if ses.id == id {
			found = ses
		}
	}
	s.mu.Unlock()
	if found != nil {
		found.kill()
	}
}
