package layout

import (
	"syscall"

	"holdfast/extent"
)

// on_hold = defer: the file gives up what is pinned, and the pins keep it. One pin after the other becomes an orphan in the way of a
// change; each is answered before the next, so that a refusal leaves the rest as it was. What remains are leases, which are asked.

// orphaned is what is left of a pin that no lease covers any more.
type orphaned struct {
	file  extent.Ino
	lease LeaseID // that covered it
}

// deferPin has the storage orphan the first pin in the way of q. It is another's: beside own ones q was refused.
func (m *Machine) deferPin(q *request) {
	q.state = deferring
	m.setHolders(q, nil)
	it := q.file.pins.first(query{r: q.r})
	e := it.val.effect(Orphan)
	e.Range, e.Change = it.Range().Intersect(q.r), q.changeID()
	m.emit(e)
}

// deferred is OpOrphaned and OpOrphanFailed.
func (m *Machine) deferred(in *Input) {
	f := m.files.get(uint64(in.File))
	if f == nil {
		return
	}
	q := f.head
	for ; q != nil && (q.changeID() != in.Change || q.state != deferring); q = q.next {
	}
	if q == nil {
		return
	}
	q.state = waiting
	p := m.pins[in.Pin]
	switch {
	case in.Op == OpOrphaned && p != nil && p.lease != nil:
		m.orphanPin(p, in.Range)
	case in.Op == OpOrphanFailed && p != nil && !q.abandoned:
		m.refuse(q, syscall.ETXTBSY, in.Reason)
	}
	m.advance(f)
	m.drop(f)
}

// orphanPin takes r from a pin, and from its lease where no other pin needs it; advance has to follow.
func (m *Machine) orphanPin(p *pin, r extent.Range) {
	l := p.lease
	rest := []extent.Range{}
	p.each(func(part extent.Range) {
		l.file.pins.remove(part.Off, uint64(p.id))
		left, right := part.Minus(r)
		for _, x := range []extent.Range{left, right} {
			if !x.Empty() {
				rest = append(rest, x)
			}
		}
	})
	p.parts = rest
	l.seq++
	p.plant(l)
	e := p.effect(Orphaned)
	e.Range = r
	m.emit(e)
	for gap := l.gap(r); !gap.Empty(); gap = l.gap(extent.Range{Off: gap.End, End: r.End}) {
		l.carve(gap, isLive, live, true, func(x extent.Range) { m.emitRevoked(l, x) })
	}
	if len(rest) == 0 {
		p.was = orphaned{l.file.ino, l.id}
		p.leave()
		p.lease = nil
	}
	m.sweep(l)
	m.unpinned(l)
	m.answer(l)
	if len(l.pieces()) == 0 {
		m.forget(l)
	}
}

// gap returns the first part of r that no pin of the lease reaches.
func (l *lease) gap(r extent.Range) extent.Range {
	if r.Empty() {
		return r
	}
	pos, end := r.Off, r.End
	l.file.pins.each(query{r: r}, func(it *item[pin]) bool {
		if it.val.lease != l {
			return true
		}
		if it.off > pos {
			end = it.off
			return false
		}
		pos = max(pos, it.end)
		return pos < end
	})
	return extent.Range{Off: min(pos, end), End: end}
}
