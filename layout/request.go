package layout

import (
	"slices"
	"syscall"

	"holdfast/extent"
)

// requestKind says what a request becomes when nothing is in its way.
type requestKind uint8

const (
	acquiring requestKind = iota + 1 // a lease
	modifying                        // a stronger lease
	changing                         // leave to apply a change
)

// requestState says how far a request is.
type requestState uint8

const (
	waiting   requestState = iota // behind an earlier one, or for holds to go
	breaking                      // its barrier stands, holders were asked
	deferring                     // its barrier stands, pins in its way are being orphaned
	applying                      // a change that was let go on, until OpDone
)

// request is an acquire, a modify or a change that is not done with. Those of a file are listed in the order in which
// they came, and those that conflict are served in it.
type request struct {
	id          uint64 // 0 for what is served at once
	kind        requestKind
	state       requestState
	class       Class
	onHold      OnHold
	access      Access
	mode        Mode
	unbreakable bool
	abandoned   bool // nobody waits for it any more
	queued      bool
	dropOwn     bool // while it is looked at as if the caller had no pins
	open        int  // breaks without answer
	file        *file
	session     SessionID
	owner       *session     // of an acquire or modify that somebody waits for
	r           extent.Range // of a modify: the hull of its lease
	lease       LeaseID      // of a modify
	tag         any
	brks        *brk
	holders     []SessionID // whom it waits for, directly or through those before it
	prev, next  *request
}

func (q *request) requestID() RequestID {
	if q.kind == changing {
		return 0
	}
	return RequestID(q.id)
}

func (q *request) changeID() ChangeID {
	if q.kind == changing {
		return ChangeID(q.id)
	}
	return 0
}

func (m *Machine) newRequest() *request {
	if n := len(m.freeRequests); n > 0 {
		q := m.freeRequests[n-1]
		m.freeRequests = m.freeRequests[:n-1]
		return q
	}
	return &request{}
}

// free ends a request that is not in a list.
func (m *Machine) free(q *request) {
	*q = request{}
	if len(m.freeRequests) < maxPooled {
		m.freeRequests = append(m.freeRequests, q)
	}
}

func (m *Machine) link(q *request) {
	f := q.file
	q.prev = f.tail
	if f.tail != nil {
		f.tail.next = q
	} else {
		f.head = q
	}
	f.tail = q
}

// unlink takes q out of the list of its file, with its breaks, and frees it.
func (m *Machine) unlink(q *request) {
	f := q.file
	if q.prev != nil {
		q.prev.next = q.next
	} else {
		f.head = q.next
	}
	if q.next != nil {
		q.next.prev = q.prev
	} else {
		f.tail = q.prev
	}
	m.dequeue(q)
	for q.brks != nil {
		m.dropBrk(q.brks)
	}
	m.free(q)
}

// dequeue says that q does not wait any more.
func (m *Machine) dequeue(q *request) {
	if q.queued {
		q.queued = false
		delete(m.queued, q.id)
		m.setHolders(q, nil)
	}
}

// each calls fn for each range that q is about, until it returns false.
func (m *Machine) each(q *request, fn func(extent.Range) bool) {
	if q.kind != modifying {
		fn(q.r)
		return
	}
	if l := m.leases.get(uint64(q.lease)); l != nil {
		for _, p := range l.pieces() {
			if !fn(p.Range) {
				return
			}
		}
	}
}

// sameSession reports whether both speak for one session. Nobody is never the same as nobody.
func sameSession(a, b SessionID) bool { return a != 0 && a == b }

// comesAfter reports whether q has to wait until p, which came earlier, is served.
//
// A change that applies holds up grants, not other changes: it has met all it had to meet, and the filesystem's
// own locks order what is applied.
func (q *request) comesAfter(p *request) bool {
	if !p.r.Overlaps(q.r) {
		return false
	}
	if p.kind == changing && q.kind == changing {
		return p.state != applying
	}
	if sameSession(p.session, q.session) {
		return false
	}
	switch {
	case p.kind == changing && p.class == Additive:
		return q.mode == Exclusive
	case p.kind == changing, q.kind == changing:
		return true
	default:
		return p.mode == Exclusive || q.mode == Exclusive
	}
}

// behind returns the first request that q has to wait for: an earlier one, or for a grant also a later change that
// is being applied. (An additive change waits for nobody, so it may overtake.)
func (q *request) behind() *request {
	p := q.file.head
	for ; p != nil && p != q; p = p.next {
		if q.comesAfter(p) {
			return p
		}
	}
	for ; p != nil && q.kind != changing; p = p.next {
		if p.state == applying && q.comesAfter(p) {
			return p
		}
	}
	return nil
}

// submit serves a new request at once, or queues or refuses it. q is not in a list yet.
func (m *Machine) submit(q *request, noWait bool) {
	v := m.judge(q)
	if noWait && v.kind != clearWay && v.kind != refused {
		if v.kind == conflict {
			v.reason = reasonUnasked
		}
		v = verdict{refused, syscall.EAGAIN, v.reason}
	}
	if v.kind == refused {
		m.tellRefused(q, v.errno, v.reason)
		m.free(q)
		return
	}
	if v.kind == clearWay && q.kind == acquiring {
		m.grant(q)
		m.free(q)
		return
	}
	m.link(q)
	if v.kind == clearWay && q.kind != changing {
		m.complete(q)
		return
	}
	q.id = m.newID()
	if v.kind == clearWay {
		m.complete(q)
		return
	}
	q.queued = true
	m.queued[q.id] = q
	if !m.wait(q, v) {
		return
	}
	m.emit(Effect{
		Kind: Queued, File: q.file.ino, Range: q.r, Request: q.requestID(), Change: q.changeID(), Session: q.session,
		Lease: q.lease, Class: q.class, Reason: v.reason,
	})
	switch v.kind {
	case conflict:
		m.begin(q)
	case orphans:
		m.deferPin(q)
	}
}

// wait notes whom q waits for. It refuses q, and returns false, if that could never end.
func (m *Machine) wait(q *request, v verdict) bool {
	q.state = waiting
	if m.setHolders(q, m.findHolders(q, v)) {
		return true
	}
	m.refuse(q, syscall.EDEADLK, "the sessions wait for each other")
	return false
}

// advance serves what can be served now, after anything in the file's tables has become less. Nothing that is served
// clears the way of an earlier one, so one pass is enough.
func (m *Machine) advance(f *file) {
	for q := f.head; q != nil; {
		next := q.next
		if q.state < deferring && q.open == 0 {
			m.again(q)
		}
		q = next
	}
}

// again judges a listed request anew. If nobody waits for it, it was for its breaks only, and these are over.
func (m *Machine) again(q *request) {
	if q.abandoned {
		m.unlink(q)
		return
	}
	switch v := m.judge(q); v.kind {
	case refused:
		m.refuse(q, v.errno, v.reason)
	case clearWay:
		m.complete(q)
	case conflict:
		m.begin(q)
	case orphans:
		m.deferPin(q)
	default:
		m.wait(q, v)
	}
}

// complete serves q, whose way is clear.
func (m *Machine) complete(q *request) {
	for q.brks != nil {
		m.dropBrk(q.brks)
	}
	m.dequeue(q)
	switch {
	case q.kind == acquiring:
		m.grant(q)
		m.unlink(q)
	case q.kind == modifying:
		m.applyModify(q)
		m.unlink(q)
	default:
		q.state = applying
		e := m.effect()
		e.Kind, e.Change, e.File, e.Range, e.Class, e.Session = Proceed, q.changeID(), q.file.ino, q.r, q.class, q.session
	}
}

// refuse ends a listed request.
func (m *Machine) refuse(q *request, errno syscall.Errno, reason string) {
	m.tellRefused(q, errno, reason)
	m.unlink(q)
}

func (m *Machine) tellRefused(q *request, errno syscall.Errno, reason string) {
	kind := Denied
	if q.kind == changing {
		kind = Refused
	}
	e := Effect{
		Kind: kind, Errno: errno, Reason: reason, File: q.file.ino, Range: q.r, Session: q.session,
		Lease: q.lease, Class: q.class,
	}
	if q.queued { // it was told its name
		e.Request, e.Change = q.requestID(), q.changeID()
	}
	m.emit(e)
}

// abandon is OpAbandon. What only waited is dropped; a break that has begun goes on.
func (m *Machine) abandon(in *Input) {
	id := uint64(in.Request)
	if in.Change != 0 {
		id = uint64(in.Change)
	}
	q := m.queued[id]
	if q == nil {
		return
	}
	f := q.file
	if q.state == breaking || q.state == deferring {
		m.orphan(q)
		return
	}
	m.unlink(q)
	m.advance(f)
	m.drop(f)
}

// orphan lets a break go on that nobody waits for any more.
func (m *Machine) orphan(q *request) {
	q.abandoned, q.owner = true, nil
	m.dequeue(q)
}

// setHolders keeps the graph of waits. It returns false if q's session would wait for itself.
func (m *Machine) setHolders(q *request, holders []SessionID) bool {
	if len(q.holders) == 0 && len(holders) == 0 {
		return true
	}
	q.holders = holders
	if q.session == 0 {
		return true
	}
	if len(holders) == 0 {
		m.cfg.Waits.drop(q.id)
		return true
	}
	if m.cfg.Waits.set(q.id, q.session, holders) {
		return true
	}
	q.holders = nil
	return false
}

// findHolders lists the sessions without whose doing q never goes on. Those of breakable leases are not among
// them: that wait ends with the break time.
func (m *Machine) findHolders(q *request, v verdict) []SessionID {
	var ids []SessionID
	if v.kind == held {
		own := m.slot(q.session)
		q.file.leases.each(query{r: q.r, class: unbreakable, not: own}, func(it *item[lease]) bool {
			ids = append(ids, it.val.session.id)
			ids = append(ids, it.val.holderIDs()...)
			return true
		})
		q.file.pins.each(query{r: q.r, not: own}, func(it *item[pin]) bool {
			ids = append(ids, it.val.context.session.id)
			return true
		})
	}
	for p := q.file.head; p != nil && p != q; p = p.next {
		if len(p.holders) > 0 && q.comesAfter(p) {
			ids = append(ids, p.holders...)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
