package layout

import (
	"syscall"

	"holdfast/extent"
)

// Cutting pins: what becomes of a pin whose lease is taken away. Detaching the windows comes first. Where a context reaches blocks by
// other ways than windows, it is then asked to let go, mildest first; each step has a time, and when the last has failed all are
// tried again later. Until one succeeds the range is in the way of everyone.

// pinCut is how far the cut of a pin is.
type pinCut struct {
	timer           // of the step, or until the next try
	step    CutStep // 0 between tries
	tries   int     // that failed
	backoff Instant
}

// can reports whether the step is one that the context's abilities, and the volume, allow.
func (m *Machine) can(c *context, s CutStep) bool {
	return c.can.has(s) && (s != Kill || m.cfg.AllowKill)
}

// detachedPins follows the detaching of r: pins that reached blocks by windows only are cut with it, the others begin to be cut.
func (m *Machine) detachedPins(l *lease, r extent.Range) {
	var gone, begin []*pin
	for p := l.slow.pins; p != nil; p = p.nextOfLease {
		switch {
		case !l.cutIn(p, r):
		case p.context.can&ByWindow != 0:
			gone = append(gone, p)
		case p.cut == nil:
			begin = append(begin, p)
		}
	}
	l.carve(r, isCutting, fencing, false, nil)
	for _, p := range gone {
		m.removePin(p)
	}
	m.sweep(l)
	for _, p := range begin {
		p.cut = &pinCut{timer: timer{idx: -1, pin: p}}
		m.nextStep(p)
	}
	m.unpinned(l)
}

// cutIn reports whether a part of the pin is in r and was taken from the lease.
func (l *lease) cutIn(p *pin, r extent.Range) bool {
	if !p.r.Overlaps(r) {
		return false
	}
	r = p.r.Intersect(r)
	for _, q := range l.from(r.Off) {
		if q.Off >= r.End {
			return false
		}
		if q.state == cutting {
			return true
		}
	}
	return false
}

// nextStep tries the next milder step of a pin's cut, or gives up for a while.
func (m *Machine) nextStep(p *pin) {
	c := p.cut
	m.timers.stop(&c.timer)
	for s := c.step + 1; s <= Kill; s++ {
		if !m.can(p.context, s) {
			continue
		}
		c.step = s
		m.timers.start(&c.timer, m.now.Add(m.cfg.StepTime))
		e := p.effect(CutPin)
		e.Step, e.Deadline = s, c.at
		m.emit(e)
		return
	}
	if c.step == 0 {
		m.emitStepFailed(p, "the context has nothing by which it could be cut")
	}
	c.step = 0
	c.tries++
	c.backoff = min(max(2*c.backoff, Instant(minBackoff)), Instant(maxBackoff))
	m.timers.start(&c.timer, m.now+c.backoff)
	if p.lease != nil {
		m.sendAway(p.lease, p.r)
	}
}

func (m *Machine) emitStepFailed(p *pin, reason string) {
	e := p.effect(StepFailed)
	e.Step, e.Reason = p.cut.step, reason
	m.emit(e)
}

// pinCutDone is OpCutPinDone. A step that succeeds late has succeeded, whatever is tried by then.
func (m *Machine) pinCutDone(in *Input) {
	if p := m.pins[in.Pin]; p != nil && p.cut != nil {
		m.dropPin(p)
	}
}

// pinCutFailed is OpCutPinFailed. What a step says after its time does not count.
func (m *Machine) pinCutFailed(in *Input) {
	p := m.pins[in.Pin]
	if p == nil || p.cut == nil || in.Step == 0 || p.cut.step != in.Step {
		return
	}
	m.emitStepFailed(p, in.Reason)
	m.nextStep(p)
}

// pinTick is what the time does to a pin that is being cut: the step failed, or the next try begins.
func (m *Machine) pinTick(p *pin) {
	if p.cut.step != 0 {
		m.emitStepFailed(p, "it was not done in its time")
	}
	m.nextStep(p)
}

// sweep lets go of what was detached and no pin reaches any more; settle has to follow.
func (m *Machine) sweep(l *lease) {
	for {
		r := l.unreached()
		if r.Empty() {
			return
		}
		l.carve(r, isFencing, live, true, func(p extent.Range) { m.emitRevoked(l, p) })
	}
}

// unreached returns a range of the lease that was detached and has no pin.
func (l *lease) unreached() extent.Range {
	for _, p := range l.pieces() {
		if p.state != fencing {
			continue
		}
		if r := l.gap(p.Range); !r.Empty() {
			return r
		}
	}
	return extent.Range{}
}

func (m *Machine) emitRevoked(l *lease, r extent.Range) {
	m.emit(Effect{Kind: Revoked, Lease: l.id, File: l.file.ino, Session: l.session.id, Range: r, Seq: uint64(l.seq), Tag: l.tag})
}

// sendAway tells those who wait for r of the lease that it takes longer: it could not be taken away yet.
func (m *Machine) sendAway(l *lease, r extent.Range) {
	for b := l.brks(); b != nil; b = b.nextOfLease {
		q := b.request
		if q.abandoned || !q.r.Overlaps(r) {
			continue
		}
		m.tellRefused(q, syscall.EAGAIN, reasonDetach)
		m.orphan(q)
	}
}

// seize is OpSeize: the lease is cut at once, whatever it is and has.
func (m *Machine) seize(in *Input) {
	l := m.leases.get(uint64(in.Lease))
	if l == nil {
		m.deny(in, syscall.ENOENT, "no such lease")
		return
	}
	m.take(l)
}

// take cuts all of the lease, with its pins.
func (m *Machine) take(l *lease) {
	l.seq++
	l.carve(everything, isLive, cutting, false, func(p extent.Range) { m.emitCut(l, p) })
	m.settle(l)
}

// dropOwn drops the caller's own pins in the way of q, unless q would be refused all the same. q is in no list yet.
func (m *Machine) dropOwn(q *request, noWait bool) {
	q.dropOwn = true
	if v := m.judge(q); v.kind == refused || noWait && v.kind != clearWay {
		return
	}
	q.dropOwn = false
	kin := m.kin(q.session)
	var own []*pin
	q.file.pins.each(query{r: q.r}, func(it *item[pin]) bool {
		for _, s := range kin {
			if it.val.context.session == s {
				own = append(own, it.val)
			}
		}
		return true
	})
	for _, p := range own {
		m.dropPin(p)
	}
}
