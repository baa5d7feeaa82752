package layout

import (
	"slices"
	"syscall"

	"holdfast/extent"
)

// What a former run of the machine had and cannot take back is put in its table again
// before anything else is asked of it: under the names of then, and without a look at
// what it would meet, as it stood beside the rest.

// restore is OpRestore.
func (m *Machine) restore(in *Input) {
	r, ok := checkRange(in.Range)
	s := m.sessions.get(uint64(in.Session))
	l := m.leases.get(uint64(in.Lease))
	switch {
	case !ok || in.Access > Write || in.Mode > Exclusive || !m.reserve(uint64(in.Lease)):
		m.deny(in, syscall.EINVAL, "no such lease can have been")
	case s == nil || s.dead:
		m.deny(in, syscall.ESRCH, "no such session")
	case l == nil:
		q := &request{kind: acquiring, file: m.file(in.File), session: s.id, owner: s, r: r, tag: in.Tag}
		q.access, q.mode, q.unbreakable = in.Access, in.Mode, in.Unbreakable
		next := m.nextID
		m.nextID = uint64(in.Lease)
		m.grant(q)
		m.nextID = next
		m.leases.get(uint64(in.Lease)).mapped = true
	case l.session != s || l.file.ino != in.File || l.hull().End > r.Off:
		m.deny(in, syscall.EEXIST, "the lease is another's, or has the range")
	default:
		ps := l.pieces()
		l.setPieces(0, len(ps), l.plant(slices.Clone(ps), piece{r, live}))
	}
}

// reserve makes sure that nobody else gets a name. It reports whether the machine gives
// out such names.
func (m *Machine) reserve(id uint64) bool {
	if id == 0 || id%m.cfg.Stride != m.cfg.FirstID%m.cfg.Stride {
		return false
	}
	if id >= m.nextID {
		m.nextID = id + m.cfg.Stride
	}
	return true
}

// resume is OpResume.
func (m *Machine) resume(in *Input) {
	s := m.sessions.get(uint64(in.Session))
	if s == nil {
		m.deny(in, syscall.ESRCH, "no such session")
		return
	}
	s.dead = false
	if in.Lease == 0 {
		return
	}
	if l := m.lookup(in); l != nil {
		l.tag = in.Tag
	}
}

// GuardPins is where the names begin of pins that stand for those of a former run: apart from
// all others, so that these can have theirs again.
const GuardPins PinID = 1 << 62

// pinName returns the name of a new pin: the one it had, if that is free.
func (m *Machine) pinName(in *Input) PinID {
	if in.Pin != 0 && m.pins[in.Pin] == nil && (in.Pin >= GuardPins || m.reserve(uint64(in.Pin))) {
		return in.Pin
	}
	return PinID(m.newID())
}

// restored reports whether a pin is one that was there before: it is behind the one
// that has kept its place since, so it is barred by nothing.
func (l *lease) restored(in *Input, r extent.Range) bool {
	return in.Pin != 0 && l.pinnedIn(r)
}
