package layout

import "syscall"

// acquire is OpAcquire.
func (m *Machine) acquire(in *Input) {
	r, ok := checkRange(in.Range)
	s := m.sessions.get(uint64(in.Session))
	switch {
	case !ok:
		m.deny(in, syscall.EINVAL, "the range is empty")
		return
	case in.Access > Write || in.Mode > Exclusive:
		m.deny(in, syscall.EINVAL, "no such access or mode")
		return
	case s == nil || s.dead:
		m.deny(in, syscall.ESRCH, "no such session")
		return
	}
	q := m.newRequest()
	q.kind, q.file, q.session, q.owner, q.r, q.tag = acquiring, m.file(in.File), s.id, s, r, in.Tag
	q.access, q.mode, q.unbreakable = in.Access, in.Mode, in.Unbreakable
	f := q.file
	m.submit(q, in.NoWait)
	m.drop(f)
}

// modify is OpModify. What asks for less is done at once; what asks for more is judged as an acquire is.
func (m *Machine) modify(in *Input) {
	l := m.lookup(in)
	switch {
	case l == nil:
		return
	case in.Access > Write || in.Mode > Exclusive:
		m.deny(in, syscall.EINVAL, "no such access or mode")
		return
	case l.closed || m.sessions.get(uint64(in.Session)).dead:
		m.deny(in, syscall.EPERM, "the handle of the lease is closed")
		return
	case l.shared():
		m.deny(in, syscall.EBUSY, "several sessions hold the lease")
		return
	case in.Access == Read && l.access == Write && l.writePins():
		m.deny(in, syscall.EBUSY, "the lease has pins for writing")
		return
	}
	q := m.newRequest()
	q.kind, q.file, q.session, q.owner, q.r, q.lease = modifying, l.file, in.Session, l.session, l.hull(), l.id
	q.access, q.mode, q.unbreakable = in.Access, in.Mode, in.Unbreakable
	if in.Mode > l.mode || in.Unbreakable && !l.unbreakable {
		m.submit(q, in.NoWait)
	} else {
		m.link(q)
		m.complete(q)
	}
	m.settle(l) // what became less may let others go on
}

// applyModify puts in force what q asks for. Preconditions: nothing is in the way.
func (m *Machine) applyModify(q *request) {
	l := m.leases.get(uint64(q.lease))
	l.replant(func() { l.access, l.mode, l.unbreakable = q.access, q.mode, q.unbreakable })
	l.seq++
	m.emit(Effect{
		Kind: Modified, Lease: l.id, File: l.file.ino, Session: l.session.id, Range: l.hull(), Request: q.requestID(),
		Access: l.access, Mode: l.mode, Unbreakable: l.unbreakable, Seq: uint64(l.seq), Tag: l.tag,
	})
}

func (l *lease) writePins() bool {
	if l.slow == nil {
		return false
	}
	for p := l.slow.pins; p != nil; p = p.nextOfLease {
		if p.access == Write {
			return true
		}
	}
	return false
}
