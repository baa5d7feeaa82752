package layout

import (
	"slices"
	"syscall"

	"pgregory.net/rapid"
)

// The part of the model that knows of passing, and the inputs for it.

func (l *mLease) heldBy(s SessionID) bool { return slices.Contains(l.holders, s) }

func (l *mLease) sole() SessionID {
	if len(l.holders) > 1 {
		return 0
	}
	return l.holders[0]
}

// several returns the holders as they are listed.
func (l *mLease) several() []SessionID {
	if len(l.holders) == 1 {
		return nil
	}
	return l.holders
}

// promote has one who lives speak for the lease, if there is one.
func (md *model) promote(l *mLease) {
	for _, s := range l.holders {
		if md.dead[l.session] && !md.dead[s] {
			l.session = s
		}
	}
}

func (md *model) leave(l *mLease, s SessionID) {
	l.holders = slices.DeleteFunc(l.holders, func(o SessionID) bool { return o == s })
	if l.session == s {
		l.session = l.holders[0]
	}
	md.promote(l)
	for _, q := range md.requests {
		switch b := q.asked[l]; {
		case b == nil:
		case sameSession(q.session, l.sole()):
			delete(q.asked, l)
		case md.dead[l.session] && b.deadline >= 0:
			md.cutFor(q, l)
		}
	}
}

func (p *pair) drawSession(t *rapid.T) SessionID {
	s := SessionID(rapid.IntRange(1, 3).Draw(t, "session"))
	if p.md.dead[s] {
		t.Skip("dead")
	}
	return s
}

func (p *pair) share(t *rapid.T) {
	l, s := p.drawLease(t), p.drawSession(t)
	if l.closed {
		t.Skip("closed")
	}
	p.md.remember()
	errno := syscall.Errno(0)
	for _, q := range p.md.requests {
		if q.file == l.file && l.touches(q.r, anyState) && (q.kind != changing || q.class != Additive || l.mode == Exclusive) {
			errno = syscall.EAGAIN
		}
	}
	for _, o := range p.md.leases {
		for i := range o.has {
			if o != l && o.file == l.file && o.has[i] && l.has[i] && (o.mode == Exclusive || l.mode == Exclusive) {
				errno = syscall.EBUSY
			}
		}
	}
	if l.heldBy(s) {
		errno = syscall.EEXIST
	}
	if errno != 0 {
		p.md.told = append(p.md.told, mAnswer{Denied, 0, errno})
	} else {
		l.holders = append(l.holders, s)
		p.md.promote(l)
	}
	p.step(Input{Op: OpShare, Session: s, Lease: l.id, OnPass: Share})
}

// claim moves a context and its pins, each to the first lease of the session that covers it, or nothing.
func (p *pair) claim(t *rapid.T) {
	c, s := ContextID(rapid.IntRange(1, 3).Draw(t, "context")), p.drawSession(t)
	before, there := p.md.contexts[c]
	if !there {
		t.Skip("no context")
	}
	p.md.remember()
	to := map[*mPin]*mLease{}
	for _, pn := range p.md.pins {
		if pn.context == c && pn.in(everything) {
			to[pn] = p.md.cover(pn, s)
		}
	}
	in := Input{Op: OpClaim, Session: s, Context: c}
	if before == s {
		p.step(in)
		return
	}
	if errno := p.md.claimable(to); errno != 0 {
		p.md.told = append(p.md.told, mAnswer{Denied, 0, errno})
		p.step(in)
		return
	}
	p.md.contexts[c] = s
	var left []*mLease
	for _, pn := range p.md.pins {
		if pn.context == c {
			pn.session = s
		}
	}
	for pn, l := range to {
		left = append(left, pn.lease)
		pn.lease = l
	}
	for _, l := range left {
		if l.closed && !p.md.pinned(l) {
			p.md.giveBack(l, everything)
		}
	}
	p.step(in)
}

func (md *model) cover(pn *mPin, s SessionID) *mLease {
	if pn.lease.heldBy(s) && !pn.lease.closed {
		return pn.lease
	}
	var best *mLease
	first := 0
	for _, l := range md.leases { // in order of names
		if l.file != pn.lease.file || l.closed || !l.heldBy(s) {
			continue
		}
		from, whole := -1, true
		for i := range l.has {
			has := l.has[i] && l.blocks[i] == live
			if mBlock(i).Overlaps(pn.r) {
				whole = whole && has
			} else if mBlock(i).Off > pn.r.Off {
				break
			}
			switch {
			case !has && mBlock(i).Off < pn.r.Off:
				from = -1
			case has && from < 0:
				from = i
			}
		}
		if whole && (best == nil || from < first) {
			best, first = l, from
		}
	}
	return best
}
