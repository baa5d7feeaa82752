package layout

import (
	"syscall"

	"holdfast/extent"
)

// pin says that through a context these blocks may be reached at any time.
type pin struct {
	id            PinID
	lease         *lease
	context       *context
	r             extent.Range
	access        Access
	prevOfLease   *pin
	nextOfLease   *pin
	prevOfContext *pin
	nextOfContext *pin
}

// pin is OpPin.
func (m *Machine) pin(in *Input) {
	l := m.lookup(in)
	if l == nil {
		return
	}
	r, ok := checkRange(in.Range)
	c := m.contexts[in.Context]
	switch {
	case !ok || in.Access > Write:
		m.deny(in, syscall.EINVAL, "the range is empty, or no such access")
		return
	case c == nil:
		m.deny(in, syscall.ENOENT, "no such context")
		return
	case c.session != l.session:
		m.deny(in, syscall.EPERM, "the context belongs to another session")
		return
	case l.closed || l.session.dead:
		m.deny(in, syscall.EPERM, "the handle of the lease is closed")
		return
	case in.Access == Write && l.access == Read:
		m.deny(in, syscall.EPERM, "the lease is for reading only")
		return
	case m.pinBarred(l, r):
		m.deny(in, syscall.EAGAIN, "the range is being broken")
		return
	case !l.covers(r):
		m.deny(in, syscall.EINVAL, "the lease does not cover the range")
		return
	}
	p := &pin{id: PinID(m.newID()), lease: l, context: c, r: r, access: in.Access}
	s := l.rare()
	p.nextOfLease, p.nextOfContext = s.pins, c.pins
	if s.pins != nil {
		s.pins.prevOfLease = p
	}
	if c.pins != nil {
		c.pins.prevOfContext = p
	}
	s.pins, c.pins = p, p
	s.npins++
	l.session.pins++
	m.pins[p.id] = p
	it := item[pin]{key: key{r.Off, uint64(p.id)}, end: r.End, val: p, owner: l.session.slot, class: 1 << any_}
	l.file.pins.insert(&it)
	m.emit(p.effect(Pinned))
}

func (p *pin) effect(kind EffectKind) Effect {
	return Effect{
		Kind: kind, Pin: p.id, Lease: p.lease.id, Context: p.context.id, File: p.lease.file.ino,
		Session: p.lease.session.id, Range: p.r, Access: p.access,
	}
}

// pinBarred reports whether a pin would conflict with a break or with a request that came earlier, also the session's own:
// a change never skips pins.
func (m *Machine) pinBarred(l *lease, r extent.Range) bool {
	for q := l.file.head; q != nil; q = q.next {
		if !q.r.Overlaps(r) {
			continue
		}
		if q.kind == changing {
			if q.class != Additive {
				return true
			}
			continue
		}
		if !sameSession(q.session, l.session.id) && (q.mode == Exclusive || l.mode == Exclusive) {
			return true
		}
	}
	return false
}

// unpin is OpUnpin.
func (m *Machine) unpin(in *Input) {
	p := m.pins[in.Pin]
	switch {
	case p == nil:
		m.deny(in, syscall.ENOENT, "no such pin")
	case p.lease.session.id != in.Session:
		m.deny(in, syscall.EPERM, "the pin belongs to another session")
	default:
		m.dropPin(p)
	}
}

// dropPin takes the pin away. A lease that only its pins kept goes with the last.
func (m *Machine) dropPin(p *pin) {
	l := p.lease
	delete(m.pins, p.id)
	l.file.pins.remove(p.r.Off, uint64(p.id))
	if p.prevOfLease != nil {
		p.prevOfLease.nextOfLease = p.nextOfLease
	} else {
		l.slow.pins = p.nextOfLease
	}
	if p.nextOfLease != nil {
		p.nextOfLease.prevOfLease = p.prevOfLease
	}
	if p.prevOfContext != nil {
		p.prevOfContext.nextOfContext = p.nextOfContext
	} else {
		p.context.pins = p.nextOfContext
	}
	if p.nextOfContext != nil {
		p.nextOfContext.prevOfContext = p.prevOfContext
	}
	l.slow.npins--
	l.session.pins--
	m.emit(p.effect(Unpinned))
	if l.closed && l.slow.npins == 0 {
		m.release(l, everything, false)
		return
	}
	m.settle(l)
}
