package layout

import (
	"cmp"
	"slices"
	"syscall"

	"holdfast/extent"
)

// Passing: what a session may do that got a copy of another's handle. That it has one is the caller's to prove.

// together is the owner of leases that several sessions hold: for none of them they are its own, as the others have to be asked.
const together = ^uint32(0) - 1

// claim is OpClaim.
func (m *Machine) claim(in *Input) {
	c, s := m.contexts[in.Context], m.sessions.get(uint64(in.Session))
	switch {
	case c == nil:
		m.deny(in, syscall.ENOENT, "no such context")
		return
	case s == nil || s.dead:
		m.deny(in, syscall.ESRCH, "no such session")
		return
	}
	if c.session == s {
		m.emit(Effect{Kind: Claimed, Context: c.id, Session: s.id})
		return
	}
	to, denied := m.claimed(c, s)
	if denied.Errno != 0 {
		denied.Kind, denied.Session, denied.Context = Denied, s.id, c.id
		m.emit(denied)
		return
	}
	m.move(c, s, to)
}

// claimed returns the leases of the session to which the pins of the context would go, or why they cannot: the first range that
// no lease covers.
func (m *Machine) claimed(c *context, s *session) (to map[*pin]*lease, denied Effect) {
	to = map[*pin]*lease{}
	for p := c.pins; p != nil; p = p.nextOfContext {
		if p.lease == nil {
			continue
		}
		l, uncovered := p.cover(s)
		to[p] = l
		why := Effect{File: p.lease.file.ino, Pin: p.id, Access: p.access}
		switch {
		case l == nil:
			why.Range, why.Errno, why.Reason = uncovered, syscall.EPERM, "the session has no lease of its own that covers the pin"
		case m.breaks(l, p.r), m.breaks(p.lease, p.r), p.cut != nil:
			why.Range, why.Errno, why.Reason = p.r, syscall.EAGAIN, "the range is being broken"
		default:
			continue
		}
		if denied.Errno == 0 || why.denies(&denied) < 0 {
			denied = why
		}
	}
	return to, denied
}

// denies is the order in which reasons against a claim are told: what will not pass by itself comes first.
func (e *Effect) denies(o *Effect) int {
	return cmp.Or(cmp.Compare(e.Errno, o.Errno), cmp.Compare(e.File, o.File), cmp.Compare(e.Range.Off, o.Range.Off))
}

// Claimable says how a claim would fare: the Denied effect, or a zero one.
func (m *Machine) Claimable(id ContextID, by SessionID) Effect {
	c, s := m.contexts[id], m.sessions.get(uint64(by))
	if c == nil || s == nil || c.session == s {
		return Effect{}
	}
	_, denied := m.claimed(c, s)
	return denied
}

// move makes the context and its pins the session's.
func (m *Machine) move(c *context, s *session, to map[*pin]*lease) {
	before := c.session
	var left []*lease
	for p := c.pins; p != nil; p = p.nextOfContext {
		if p.lease == nil { // what is orphaned goes with the context
			continue
		}
		p.leave()
		if p.lease != to[p] && !slices.Contains(left, p.lease) {
			left = append(left, p.lease)
		}
	}
	c.session = s
	s.contexts++
	m.emit(Effect{Kind: Claimed, Context: c.id, Session: s.id})
	for p := c.pins; p != nil; p = p.nextOfContext {
		if p.lease != nil {
			p.under(to[p])
			m.emit(p.effect(Moved))
		}
	}
	var files []*file
	for _, l := range to {
		if !slices.Contains(files, l.file) {
			files = append(files, l.file)
		}
	}
	slices.SortFunc(files, func(a, b *file) int { return cmp.Compare(a.ino, b.ino) })
	for _, l := range left {
		m.unpinned(l)
	}
	for _, l := range left {
		m.settle(l)
	}
	for _, f := range files { // who waits for the pins waits for another now
		m.advance(f)
	}
	before.contexts--
	m.dropSession(before)
}

// cover returns a lease of the session under which the pin could be, or the first range of it for which there is none.
func (p *pin) cover(s *session) (found *lease, uncovered extent.Range) {
	uncovered = p.r
	if p.lease.heldBy(s.id) && !p.lease.closed {
		return p.lease, extent.Range{}
	}
	p.lease.file.leases.each(query{r: p.r}, func(it *item[lease]) bool {
		l := it.val
		if l.closed || p.access == Write && l.access == Read || !l.heldBy(s.id) {
			return true
		}
		if l.covers(p.r) {
			found = l
		} else if ps := l.from(it.off); ps[0].state == live && ps[0].Off <= uncovered.Off {
			uncovered.Off = max(uncovered.Off, ps[0].End)
		}
		return found == nil
	})
	if uncovered.Empty() { // several cover it together, and none alone
		uncovered = p.r
	}
	return found, uncovered
}

// breaks reports whether the lease is being broken in r.
func (m *Machine) breaks(l *lease, r extent.Range) bool {
	for b := l.brks(); b != nil; b = b.nextOfLease {
		if b.request.r.Overlaps(r) {
			return true
		}
	}
	return false
}

// Pinned reports whether one of the sessions has pins on the file; anybody, if none is named.
func (m *Machine) Pinned(file extent.Ino, by []SessionID) bool {
	f := m.files.get(uint64(file))
	if f == nil || f.pins.n == 0 || by == nil {
		return f != nil && f.pins.n > 0
	}
	return slices.ContainsFunc(by, func(id SessionID) bool {
		own := m.slot(id)
		return own != 0 && f.pins.first(query{r: everything, only: own}) != nil
	})
}

// share is OpShare.
func (m *Machine) share(in *Input) {
	l, s := m.leases.get(uint64(in.Lease)), m.sessions.get(uint64(in.Session))
	switch {
	case l == nil:
		m.deny(in, syscall.ENOENT, "no such lease")
		return
	case s == nil || s.dead:
		m.deny(in, syscall.ESRCH, "no such session")
		return
	case in.OnPass != Share:
		m.deny(in, syscall.EPERM, "on_pass = strict: a copy of a lease's handle is no right to it")
		return
	case l.heldBy(s.id):
		m.deny(in, syscall.EEXIST, "the session holds the lease already")
		return
	case l.closed:
		m.deny(in, syscall.EPERM, "the handle of the lease is closed")
		return
	case l.contested():
		m.deny(in, syscall.EBUSY, "the lease is exclusive to its session, or another is")
		return
	case m.shareBarred(l):
		m.deny(in, syscall.EAGAIN, "the range is being changed, or somebody waits for it")
		return
	}
	slow := l.rare()
	if slow.holders == nil {
		slow.holders, slow.mingled = []*session{l.session}, true
		l.session.joined = append(l.session.joined, l)
	}
	l.replant(func() { slow.holders = append(slow.holders, s) })
	s.joined = append(s.joined, l)
	s.leases++
	l.promote()
	l.seq++
	m.emit(Effect{
		Kind: Joined, Lease: l.id, File: l.file.ino, Session: s.id, Range: l.hull(), Access: l.access, Mode: l.mode,
		Unbreakable: l.unbreakable, Seq: uint64(l.seq), Tag: l.tag,
	})
}

// shareBarred reports whether another holder would come in the way of a request that is there.
func (m *Machine) shareBarred(l *lease) bool {
	for q := l.file.head; q != nil; q = q.next {
		if l.overlaps(q.r) && (q.kind != changing || q.class != Additive || l.mode == Exclusive) {
			return true
		}
	}
	return l.brks() != nil
}

// contested reports whether the lease overlaps another beside which it could not be, were they not of one session.
func (l *lease) contested() bool {
	k, found := exclusive, false
	if l.mode == Exclusive {
		k = any_
	}
	for _, p := range l.pieces() {
		l.file.leases.each(query{r: p.Range, class: uint8(k)}, func(it *item[lease]) bool {
			found = it.val != l
			return !found
		})
		if found {
			break
		}
	}
	return found
}

// leave takes a session from those who hold a shared lease. What only one holds is his own again.
func (m *Machine) leave(l *lease, in *Input) {
	i := slices.IndexFunc(l.slow.holders, func(s *session) bool { return s.id == in.Session })
	s := l.slow.holders[i]
	l.replant(func() {
		l.slow.holders = slices.Delete(l.slow.holders, i, i+1)
		s.unjoin(l)
		if l.session == s {
			l.session = l.slow.holders[0]
		}
		l.promote()
		if len(l.slow.holders) == 1 {
			l.session.joined = slices.DeleteFunc(l.session.joined, func(o *lease) bool { return o == l })
			l.slow.holders = nil
		}
	})
	m.emit(Effect{Kind: Left, Lease: l.id, File: l.file.ino, Session: s.id})
	for b := l.brks(); b != nil; {
		next := b.nextOfLease
		switch {
		case sameSession(b.request.session, l.sole()): // it waited for the others only
			m.dropBrk(b)
		case l.session.dead && b.idx >= 0: // nobody is left who could answer
			m.cutLate(b)
		}
		b = next
	}
	m.settle(l)
	m.dropSession(s)
}

// promote lets one who lives speak for a shared lease, if there is one.
func (l *lease) promote() {
	if !l.session.dead {
		return
	}
	if i := slices.IndexFunc(l.slow.holders, func(s *session) bool { return !s.dead }); i >= 0 {
		l.session = l.slow.holders[i]
	}
}

// disperse ends the holding of a lease that is gone.
func (m *Machine) disperse(l *lease) {
	if !l.shared() {
		s := l.session
		s.leases--
		m.dropSession(s)
		return
	}
	for _, s := range l.slow.holders {
		s.unjoin(l)
		m.dropSession(s)
	}
}

func (s *session) unjoin(l *lease) {
	s.leases--
	s.joined = slices.DeleteFunc(s.joined, func(o *lease) bool { return o == l })
}

// shared reports whether several sessions hold the lease.
func (l *lease) shared() bool { return l.slow != nil && l.slow.holders != nil }

func (l *lease) heldBy(id SessionID) bool {
	if !l.shared() {
		return l.session.id == id
	}
	return slices.ContainsFunc(l.slow.holders, func(s *session) bool { return s.id == id })
}

// sole returns whose own lease it is, 0 if several hold it.
func (l *lease) sole() SessionID {
	if l.shared() {
		return 0
	}
	return l.session.id
}

// slot is sole for the trees.
func (l *lease) slot() uint32 {
	if l.shared() {
		return together
	}
	return l.session.slot
}

func (l *lease) holderIDs() []SessionID {
	if !l.shared() {
		return nil
	}
	ids := make([]SessionID, len(l.slow.holders))
	for i, s := range l.slow.holders {
		ids[i] = s.id
	}
	return ids
}

// pinners returns whose pins all those under the lease are, 0 if they may be of several.
func (l *lease) pinners() uint32 {
	if l.slow.mingled {
		return 0
	}
	return l.session.slot
}

// pinsElsewhere reports whether the session of the slot has pins in r under leases that are not its alone: to break these would take
// the cover from the pins.
func (f *file) pinsElsewhere(r extent.Range, own uint32) bool {
	if own == 0 || f.pins.n == 0 {
		return false
	}
	found := false
	f.pins.each(query{r: r, only: own}, func(it *item[pin]) bool {
		found = it.val.lease.slot() != own
		return !found
	})
	return found
}

var (
	onCloseNames = []string{"transfer", "block", "abort"}
	onPassNames  = []string{"strict", "share"}
)

func (o OnClose) String() string { return name(onCloseNames, uint8(o)) }
func (o OnPass) String() string  { return name(onPassNames, uint8(o)) }

func (o OnClose) MarshalText() ([]byte, error) { return []byte(o.String()), nil }
func (o OnPass) MarshalText() ([]byte, error)  { return []byte(o.String()), nil }

func (o *OnClose) UnmarshalText(b []byte) error {
	i, err := index("on_close", onCloseNames, b)
	*o = OnClose(i)
	return err
}

func (o *OnPass) UnmarshalText(b []byte) error {
	i, err := index("on_pass", onPassNames, b)
	*o = OnPass(i)
	return err
}
