package layout

import (
	"container/heap"
	"syscall"

	"holdfast/extent"
)

// brk is the break of one lease for one request: from when its holder is asked until nothing of the lease is in the
// request's way any more.
type brk struct {
	timer         // until when the holder may answer; stopped once the lease is being detached
	request       *request
	lease         *lease
	start         Instant
	prevOfLease   *brk
	nextOfLease   *brk
	prevOfRequest *brk
	nextOfRequest *brk
}

// begin raises the barrier of q and asks every holder in its way.
func (m *Machine) begin(q *request) {
	q.state = breaking
	m.setHolders(q, nil)
	k := any_
	if q.kind != changing && q.mode == Shared {
		k = exclusive
	}
	var ls []*lease
	own := m.slot(q.session)
	m.each(q, func(r extent.Range) bool {
		q.file.leases.each(query{r: r, class: uint8(k), not: own}, func(it *item[lease]) bool {
			ls = append(ls, it.val)
			return true
		})
		return true
	})
	if q.kind == changing { // under Revoke; they may be under a lease that is the caller's own by now
		q.file.pins.each(query{r: q.r, not: own}, func(it *item[pin]) bool {
			ls = append(ls, it.val.lease)
			return true
		})
	}
	for _, l := range ls { // once for each of its pieces
		if b := l.brks(); b == nil || b.request != q {
			m.ask(q, l)
		}
	}
}

// ask breaks l for q. Who cannot answer is not asked: the lease is cut at once.
func (m *Machine) ask(q *request, l *lease) {
	s := l.rare()
	b := &brk{request: q, lease: l, start: m.now, nextOfLease: s.brks, nextOfRequest: q.brks}
	b.timer = timer{idx: -1, brk: b}
	if s.brks != nil {
		s.brks.prevOfLease = b
	}
	if q.brks != nil {
		q.brks.prevOfRequest = b
	}
	s.brks, q.brks = b, b
	if q.open == 0 {
		l.file.breaking++
	}
	q.open++
	if !m.alive(l, q) {
		return // given back or cut already: only the storage is waited for
	}
	l.seq++
	if !l.answerable(q) {
		m.cutFor(b)
		return
	}
	m.timers.start(&b.timer, m.now.Add(m.cfg.BreakTime))
	ask := AskReturn
	switch {
	case q.kind != changing && q.mode == Shared:
		ask = AskDowngrade
	case q.onHold == Revoke && l.pinnedIn(q.r):
		ask = AskDropPins
	}
	m.emit(Effect{
		Kind: Notify, Lease: l.id, File: l.file.ino, Session: l.session.id, Range: q.r, Class: q.class, Ask: ask,
		Deadline: b.at, Seq: uint64(l.seq), Change: q.changeID(), Request: q.requestID(), Tag: l.tag,
	})
}

// answerable reports whether somebody is left who could give back what q wants: without its handle, who drops the pins.
func (l *lease) answerable(q *request) bool {
	return !l.session.dead && (!l.closed || q.onHold == Revoke && l.pinnedIn(q.r))
}

// alive reports whether the holder still has something that is in q's way.
func (m *Machine) alive(l *lease, q *request) bool {
	found := false
	m.each(q, func(r extent.Range) bool {
		found = l.liveIn(r)
		return !found
	})
	return found
}

// cutFor takes from the lease, without its holder, what is in the way of b's request.
func (m *Machine) cutFor(b *brk) {
	l := b.lease
	m.timers.stop(&b.timer)
	m.each(b.request, func(r extent.Range) bool {
		l.carve(r, isLive, cutting, false, func(p extent.Range) { m.emitCut(l, p) })
		return true
	})
}

// cutLate is cutFor after the break has begun. What was unbreakable is taken by now, so who waits for it waits for something else.
func (m *Machine) cutLate(b *brk) {
	m.cutFor(b)
	if b.lease.unbreakable {
		m.advance(b.lease.file)
	}
}

func (m *Machine) emitCut(l *lease, r extent.Range) {
	m.emit(Effect{Kind: Cut, Lease: l.id, File: l.file.ino, Session: l.session.id, Range: r, Seq: uint64(l.seq), Tag: l.tag})
}

// dropBrk ends a break, answered or not needed any more.
func (m *Machine) dropBrk(b *brk) {
	m.timers.stop(&b.timer)
	if b.prevOfLease != nil {
		b.prevOfLease.nextOfLease = b.nextOfLease
	} else {
		b.lease.slow.brks = b.nextOfLease
	}
	if b.nextOfLease != nil {
		b.nextOfLease.prevOfLease = b.prevOfLease
	}
	if b.prevOfRequest != nil {
		b.prevOfRequest.nextOfRequest = b.nextOfRequest
	} else {
		b.request.brks = b.nextOfRequest
	}
	if b.nextOfRequest != nil {
		b.nextOfRequest.prevOfRequest = b.prevOfRequest
	}
	b.request.open--
	if b.request.open == 0 {
		b.lease.file.breaking--
	}
}

// answer ends the breaks of l whose requests it is not in the way of any more. Where only the storage has still to detach
// what was given back, the holder's time stops.
func (m *Machine) answer(l *lease) {
	for b := l.brks(); b != nil; {
		next := b.nextOfLease
		switch {
		case !m.inWay(l, b.request):
			m.dropBrk(b)
		case b.idx >= 0 && !m.alive(l, b.request):
			m.timers.stop(&b.timer)
		}
		b = next
	}
	for q := l.file.head; q != nil; q = q.next { // what l itself is to become needs less than it did
		if q.kind == modifying && q.lease == l.id {
			m.recheck(q)
		}
	}
}

// recheck ends the breaks of q that it does not need any more.
func (m *Machine) recheck(q *request) {
	for b := q.brks; b != nil; {
		next := b.nextOfRequest
		if !m.inWay(b.lease, q) {
			m.dropBrk(b)
		}
		b = next
	}
}

// inWay reports whether l, which is not of q's session, is in the way of q.
func (m *Machine) inWay(l *lease, q *request) bool {
	if q.kind != changing && q.mode == Shared && l.mode == Shared {
		return false
	}
	found := false
	m.each(q, func(r extent.Range) bool {
		found = l.overlaps(r)
		return !found
	})
	return found
}

// progress stretches the deadlines of l's breaks that r has to do with, within their bound.
func (m *Machine) progress(l *lease, r extent.Range) {
	for b := l.brks(); b != nil; b = b.nextOfLease {
		if b.idx < 0 || !b.request.r.Overlaps(r) {
			continue
		}
		at := min(m.now.Add(m.cfg.BreakTime), b.start.Add(m.cfg.MaxBreakTime))
		if at > b.at {
			m.timers.stop(&b.timer)
			m.timers.start(&b.timer, at)
		}
	}
}

// tick is OpTick.
func (m *Machine) tick() {
	for len(m.timers) > 0 && m.timers[0].at <= m.now {
		t := m.timers[0]
		m.timers.stop(t)
		if t.pin != nil {
			m.pinTick(t.pin)
			continue
		}
		l := t.lease
		if b := t.brk; b != nil {
			l = b.lease
			m.emit(Effect{
				Kind: TimedOut, Lease: l.id, File: l.file.ino, Session: l.session.id, Range: b.request.r, Seq: uint64(l.seq),
				Change: b.request.changeID(), Request: b.request.requestID(), Tag: l.tag,
			})
			m.cutLate(b)
			continue
		}
		l.carve(everything, isFailed, cutting, false, func(p extent.Range) { m.emitCut(l, p) })
	}
}

// detached is OpUnmapped and OpCutDone.
func (m *Machine) detached(in *Input) {
	l := m.leases.get(uint64(in.Lease))
	if l == nil {
		m.deny(in, syscall.ENOENT, "no such lease")
		return
	}
	state := unmapping
	if in.Op == OpCutDone {
		state = cutting
	}
	if state == cutting && l.pinned() > 0 {
		m.detachedPins(l, in.Range)
		m.settle(l)
		return
	}
	l.carve(in.Range, func(s pieceState) bool { return s == state }, live, true, func(p extent.Range) {
		if state == cutting {
			m.emitRevoked(l, p)
		}
	})
	m.settle(l)
}

// detachFailed is OpUnmapFailed and OpCutFailed. The range stays in the way, and the changes that wait for it are told.
func (m *Machine) detachFailed(in *Input) {
	l := m.leases.get(uint64(in.Lease))
	if l == nil {
		m.deny(in, syscall.ENOENT, "no such lease")
		return
	}
	l.carve(in.Range, isDetached, failed, false, nil)
	s := l.rare()
	s.backoff = min(max(2*s.backoff, Instant(minBackoff)), Instant(maxBackoff))
	if s.retry.idx < 0 {
		m.timers.start(&s.retry, m.now+s.backoff)
	}
	m.sendAway(l, in.Range)
}

// timer is due at a point in time: the end of a break, or the next try of a lease's detaching or of a pin's cut.
type timer struct {
	at    Instant
	idx   int // in timers, -1 if stopped
	brk   *brk
	lease *lease
	pin   *pin
}

// timers is a heap by time.
type timers []*timer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].idx, h[j].idx = i, j
}

// Push and Pop are for container/heap.
func (h *timers) Push(x any) {
	t := x.(*timer)
	t.idx = len(*h)
	*h = append(*h, t)
}

func (h *timers) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.idx = -1
	return t
}

func (h *timers) start(t *timer, at Instant) {
	t.at = at
	heap.Push(h, t)
}

func (h *timers) stop(t *timer) {
	if t.idx >= 0 {
		heap.Remove(h, t.idx)
	}
}
