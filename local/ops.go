package local

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/wire"
)

// dataFile identifies the request's data descriptor and closes it.
func (r *request) dataFile() (dataFile, error) {
	f, err := r.srv.identify(r.fds[0])
	if err != nil {
		return f, errors.Join(err, r.closeFDs())
	}
	// One of ours closes, whatever others of the same user do.
	fd := r.fds[0]
	r.fds = nil
	return f, unix.Close(fd)
}

// mayUnbreakable checks the right to an unbreakable lease.
func (r *request) mayUnbreakable(file extent.Ino, writable bool) error {
	if !writable {
		return fmt.Errorf("an unbreakable lease needs a data descriptor opened O_RDWR: %w", syscall.EACCES)
	}
	uid, _, err := r.srv.cfg.FS.Attr(r.ctx, file)
	if err != nil {
		return err
	}
	if !r.caller.owns(uid) {
		return fmt.Errorf("an unbreakable lease needs the owner of the file or an administrator: %w", syscall.EPERM)
	}
	return nil
}

// mayRevoke checks the right to a policy that takes what others hold.
func (r *request) mayRevoke(file extent.Ino, o wire.OnHold) error {
	if o != wire.OnHoldRevoke && o != wire.OnHoldDefer {
		return nil
	}
	uid, _, err := r.srv.cfg.FS.Attr(r.ctx, file)
	if err != nil {
		return err
	}
	if !r.caller.owns(uid) {
		return fmt.Errorf("on_hold = %v needs the owner of the file or an administrator: %w", layout.OnHold(o), syscall.EPERM)
	}
	return nil
}

// begin counts an object that is being made.
func (r *request) begin(kind wire.ObjectKind) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	limits := r.srv.cfg.Limits
	switch {
	case r.closed:
		return fmt.Errorf("session ends: %w", syscall.EINTR)
	case kind == wire.ObjectLease && len(r.leases)+r.comingLeases >= limits.Leases:
		return fmt.Errorf("limit of %d leases of a session: %w", limits.Leases, syscall.ENOLCK)
	case kind == wire.ObjectContext && len(r.contexts)+r.comingContexts >= limits.Contexts:
		return fmt.Errorf("limit of %d contexts of a session: %w", limits.Contexts, syscall.EMFILE)
	case kind == wire.ObjectLease:
		r.comingLeases++
	default:
		r.comingContexts++
	}
	return nil
}

// add ends what begin began: h is of the session now, if it was made.
func (r *request) add(h *handle, made bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	objects := r.contexts
	if h.kind == wire.ObjectLease {
		objects = r.leases
		r.comingLeases--
	} else {
		r.comingContexts--
	}
	if made {
		objects[h.id] = h
	}
}

func (r *request) acquire() error {
	var m wire.Acquire
	if err := m.Decode(r.body); err != nil {
		return err
	}
	file, err := r.dataFile()
	if err != nil {
		return err
	}
	if err := file.mayHold(m.Access); err != nil {
		return err
	}
	req := arbiter.AcquireRequest{
		File: file.ino, Range: m.Range.RoundOut(), Access: toAccess(m.Access), Mode: toMode(m.Mode),
		Unbreakable: m.Flags&wire.LeaseUnbreakable != 0, NoWait: m.Flags&wire.LeaseNoWait != 0,
	}
	if req.Unbreakable {
		if err := r.mayUnbreakable(file.ino, file.writable); err != nil {
			return err
		}
		req.MayUnbreakable = true
	}
	if m.Flags&wire.LeaseAllocate != 0 {
		if m.Access != wire.AccessWrite {
			return fmt.Errorf("a read lease cannot allocate: %w", syscall.EACCES)
		}
		req.Prepare = arbiter.PrepareAllocate
	}
	if err := r.begin(wire.ObjectLease); err != nil {
		return err
	}
	h := &handle{srv: r.srv, ses: r.session, kind: wire.ObjectLease, file: file.ino, writable: file.writable, fd: -1}
	info, err := r.srv.cfg.Arbiter.Acquire(r.ctx, r.id, req, h)
	h.id = uint64(info.ID)
	r.add(h, err == nil)
	if err != nil {
		return err
	}
	reply := toLeaseReply(info)
	reply.Ticket = r.srv.tickets.issue(h)
	return r.done(&reply)
}

// lease returns the session's lease with this number.
func (r *request) lease(id uint64) (*handle, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.leases[id]; h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("session %d has no lease %d: %w", r.id, id, syscall.ENOENT)
}

func (r *request) giveBack() error {
	var m wire.Return
	if err := m.Decode(r.body); err != nil {
		return err
	}
	h, err := r.lease(m.Lease)
	if err != nil {
		return err
	}
	if err := r.srv.cfg.Arbiter.Return(r.ctx, r.id, layout.LeaseID(h.id), m.Range.RoundOut()); err != nil {
		return err
	}
	info, err := r.srv.cfg.Arbiter.Lease(layout.LeaseID(h.id))
	if err != nil && !gone(err) {
		return err
	}
	if err != nil || len(info.Ranges)+len(info.Leaving) == 0 {
		info = arbiter.LeaseInfo{ID: layout.LeaseID(h.id), File: h.file, State: layout.StateReleased, Seq: info.Seq}
		h.end()
	}
	h.tellOthers(m.Range.RoundOut(), info)
	reply := toLeaseReply(info)
	return r.done(&reply)
}

func (r *request) modify() error {
	var m wire.Modify
	if err := m.Decode(r.body); err != nil {
		return err
	}
	h, err := r.lease(m.Lease)
	if err != nil {
		return err
	}
	if m.Access == wire.AccessWrite && !h.writable {
		return fmt.Errorf("the data descriptor of lease %d was not open for writing: %w", h.id, syscall.EACCES)
	}
	req := arbiter.ModifyRequest{
		Access: toAccess(m.Access), Mode: toMode(m.Mode),
		Unbreakable: m.Flags&wire.LeaseUnbreakable != 0, NoWait: m.Flags&wire.LeaseNoWait != 0,
	}
	if req.Unbreakable {
		if err := r.mayUnbreakable(h.file, h.writable); err != nil {
			return err
		}
		req.MayUnbreakable = true
	}
	info, err := r.srv.cfg.Arbiter.Modify(r.ctx, r.id, layout.LeaseID(h.id), req)
	if err != nil {
		return err
	}
	reply := toLeaseReply(info)
	return r.done(&reply)
}

func (r *request) leaseInfo() error {
	var m wire.ID
	if err := m.Decode(r.body); err != nil {
		return err
	}
	h, err := r.lease(m.ID)
	if err != nil {
		return err
	}
	info, err := r.srv.cfg.Arbiter.Lease(layout.LeaseID(h.id))
	if err != nil {
		return err
	}
	reply := toLeaseReply(info)
	return r.done(&reply)
}

func (r *request) commit() error {
	var m wire.Commit
	if err := m.Decode(r.body); err != nil {
		return err
	}
	h, _, err := r.covered(m.Lease, m.Range, wire.AccessWrite)
	if err != nil {
		return err
	}
	if err := r.srv.cfg.FS.Commit(r.ctx, layout.LeaseID(h.id), h.file, m.Range, m.Size); err != nil {
		return err
	}
	return r.done(nil)
}

// covered returns the session's lease if it gives access to all of the range now.
func (r *request) covered(id uint64, rng extent.Range, a wire.Access) (*handle, arbiter.LeaseInfo, error) {
	h, err := r.lease(id)
	if err != nil {
		return nil, arbiter.LeaseInfo{}, err
	}
	info, err := r.srv.cfg.Arbiter.Lease(layout.LeaseID(h.id))
	if err != nil {
		return nil, info, err
	}
	if a == wire.AccessWrite && info.Access != layout.Write {
		return nil, info, fmt.Errorf("lease %d is for reading: %w", id, syscall.EACCES)
	}
	left := rng
	for _, p := range info.Ranges { // in order
		if p := p.Extent(); p.ContainsOff(left.Off) {
			left.Off = p.End
		}
	}
	if !left.Empty() {
		return nil, info, fmt.Errorf("lease %d does not cover %v: %w", id, rng, syscall.EINVAL)
	}
	return h, info, nil
}

func (r *request) change() error {
	var m wire.Change
	if err := m.Decode(r.body); err != nil {
		return err
	}
	file, err := r.dataFile()
	if err != nil {
		return err
	}
	if !file.writable {
		return fmt.Errorf("data descriptor is not open for writing: %w", syscall.EBADF)
	}
	if err := r.mayRevoke(file.ino, m.OnHold); err != nil {
		return err
	}
	c := r.toArbiter(r.caller)
	c.OnHold, c.DropOwn = layout.OnHold(m.OnHold), m.Flags&wire.ChangeDropOwn != 0
	c.Wait = time.Duration(m.Wait)
	if m.Wait == 0 {
		// As long as a break with progress can take, and a little.
		c.Wait = 2*r.srv.cfg.BreakTime + 10*time.Second
	}
	if m.Kind == wire.ChangeTruncate {
		err = r.srv.cfg.FS.Truncate(r.ctx, c, file.ino, m.Range.Off)
	} else {
		err = r.srv.cfg.FS.Reshape(r.ctx, c, file.ino, fallocateMode(m.Kind), m.Range)
	}
	if err != nil {
		return err
	}
	return r.done(nil)
}

func (r *request) grow() error {
	var m wire.Grow
	if err := m.Decode(r.body); err != nil {
		return err
	}
	if !r.caller.admin {
		return fmt.Errorf("only an administrator changes the size of the volume: %w", syscall.EPERM)
	}
	size, err := r.srv.cfg.FS.Grow(r.ctx, m.Size)
	if err != nil {
		return err
	}
	return r.done(&wire.Grow{Size: size})
}

// fallocateMode is what fallocate(2) calls a change other than truncate.
func fallocateMode(k wire.ChangeKind) uint32 {
	switch k {
	case wire.ChangePunch:
		return unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	case wire.ChangeZero:
		return unix.FALLOC_FL_ZERO_RANGE
	case wire.ChangeCollapse:
		return unix.FALLOC_FL_COLLAPSE_RANGE
	case wire.ChangeInsert:
		return unix.FALLOC_FL_INSERT_RANGE
	case wire.ChangeUnshare:
		return unix.FALLOC_FL_UNSHARE_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	return 0
}

func (r *request) admit() error {
	if err := (&wire.Empty{}).Decode(r.body); err != nil {
		return err
	}
	if r.caller.pid != r.peer.pid {
		return fmt.Errorf("only process %d itself admits others: %w", r.peer.pid, syscall.EPERM)
	}
	pid, err := pidOf(r.fds[0])
	if err != nil {
		return fmt.Errorf("descriptor is no pidfd: %w", syscall.EBADF)
	}
	if err := r.share(); err != nil {
		return err
	}
	if err := r.srv.cfg.Arbiter.Admit(r.id, pid); err != nil {
		return err
	}
	if err := r.addAdmitted(admitted{pid: pid, pidfd: r.fds[0]}); err != nil {
		return err
	}
	r.fds = nil // the session's now
	return r.done(nil)
}

func (s *session) addAdmitted(a admitted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.admitted {
		if other.pid == a.pid {
			return fmt.Errorf("process %d is admitted already: %w", a.pid, syscall.EEXIST)
		}
	}
	if limit := s.srv.cfg.Limits.Admitted; len(s.admitted) >= limit {
		return fmt.Errorf("limit of %d admitted processes of a session: %w", limit, syscall.EMFILE)
	}
	pid := a.pid
	w, err := s.srv.hub.add(a.pidfd, unix.EPOLLIN, func(uint32) { s.srv.wg.Go(func() { s.left(pid) }) })
	if err != nil {
		return err
	}
	a.watch = w
	s.admitted = append(s.admitted, a)
	return nil
}

// left is called when an admitted process has died: its number is not its own any more.
func (s *session) left(pid int32) {
	s.mu.Lock()
	var gone []admitted
	for i, a := range s.admitted {
		if a.pid == pid {
			gone = append(gone, a)
			s.admitted = append(s.admitted[:i], s.admitted[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	for _, a := range gone {
		s.dismiss(a)
	}
}

func (s *session) dismiss(a admitted) {
	a.watch.remove()
	s.srv.cfg.Arbiter.Dismiss(s.id, a.pid)
	if err := unix.Close(a.pidfd); err != nil {
		s.srv.cfg.Log.Error("pidfd", "pid", a.pid, "err", err)
	}
}

func (s *session) isAdmitted(pid int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.admitted {
		if a.pid == pid && alive(a.pidfd) {
			return true
		}
	}
	return false
}

func (r *request) cancelRequest() error {
	var m wire.Cancel
	if err := m.Decode(r.body); err != nil {
		return err
	}
	r.mu.Lock()
	cancel := r.waiting[m.Request]
	r.mu.Unlock()
	if cancel == nil {
		return fmt.Errorf("request %d does not wait: %w", m.Request, syscall.ENOENT)
	}
	cancel()
	return r.done(nil)
}

func toAccess(a wire.Access) layout.Access {
	if a == wire.AccessWrite {
		return layout.Write
	}
	return layout.Read
}

func toMode(m wire.Mode) layout.Mode {
	if m == wire.ModeExclusive {
		return layout.Exclusive
	}
	return layout.Shared
}

func toLeaseReply(info arbiter.LeaseInfo) wire.LeaseReply {
	m := wire.LeaseReply{
		Lease: uint64(info.ID), File: uint64(info.File), Seq: info.Seq, State: wire.State(info.State),
		Access: wire.AccessRead, Mode: wire.ModeShared,
	}
	if info.Access == layout.Write {
		m.Access = wire.AccessWrite
	}
	if info.Mode == layout.Exclusive {
		m.Mode = wire.ModeExclusive
	}
	if info.Unbreakable {
		m.Flags = wire.LeaseUnbreakable
	}
	for i, p := range info.Ranges {
		p := p.Extent()
		if i == 0 {
			m.Range.Off = p.Off
		}
		m.Range.End = p.End
		if i < wire.MaxPieces {
			m.Pieces = append(m.Pieces, p)
		}
	}
	return m
}
