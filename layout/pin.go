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
	parts         []extent.Range // what of r is covered by the lease; nil: all, the rest is orphaned
	was           orphaned       // of one that is orphaned as a whole, whose lease is nil
	cut           *pinCut        // nil unless it is being cut
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
	case c.session.id != in.Session:
		m.deny(in, syscall.EPERM, "the context belongs to another session")
		return
	case c.session.dead || l.closed && !l.restored(in, r):
		m.deny(in, syscall.EPERM, "the handle of the lease is closed")
		return
	case in.Access == Write && l.access == Read:
		m.deny(in, syscall.EACCES, "the lease is for reading only")
		return
	case m.pinBarred(l, r) && !l.restored(in, r):
		m.deny(in, syscall.EAGAIN, "the range is being broken")
		return
	case !l.covers(r):
		m.deny(in, syscall.EINVAL, "the lease does not cover the range")
		return
	}
	p := &pin{id: m.pinName(in), context: c, r: r, access: in.Access}
	p.nextOfContext = c.pins
	if c.pins != nil {
		c.pins.prevOfContext = p
	}
	c.pins = p
	m.pins[p.id] = p
	p.under(l)
	m.emit(p.effect(Pinned))
}

// under puts the pin in the lease, and in the tree of its file.
func (p *pin) under(l *lease) {
	s := l.rare()
	p.lease, p.prevOfLease, p.nextOfLease = l, nil, s.pins
	if s.pins != nil {
		s.pins.prevOfLease = p
	}
	s.pins = p
	s.npins++
	p.context.session.pins++
	p.plant(l)
}

// plant puts what the lease covers of the pin in the tree of its file.
func (p *pin) plant(l *lease) {
	p.each(func(r extent.Range) {
		it := item[pin]{key: key{r.Off, uint64(p.id)}, end: r.End, val: p, owner: p.context.session.slot, class: 1 << any_}
		l.file.pins.insert(&it)
	})
}

// each calls fn for what the lease covers of the pin.
func (p *pin) each(fn func(extent.Range)) {
	if p.parts == nil {
		fn(p.r)
		return
	}
	for _, r := range p.parts {
		fn(r)
	}
}

// leave takes the pin out of its lease, and of the tree.
func (p *pin) leave() {
	l := p.lease
	p.each(func(r extent.Range) { l.file.pins.remove(r.Off, uint64(p.id)) })
	if p.prevOfLease != nil {
		p.prevOfLease.nextOfLease = p.nextOfLease
	} else {
		l.slow.pins = p.nextOfLease
	}
	if p.nextOfLease != nil {
		p.nextOfLease.prevOfLease = p.prevOfLease
	}
	l.slow.npins--
	p.context.session.pins--
}

func (p *pin) effect(kind EffectKind) Effect {
	e := Effect{
		Kind: kind, Pin: p.id, Lease: p.was.lease, Context: p.context.id, File: p.was.file,
		Session: p.context.session.id, Range: p.r, Access: p.access,
	}
	if p.lease != nil {
		e.Lease, e.File = p.lease.id, p.lease.file.ino
	}
	return e
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
		if !sameSession(q.session, l.sole()) && (q.mode == Exclusive || l.mode == Exclusive) {
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
	case in.Session != 0 && p.context.session.id != in.Session:
		m.deny(in, syscall.EPERM, "the pin belongs to another session")
	default:
		if p.lease != nil {
			m.progress(p.lease, p.r)
		}
		m.dropPin(p)
	}
}

// dropPin takes the pin away. A lease that only its pins kept goes with the last.
func (m *Machine) dropPin(p *pin) {
	l := p.lease
	m.removePin(p)
	if l == nil {
		return
	}
	m.sweep(l)
	m.unpinned(l)
	m.settle(l)
}

// removePin takes the pin out of all tables; sweep, unpinned and settle have to follow.
func (m *Machine) removePin(p *pin) {
	if p.cut != nil {
		m.timers.stop(&p.cut.timer)
	}
	delete(m.pins, p.id)
	if p.lease != nil {
		p.leave()
	}
	if p.prevOfContext != nil {
		p.prevOfContext.nextOfContext = p.nextOfContext
	} else {
		p.context.pins = p.nextOfContext
	}
	if p.nextOfContext != nil {
		p.nextOfContext.prevOfContext = p.prevOfContext
	}
	m.emit(p.effect(Unpinned))
}

// unpinned gives back a lease that only its pins kept, when the last has gone; settle has to follow.
func (m *Machine) unpinned(l *lease) {
	if l.closed && l.slow.npins == 0 {
		m.surrender(l, everything, 0)
	}
}
