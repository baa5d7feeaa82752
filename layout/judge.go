package layout

import (
	"slices"
	"syscall"

	"holdfast/extent"
)

// verdictKind says what stands in the way of a request.
type verdictKind uint8

const (
	clearWay  verdictKind = iota // nothing
	refused                      // what makes it fail
	held                         // holds, and it asked to wait for them
	afterThat                    // an earlier request, or too many that break leases
	conflict                     // leases that can be broken
	orphans                      // pins that become orphans
)

type verdict struct {
	kind   verdictKind
	errno  syscall.Errno
	reason string
}

// Reasons are part of what an operator sees.
const (
	reasonOwnPins     = "the range is pinned by the caller itself"
	reasonUnbreakable = "an unbreakable lease is in the way"
	reasonPins        = "pins are in the way"
	reasonExclusive   = "an exclusive lease is in the way"
	reasonBehind      = "an earlier request on the range goes first"
	reasonBreaking    = "leases in the way are being broken"
	reasonUnasked     = "leases in the way would have to be broken"
	reasonOrphans     = "what is pinned is being made orphans"
	reasonCrowd       = "too many breaks of the file are under way"
	reasonHeld        = "the range is held"
	reasonDetach      = "the range could not be detached; it is tried again"
)

// judge says what stands in the way of q, which breaks nothing yet. It alters nothing.
func (m *Machine) judge(q *request) verdict {
	f := q.file
	if f.head == nil && f.leases.n == 0 {
		return verdict{kind: clearWay}
	}
	v := m.judgeLeases(q)
	if v.kind == conflict && f.breaking >= m.cfg.MaxBreaks {
		return verdict{afterThat, 0, reasonCrowd}
	}
	return v
}

func (m *Machine) judgeLeases(q *request) verdict {
	f := q.file
	if q.kind != changing {
		return m.judgeGrant(q)
	}
	own := m.slot(q.session)
	switch q.class {
	case Additive:
		if f.leases.first(query{r: q.r, class: exclusive, not: own}) != nil {
			return verdict{refused, syscall.ETXTBSY, reasonExclusive}
		}
		return verdict{kind: clearWay}
	case Moving:
		if f.leases.first(query{r: q.r}) != nil || f.pins.first(query{r: q.r}) != nil {
			return verdict{refused, syscall.EBUSY, reasonHeld}
		}
		if q.behind() != nil {
			return verdict{refused, syscall.EBUSY, reasonBehind}
		}
		return verdict{kind: clearWay}
	default:
		return m.judgeChange(q, own)
	}
}

// judgeChange follows "What a change meets" in its order.
func (m *Machine) judgeChange(q *request, own uint32) verdict {
	f := q.file
	ownPins, othersPins := m.pinsIn(f, q.r, q.session)
	// Own pins are never skipped. Beside others', a wait for those would end here all the same.
	if ownPins && !q.dropOwn && (!othersPins || q.onHold >= Wait) {
		return verdict{refused, syscall.EDEADLK, reasonOwnPins}
	}
	reason := ""
	switch {
	case f.leases.first(query{r: q.r, class: unbreakable, not: own}) != nil:
		reason = reasonUnbreakable
	case othersPins:
		reason = reasonPins
	}
	switch {
	case reason != "" && q.onHold == Wait:
		return verdict{held, 0, reason}
	case reason != "" && q.onHold < Revoke:
		return verdict{refused, syscall.ETXTBSY, reason}
	case q.behind() != nil:
		return verdict{afterThat, 0, reasonBehind}
	case othersPins && q.onHold == Defer:
		return verdict{orphans, 0, reasonOrphans}
	case othersPins, f.leases.first(query{r: q.r, not: own}) != nil:
		return verdict{conflict, 0, reasonBreaking}
	}
	return verdict{kind: clearWay}
}

// pinsIn reports whether the owner of a session has pins in r, and whether others have.
func (m *Machine) pinsIn(f *file, r extent.Range, id SessionID) (own, others bool) {
	if f.pins.n == 0 {
		return false, false
	}
	kin := m.kin(id)
	switch len(kin) {
	case 0:
		return false, f.pins.first(query{r: r}) != nil
	case 1:
		slot := kin[0].slot
		return f.pins.first(query{r: r, only: slot}) != nil, f.pins.first(query{r: r, not: slot}) != nil
	}
	f.pins.each(query{r: r}, func(it *item[pin]) bool {
		if slices.Contains(kin, it.val.context.session) {
			own = true
		} else {
			others = true
		}
		return !own || !others
	})
	return own, others
}

// kin lists the sessions that have pins and whose pins are the session's own.
func (m *Machine) kin(id SessionID) []*session {
	s := m.sessions.get(uint64(id))
	switch {
	case s == nil:
		return nil
	case s.owner == 0:
		return []*session{s}
	}
	var kin []*session
	for _, o := range m.owners[s.owner] {
		if o.pins > 0 {
			kin = append(kin, o)
		}
	}
	return kin
}

// judgeGrant follows "Conflict on grant".
func (m *Machine) judgeGrant(q *request) verdict {
	own := m.slotOf(q)
	v := verdict{kind: clearWay}
	if q.kind == modifying {
		l := m.leases.get(uint64(q.lease))
		if l == nil {
			return verdict{refused, syscall.ENOENT, "the lease is gone"}
		}
		if l.brks() != nil {
			return verdict{refused, syscall.EAGAIN, "the lease is being broken"}
		}
		for _, p := range l.pieces() {
			if w := m.judgePiece(q, p, own); w.kind != clearWay {
				v = w
			}
			if v.kind == refused {
				return v
			}
		}
	} else {
		v = m.judgePiece(q, piece{Range: q.r}, own)
	}
	if v.kind != refused && q.behind() != nil {
		return verdict{afterThat, 0, reasonBehind}
	}
	return v
}

// pinnedIn reports whether the lease itself has a pin in r.
func (l *lease) pinnedIn(r extent.Range) bool {
	found := false
	if l.pinned() > 0 {
		l.file.pins.each(query{r: r, only: l.pinners()}, func(it *item[pin]) bool {
			found = it.val.lease == l
			return !found
		})
	}
	return found
}

// judgePiece looks at the leases that a lease on one piece would conflict with.
func (m *Machine) judgePiece(q *request, p piece, own uint32) verdict {
	f := q.file
	if q.mode == Exclusive {
		switch {
		case f.leases.first(query{r: p.Range, class: unbreakable, not: own}) != nil:
			return verdict{refused, syscall.EBUSY, reasonUnbreakable}
		case f.pins.first(query{r: p.Range, not: own}) != nil || f.pinsElsewhere(p.Range, own):
			return verdict{refused, syscall.EBUSY, reasonPins}
		case f.leases.first(query{r: p.Range, not: own}) != nil:
			return verdict{conflict, 0, reasonBreaking}
		}
		return verdict{kind: clearWay}
	}
	if f.leases.first(query{r: p.Range, class: exclusive, not: own}) == nil {
		return verdict{kind: clearWay}
	}
	v := verdict{conflict, 0, reasonBreaking}
	f.leases.each(query{r: p.Range, class: exclusive, not: own}, func(it *item[lease]) bool {
		switch {
		case it.class&(1<<unbreakable) != 0:
			v = verdict{refused, syscall.EBUSY, reasonUnbreakable}
		case it.val.pinnedIn(p.Intersect(it.Range())):
			v = verdict{refused, syscall.EBUSY, reasonPins}
		}
		return v.kind == conflict
	})
	return v
}
