package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/wire"
)

// Reclaimer is what the server needs of an arbiter that knows what a former server had
// handed out; see arbiter.Restore.
type Reclaimer interface {
	Unclaimed() []arbiter.Process
	Resume(id layout.SessionID, p arbiter.Process) error
	ReclaimLease(id layout.SessionID, lease layout.LeaseID, h arbiter.Holder) (arbiter.LeaseInfo, error)
	ReclaimContext(id layout.SessionID, c layout.ContextID) error
	ReclaimPin(id layout.SessionID, pin layout.PinID, c layout.ContextID, lease layout.LeaseID, r extent.Range, access layout.Access) (layout.PinID, error)
	Settle(ctx context.Context, id layout.SessionID) error
	Forsake(ctx context.Context, id layout.SessionID) error
	Alarm(id layout.SessionID)
}

// Adopter is a FS whose windows outlive its server.
type Adopter interface {
	// Adopt makes the memory that a holder gives back the window that it was.
	Adopt(ctx context.Context, lease layout.LeaseID, ino extent.Ino, seg extent.Segment, memory int) error
}

// startOf returns when a process started, in clock ticks since boot: with its number, that
// is what it is known by. 0 if that cannot be found out.
func startOf(pid int32) uint64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, can have any characters in it. State is the next field, and the third.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0
	}
	return start
}

// reclaim gives the session's process back what it had with a former server.
func (r *request) reclaim() error {
	var m wire.Reclaim
	if err := m.Decode(r.body); err != nil {
		return err
	}
	if (m.Kind == wire.ReclaimWindow) != (len(r.fds) == 1) {
		return fmt.Errorf("a window comes with its memory, nothing else with a descriptor: %w", syscall.EINVAL)
	}
	arb, ok := r.srv.cfg.Arbiter.(Reclaimer)
	fs, adopts := r.srv.cfg.FS.(Adopter)
	if !ok || !adopts {
		return fmt.Errorf("this server keeps nothing of a former one: %w", syscall.EOPNOTSUPP)
	}
	if r.caller.pid != r.peer.pid {
		return fmt.Errorf("only process %d itself claims what it had: %w", r.peer.pid, syscall.EPERM)
	}
	reply := wire.Reclaimed{ID: m.Object}
	var err error
	switch m.Kind {
	case wire.ReclaimSession:
		err = r.resume(arb, layout.SessionID(m.Object))
	case wire.ReclaimWindow:
		reply.ID = m.Lease
		reply.Ticket, err = r.reclaimWindow(arb, fs, &m)
	case wire.ReclaimContext:
		reply.Ticket, err = r.reclaimContext(arb, m.Object)
	case wire.ReclaimPin:
		var pin layout.PinID
		pin, err = arb.ReclaimPin(r.id, layout.PinID(m.Object), layout.ContextID(m.Context), layout.LeaseID(m.Lease), m.Range.RoundOut(), toAccess(m.Access))
		reply.ID = uint64(pin)
	case wire.ReclaimDone:
		err = arb.Settle(r.ctx, r.id)
	}
	if err := errors.Join(err, r.closeFDs()); err != nil {
		return err
	}
	return r.done(&reply)
}

// resume makes this session the one that the process had. It runs on the goroutine that
// reads the session's messages, and nothing else of the session runs.
func (r *request) resume(arb Reclaimer, id layout.SessionID) error {
	r.mu.Lock()
	busy := len(r.waiting)+len(r.leases)+len(r.contexts)+r.comingLeases+r.comingContexts+len(r.admitted) > 0 || r.subscribed
	r.mu.Unlock()
	if busy {
		return fmt.Errorf("a former session is claimed before anything else: %w", syscall.EBUSY)
	}
	p := arbiter.Process{PID: r.peer.pid, UID: r.peer.uid, Start: startOf(r.peer.pid)}
	if !alive(r.peer.pidfd) { // it may have been another's
		return fmt.Errorf("process %d is gone: %w", r.peer.pid, syscall.ESRCH)
	}
	if err := arb.Resume(id, p); err != nil {
		return err
	}
	r.srv.cfg.Arbiter.EndSession(r.id)
	r.srv.mu.Lock() // as in hello
	r.session.id = id
	r.srv.mu.Unlock()
	r.srv.cfg.Log.Info("a process is back that had a session with the former server", "session", id, "pid", p.PID)
	return nil
}

// reclaimWindow adopts a window of a lease. With the first the lease is the session's again.
func (r *request) reclaimWindow(arb Reclaimer, fs Adopter, m *wire.Reclaim) (t wire.Ticket, err error) {
	r.mu.Lock()
	h := r.leases[m.Lease]
	r.mu.Unlock()
	known := h != nil
	if !known {
		h = &handle{srv: r.srv, ses: r.session, kind: wire.ObjectLease, id: m.Lease, fd: -1}
	}
	info, err := r.srv.cfg.Arbiter.Lease(layout.LeaseID(m.Lease))
	if err != nil {
		return t, err
	}
	if info.Session != r.id {
		return t, fmt.Errorf("lease %d is of another session: %w", m.Lease, syscall.EPERM)
	}
	if err := fs.Adopt(r.ctx, info.ID, info.File, extent.Segment(m.Object), r.fds[0]); err != nil {
		return t, err
	}
	if known {
		return t, nil
	}
	h.file, h.writable = info.File, info.Access == layout.Write
	if err := r.begin(wire.ObjectLease); err != nil {
		return t, err
	}
	info, err = arb.ReclaimLease(r.id, info.ID, h)
	r.add(h, err == nil)
	if err != nil || info.Closed {
		return t, err
	}
	return r.srv.tickets.issue(h), nil
}

func (r *request) reclaimContext(arb Reclaimer, id uint64) (t wire.Ticket, err error) {
	if err := r.begin(wire.ObjectContext); err != nil {
		return t, err
	}
	h := &handle{srv: r.srv, ses: r.session, kind: wire.ObjectContext, id: id, fd: -1}
	err = arb.ReclaimContext(r.id, layout.ContextID(id))
	r.add(h, err == nil)
	if err != nil {
		return t, err
	}
	return r.srv.tickets.issue(h), nil
}

// awaitFormer watches the processes that have something from a former server: what a dead
// one had is cut, and of one that lives and does not come back an operator is told.
func (s *Server) awaitFormer(ctx context.Context) {
	arb, ok := s.cfg.Arbiter.(Reclaimer)
	if !ok {
		return
	}
	all := arb.Unclaimed()
	if len(all) == 0 {
		return
	}
	pidfds := make(map[int32]int) // of those that live
	for _, p := range all {
		if _, ok := pidfds[p.PID]; !ok {
			if fd, err := livingPidfd(p); err == nil {
				pidfds[p.PID] = fd
			} else {
				s.cfg.Log.Debug("a process of the former server is gone", "pid", p.PID, "err", err)
			}
		}
	}
	for _, p := range all {
		fd, lives := pidfds[p.PID]
		if !lives {
			s.forsake(arb, p)
			continue
		}
		if err := s.watchFormer(ctx, arb, p, fd); err != nil {
			s.cfg.Log.Error("the end of a process will not be seen", "pid", p.PID, "err", err)
		}
	}
	for _, fd := range pidfds {
		_ = unix.Close(fd) // each session has its own
	}
	s.wg.Go(func() { s.alarm(ctx, arb) })
}

// watchFormer has what a process had cut when it is dead.
func (s *Server) watchFormer(ctx context.Context, arb Reclaimer, p arbiter.Process, pidfd int) error {
	own, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dead := make(chan struct{}, 1)
	w, err := s.hub.add(own, unix.EPOLLIN|unix.EPOLLONESHOT, func(uint32) { dead <- struct{}{} })
	if err != nil {
		return errors.Join(err, unix.Close(own))
	}
	s.wg.Go(func() {
		select {
		case <-dead:
			s.forsake(arb, p)
		case <-ctx.Done():
		}
		w.remove()
		if err := unix.Close(own); err != nil {
			s.cfg.Log.Error("pidfd", "pid", p.PID, "err", err)
		}
	})
	return nil
}

// livingPidfd returns a pidfd of a process, if it is the one that was meant.
func livingPidfd(p arbiter.Process) (int, error) {
	fd, err := unix.PidfdOpen(int(p.PID), 0)
	if err != nil {
		return -1, err
	}
	// While it lives, its number is its own.
	if start := startOf(p.PID); start != p.Start || !alive(fd) {
		return -1, errors.Join(fmt.Errorf("the number is another's by now: %w", syscall.ESRCH), unix.Close(fd))
	}
	return fd, nil
}

func (s *Server) forsake(arb Reclaimer, p arbiter.Process) {
	s.cfg.Log.Info("a process that had a session with the former server is gone: what it had is cut", "session", p.Session, "pid", p.PID)
	if err := arb.Forsake(s.cleanup, p.Session); err != nil && !gone(err) {
		s.cfg.Log.Error("what a dead process had was not cut", "session", p.Session, "pid", p.PID, "err", err)
	}
}

// alarm tells after a while of those who live and have not come back.
func (s *Server) alarm(ctx context.Context, arb Reclaimer) {
	timer := s.cfg.Clock.NewTimer(s.cfg.Limits.ReclaimTime)
	defer timer.Stop()
	select {
	case <-timer.C():
	case <-ctx.Done():
		return
	}
	for _, p := range arb.Unclaimed() {
		s.cfg.Log.Warn("a process lives that has memory from the former server, and does not come back for it: its blocks stay protected",
			"session", p.Session, "pid", p.PID, "program", p.Name, "uid", p.UID, "after", s.cfg.Limits.ReclaimTime.Round(time.Millisecond))
		arb.Alarm(p.Session)
	}
}
