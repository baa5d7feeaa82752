package layout

import (
	"cmp"
	"fmt"
	"slices"
	"syscall"

	"holdfast/extent"
)

// Lease describes one lease.
func (m *Machine) Lease(id LeaseID) (LeaseInfo, bool) {
	l := m.leases.get(uint64(id))
	if l == nil {
		return LeaseInfo{}, false
	}
	return l.info(), true
}

// PinnedBy returns the file of a lease, if it has pins.
func (m *Machine) PinnedBy(id LeaseID) (extent.Ino, bool) {
	l := m.leases.get(uint64(id))
	if l == nil || l.pinned() == 0 {
		return 0, false
	}
	return l.file.ino, true
}

// Leases describes the leases on a file, or all for file 0, in order of names.
func (m *Machine) Leases(file extent.Ino) []LeaseInfo {
	var infos []LeaseInfo
	m.leases.each(func(l *lease) {
		if file == 0 || l.file.ino == file {
			infos = append(infos, l.info())
		}
	})
	slices.SortFunc(infos, func(a, b LeaseInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

func (l *lease) info() LeaseInfo {
	i := LeaseInfo{
		ID: l.id, File: l.file.ino, Session: l.session.id, Access: l.access, Mode: l.mode, Unbreakable: l.unbreakable,
		Seq: uint64(l.seq), Since: l.since, Mapped: l.mapped, Closed: l.closed, Unattended: l.session.dead,
		Pins: l.pinned(), Contexts: l.contexts(), Holders: l.holderIDs(),
	}
	for b := l.brks(); b != nil; b = b.nextOfLease {
		i.State = max(i.State, StateBreaking)
		if b.idx >= 0 && (i.Deadline == 0 || b.at < i.Deadline) {
			i.Deadline = b.at
		}
	}
	for _, p := range l.pieces() {
		switch p.state {
		case live:
			i.Pieces = append(i.Pieces, p.Range)
			continue
		case unmapping:
			i.State = max(i.State, StateReturning)
		default:
			i.State = StateCutting
		}
		i.Leaving = append(i.Leaving, p.Range)
	}
	return i
}

// Pins describes the pins on a file, or all for file 0, in order of names.
func (m *Machine) Pins(file extent.Ino) []PinInfo {
	var infos []PinInfo
	for _, p := range m.pins {
		e := p.effect(0)
		if file == 0 || e.File == file {
			i := PinInfo{
				ID: p.id, File: e.File, Lease: e.Lease, Context: p.context.id, Session: p.context.session.id,
				Range: p.r, Access: p.access, Unattended: p.context.session.dead,
			}
			i.Orphaned = p.orphaned()
			if p.lease != nil {
				i.Tag = p.lease.tag
			}
			if p.cut != nil {
				i.Cutting, i.Step, i.Tries, i.Deadline = true, p.cut.step, p.cut.tries, p.cut.at
			}
			infos = append(infos, i)
		}
	}
	slices.SortFunc(infos, func(a, b PinInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

// orphaned returns what of the pin no file has any more.
func (p *pin) orphaned() (rs []extent.Range) {
	pos := p.r.Off
	p.each(func(r extent.Range) {
		if r.Off > pos {
			rs = append(rs, extent.Range{Off: pos, End: r.Off})
		}
		pos = r.End
	})
	if pos < p.r.End {
		rs = append(rs, extent.Range{Off: pos, End: p.r.End})
	}
	return rs
}

// Use returns how many leases, contexts and pins a session has here.
func (m *Machine) Use(id SessionID) (leases, contexts, pins int) {
	if s := m.sessions.get(uint64(id)); s != nil {
		return s.leases, s.contexts, s.pins
	}
	return 0, 0, 0
}

// Clear reports whether a change of the class would meet nobody at all, whoever its caller is.
func (m *Machine) Clear(file extent.Ino, r extent.Range, class Class) bool {
	if class == None || class == Size {
		return true
	}
	f := m.files.get(uint64(file))
	if f == nil {
		return true
	}
	r, ok := checkRange(r)
	if !ok {
		return true
	}
	if class == Additive {
		return f.leases.first(query{r: r, class: exclusive}) == nil
	}
	for q := f.head; q != nil; q = q.next {
		if q.r.Overlaps(r) {
			return false
		}
	}
	return f.leases.first(query{r: r}) == nil
}

// Would says how a change would fare now: an errno if it would be refused, and whether it would have to wait.
func (m *Machine) Would(file extent.Ino, r extent.Range, class Class, onHold OnHold, session SessionID) (errno syscall.Errno, wait bool) {
	f := m.files.get(uint64(file))
	r, ok := checkRange(r)
	if f == nil || class == None || class == Size || !ok {
		return 0, false
	}
	v := m.judge(&request{kind: changing, file: f, session: session, r: r, class: class, onHold: onHold})
	return v.errno, v.kind != clearWay && v.kind != refused
}

// Blockers lists who is in the way of a change, at most limit of them (0: all): the pins first, then unbreakable leases,
// then the other leases, then earlier requests.
func (m *Machine) Blockers(file extent.Ino, r extent.Range, class Class, session SessionID, limit int) []Blocker {
	f := m.files.get(uint64(file))
	r, ok := checkRange(r)
	if f == nil || class == None || class == Size || !ok {
		return nil
	}
	var bs []Blocker
	add := func(b Blocker) bool {
		bs = append(bs, b)
		return limit == 0 || len(bs) < limit
	}
	if class == Additive {
		f.leases.each(query{r: r, class: exclusive, not: m.slot(session)}, func(it *item[lease]) bool {
			return add(it.val.blocker(it.Range(), reasonExclusive))
		})
		return bs
	}
	m.collect(f, r, session, add)
	return bs
}

func (m *Machine) collect(f *file, r extent.Range, session SessionID, add func(Blocker) bool) {
	more := true
	own, kin := m.slot(session), m.kin(session)
	f.pins.each(query{r: r}, func(it *item[pin]) bool {
		p := it.val
		b := p.lease.blocker(p.r, fmt.Sprintf("a pin of context %d", p.context.id))
		b.Pin, b.Context, b.Access = p.id, p.context.id, p.access
		if !p.context.session.dead { // else the one who still holds the lease is to be asked
			b.Session = p.context.session.id
		}
		if slices.Contains(kin, p.context.session) {
			b.Reason = reasonOwnPins
		}
		more = add(b)
		return more
	})
	for _, q := range []query{{r: r, class: unbreakable, not: own}, {r: r, not: own}} {
		if !more {
			return
		}
		f.leases.each(q, func(it *item[lease]) bool {
			held := it.class&(1<<unbreakable) != 0
			if held != (q.class == unbreakable) {
				return true
			}
			more = add(it.val.blocker(it.Range(), it.val.reason(it.Range(), held)))
			return more
		})
	}
	for q := f.head; q != nil && more; q = q.next {
		if q.state != applying && q.r.Overlaps(r) {
			more = add(Blocker{Change: q.changeID(), Session: q.session, Range: q.r, Access: q.access, Mode: q.mode, Reason: reasonBehind})
		}
	}
}

func (l *lease) blocker(r extent.Range, reason string) Blocker {
	return Blocker{
		Lease: l.id, Session: l.session.id, Range: r, Access: l.access, Mode: l.mode, Unbreakable: l.unbreakable,
		State: l.stateIn(r), Reason: reason,
	}
}

// stateIn says how far a piece of the lease, or a part of one, is.
func (l *lease) stateIn(r extent.Range) LeaseState {
	switch l.from(r.Off)[0].state {
	case unmapping:
		return StateReturning
	case cutting, failed, fencing:
		return StateCutting
	}
	for b := l.brks(); b != nil; b = b.nextOfLease {
		if b.request.r.Overlaps(r) {
			return StateBreaking
		}
	}
	return StateGranted
}

// reason says how a piece of a lease is in the way.
func (l *lease) reason(r extent.Range, held bool) string {
	if held {
		return "an unbreakable lease"
	}
	switch l.stateIn(r) {
	case StateReturning:
		return "a lease whose range is being detached"
	case StateCutting:
		return "a lease that is being cut"
	case StateBreaking:
		return "a lease whose holder was asked to return it"
	default:
		return "a lease whose holder will be asked to return it"
	}
}

// WriteLeased reports whether a session other than the given one has a lease to write any of the range.
func (m *Machine) WriteLeased(file extent.Ino, r extent.Range, except SessionID) bool {
	f := m.files.get(uint64(file))
	r, ok := checkRange(r)
	if f == nil || !ok {
		return false
	}
	found := false
	f.leases.each(query{r: r, not: m.slot(except)}, func(it *item[lease]) bool {
		found = it.val.access == Write
		return !found
	})
	return found
}

// Weight says how much of the file a session holds: 0 nothing, 1 a lease, 2 a pin.
func (m *Machine) Weight(file extent.Ino, session SessionID) int {
	f, own := m.files.get(uint64(file)), m.slot(session)
	switch {
	case f == nil || own == 0:
		return 0
	case f.pins.first(query{r: everything, only: own}) != nil:
		return 2
	case f.leases.first(query{r: everything, only: own}) != nil:
		return 1
	}
	return 0
}

// Counts returns the sizes of the tables.
func (m *Machine) Counts() Counts {
	c := Counts{
		Files: m.files.n, Leases: m.leases.n, Pins: len(m.pins), Sessions: m.sessions.n, Contexts: len(m.contexts),
	}
	m.files.each(func(f *file) {
		for q := f.head; q != nil; q = q.next {
			c.Requests++
		}
	})
	return c
}
