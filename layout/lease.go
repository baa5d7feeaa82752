package layout

import (
	"slices"
	"sort"
	"syscall"

	"holdfast/extent"
)

// pieceState says whether the holder still has the right to a piece.
type pieceState uint8

const (
	live      pieceState = iota
	unmapping            // given back; the storage is detaching it
	cutting              // taken away; the storage is detaching it
	failed               // detaching it failed; it is tried again
	fencing              // detached; pins that reach it by other ways are being cut
)

// piece is a part of a lease's range. The pieces of a lease are disjoint and in order.
type piece struct {
	extent.Range
	state pieceState
}

// lease is kept small: a million of them are to fit. What few leases need is in slow.
type lease struct {
	id          LeaseID
	file        *file
	session     *session
	tag         any
	since       Instant
	slow        *slow
	one         [1]piece // the only piece, while slow has none
	seq         uint32
	access      Access
	mode        Mode
	unbreakable bool
	mapped      bool
	closed      bool
	n           uint8 // pieces in one: 0 or 1
}

// slow is what a lease needs once it was broken, split or pinned.
type slow struct {
	split   bool // pieces, not one, has the pieces
	pieces  []piece
	brks    *brk
	pins    *pin
	npins   int
	holders []*session // of a lease that was shared: all who hold it, in the order in which they came
	mingled bool       // pins under it may be of several sessions
	retry   timer      // of failed pieces
	backoff Instant
}

func (l *lease) rare() *slow {
	if l.slow == nil {
		l.slow = &slow{retry: timer{idx: -1}}
		l.slow.retry.lease = l
	}
	return l.slow
}

func (l *lease) pieces() []piece {
	if l.slow != nil && l.slow.split {
		return l.slow.pieces
	}
	return l.one[:l.n]
}

func (l *lease) pinned() int {
	if l.slow == nil {
		return 0
	}
	return l.slow.npins
}

func (l *lease) brks() *brk {
	if l.slow == nil {
		return nil
	}
	return l.slow.brks
}

// from returns the pieces that end after off.
func (l *lease) from(off int64) []piece {
	ps := l.pieces()
	return ps[sort.Search(len(ps), func(i int) bool { return ps[i].End > off }):]
}

// overlaps reports whether a piece of the lease, in whatever state, overlaps r.
func (l *lease) overlaps(r extent.Range) bool {
	ps := l.from(r.Off)
	return len(ps) > 0 && ps[0].Off < r.End
}

// liveIn reports whether the holder has any of r.
func (l *lease) liveIn(r extent.Range) bool {
	for _, p := range l.from(r.Off) {
		if p.Off >= r.End {
			break
		}
		if p.state == live {
			return true
		}
	}
	return false
}

// covers reports whether the holder has all of r.
func (l *lease) covers(r extent.Range) bool {
	ps := l.from(r.Off)
	return len(ps) > 0 && ps[0].state == live && ps[0].Contains(r)
}

// hull is the least range that holds all pieces.
func (l *lease) hull() extent.Range {
	ps := l.pieces()
	return extent.Range{Off: ps[0].Off, End: ps[len(ps)-1].End}
}

func (l *lease) item(p piece) item[lease] {
	it := item[lease]{key: key{p.Off, uint64(l.id)}, end: p.End, val: l, owner: l.slot(), class: 1 << any_}
	if l.mode == Exclusive {
		it.class |= 1 << exclusive
	}
	if l.unbreakable && p.state == live {
		it.class |= 1 << unbreakable
	}
	return it
}

// replant puts the pieces in the tree anew after change, which may alter mode and flags.
func (l *lease) replant(change func()) {
	for _, p := range l.pieces() {
		l.file.leases.remove(p.Off, uint64(l.id))
	}
	change()
	for _, p := range l.pieces() {
		it := l.item(p)
		l.file.leases.insert(&it)
	}
}

// carve gives every part of the lease within r the state, and calls each for every part that changed.
// Only parts for which from holds are touched. With drop the parts leave the lease instead.
func (l *lease) carve(r extent.Range, from func(pieceState) bool, to pieceState, drop bool, each func(extent.Range)) {
	ps := l.pieces()
	i := sort.Search(len(ps), func(i int) bool { return ps[i].End > r.Off })
	j := i
	var put []piece
	for ; j < len(ps) && ps[j].Off < r.End; j++ {
		p := ps[j]
		if !from(p.state) {
			put = append(put, p)
			continue
		}
		l.file.leases.remove(p.Off, uint64(l.id))
		mid := p.Intersect(r)
		left, right := p.Minus(r)
		if !left.Empty() {
			put = l.plant(put, piece{left, p.state})
		}
		if !drop {
			put = l.plant(put, piece{mid, to})
		}
		if !right.Empty() {
			put = l.plant(put, piece{right, p.state})
		}
		if each != nil {
			each(mid)
		}
	}
	if i == j {
		return
	}
	l.setPieces(i, j, put)
}

func (l *lease) plant(put []piece, p piece) []piece {
	it := l.item(p)
	l.file.leases.insert(&it)
	return append(put, p)
}

// setPieces replaces pieces[i:j].
func (l *lease) setPieces(i, j int, put []piece) {
	if s := l.slow; s != nil && s.split {
		s.pieces = slices.Replace(s.pieces, i, j, put...)
		return
	}
	if len(put) <= 1 {
		l.n = uint8(copy(l.one[:], put))
		return
	}
	s := l.rare()
	s.split, s.pieces = true, put
}

func isLive(s pieceState) bool     { return s == live }
func isFailed(s pieceState) bool   { return s == failed }
func isCutting(s pieceState) bool  { return s == cutting }
func isFencing(s pieceState) bool  { return s == fencing }
func isDetached(s pieceState) bool { return s == unmapping || s == cutting }

var everything = extent.Range{Off: 0, End: extent.Inf}

// lookup returns the caller's lease, or denies.
func (m *Machine) lookup(in *Input) *lease {
	l := m.leases.get(uint64(in.Lease))
	switch {
	case l == nil:
		m.deny(in, syscall.ENOENT, "no such lease")
	case !l.heldBy(in.Session):
		m.deny(in, syscall.EPERM, "the lease belongs to another session")
	default:
		return l
	}
	return nil
}

// grant puts the lease that q asks for in the table.
func (m *Machine) grant(q *request) {
	var l *lease
	if n := len(m.freeLeases); n > 0 {
		l, m.freeLeases = m.freeLeases[n-1], m.freeLeases[:n-1]
	} else {
		l = &lease{}
	}
	s := q.owner
	l.id, l.file, l.session, l.tag, l.since, l.seq = LeaseID(m.newID()), q.file, s, q.tag, m.now, 1
	l.access, l.mode, l.unbreakable = q.access, q.mode, q.unbreakable
	l.one[0].Range, l.n = q.r, 1
	s.leases++
	m.leases.put(uint64(l.id), l)
	it := l.item(l.one[0])
	l.file.leases.insert(&it)
	e := m.effect()
	e.Kind, e.Lease, e.File, e.Session, e.Range, e.Request, e.Seq = Granted, l.id, l.file.ino, s.id, q.r, q.requestID(), 1
	e.Access, e.Mode, e.Unbreakable, e.Tag = l.access, l.mode, l.unbreakable, l.tag
}

// giveBack is OpReturn. It is idempotent, as unlocking is: what the lease does not have is given back already.
func (m *Machine) giveBack(in *Input) {
	l := m.lookup(in)
	if l == nil {
		return
	}
	r, ok := checkRange(in.Range)
	if !ok {
		m.deny(in, syscall.EINVAL, "the range is empty")
		return
	}
	if l.pinnedIn(r) {
		m.deny(in, syscall.EBUSY, "the range is pinned")
		return
	}
	m.progress(l, r)
	m.release(l, r, in.Session)
}

// release takes r from the holder, who is told if he is named. What was mapped stays in the way until the storage has detached it.
func (m *Machine) release(l *lease, r extent.Range, by SessionID) {
	m.surrender(l, r, by)
	m.settle(l)
}

// surrender is release; settle has to follow.
func (m *Machine) surrender(l *lease, r extent.Range, by SessionID) {
	l.carve(r, isLive, unmapping, !l.mapped, func(p extent.Range) {
		e := Effect{Kind: Returned, Lease: l.id, File: l.file.ino, Session: l.session.id, Range: p, Seq: uint64(l.seq), Tag: l.tag}
		if by != 0 {
			e.Session = by
			m.emit(e)
		}
		if l.mapped {
			e.Kind = Unmap
			m.emit(e)
		}
	})
}

// closeLease is OpCloseLease. Close of a pinned lease hands it to its contexts.
func (m *Machine) closeLease(in *Input) {
	l := m.leases.get(uint64(in.Lease))
	switch {
	case l == nil || l.closed:
		m.deny(in, syscall.ENOENT, "no such lease")
		return
	case in.Session != 0 && !l.heldBy(in.Session):
		m.deny(in, syscall.ENOENT, "the session does not hold the lease")
		return
	case in.OnClose == Block || in.OnClose > Abort:
		m.deny(in, syscall.EINVAL, "what a close waits for is not the lease's to know")
		return
	}
	if l.shared() && in.Session != 0 {
		m.leave(l, in)
		return
	}
	l.closed = true
	if l.slow == nil && !l.mapped && l.one[0].state == live { // most leases: whole, and nobody has asked for it
		l.file.leases.remove(l.one[0].Off, uint64(l.id))
		l.n = 0
		m.settle(l)
		return
	}
	if l.pinned() == 0 {
		m.release(l, everything, 0)
		return
	}
	if in.OnClose == Abort {
		m.take(l)
		return
	}
	for _, c := range l.contexts() {
		m.emit(Effect{Kind: Transferred, Lease: l.id, File: l.file.ino, Session: l.session.id, Context: c})
	}
	for b := l.brks(); b != nil; {
		next := b.nextOfLease
		if !l.answerable(b.request) {
			m.cutLate(b)
		}
		b = next
	}
}

// settle follows a lease that has become less: breaks may have their answer, it may be gone, and others go on.
func (m *Machine) settle(l *lease) {
	f := l.file
	m.answer(l)
	if len(l.pieces()) == 0 {
		m.forget(l)
	}
	m.advance(f)
	m.drop(f)
}

// forget takes the lease from the table.
func (m *Machine) forget(l *lease) {
	s := l.session
	m.leases.remove(uint64(l.id))
	if l.slow != nil {
		m.timers.stop(&l.slow.retry)
	}
	e := m.effect()
	e.Kind, e.Lease, e.File, e.Session, e.Tag = Released, l.id, l.file.ino, s.id, l.tag
	m.disperse(l)
	*l = lease{}
	if len(m.freeLeases) < maxPooled {
		m.freeLeases = append(m.freeLeases, l)
	}
}

func (m *Machine) mapped(in *Input) {
	l := m.leases.get(uint64(in.Lease))
	if l == nil {
		m.deny(in, syscall.ENOENT, "no such lease")
		return
	}
	l.mapped = true
}

// contexts lists the contexts that have pins under the lease, each once, in order.
func (l *lease) contexts() []ContextID {
	if l.slow == nil {
		return nil
	}
	var ids []ContextID
	for p := l.slow.pins; p != nil; p = p.nextOfLease {
		ids = append(ids, p.context.id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
