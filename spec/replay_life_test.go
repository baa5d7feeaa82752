package spec

import "holdfast/layout"

// live lets a session die, its context end, and another take its place.
func (r *run) live(i int, has bool) {
	h := &r.who[i]
	switch {
	case h.away && r.rand.IntN(2) == 0:
		r.reclaim(i)
	case h.away:
		h.away = false
		r.say("Die", i, 0, 0)
	case h.dead && h.context == 0 && !has && !(r.change.state != idle && r.change.caller == i):
		r.open(i)
		r.say("Reopen", i, 0, 0)
	case h.context != 0 && (h.dead || r.rand.IntN(8) == 0):
		c := h.context
		h.context = 0
		r.input(layout.Input{Op: layout.OpCloseContext, Context: c})
		r.say("CloseContext", i, 0, 0)
	case h.context == 0 && !h.dead:
		r.nextID++
		h.context = layout.ContextID(r.nextID)
		r.register(i)
		r.say("Register", i, 0, 0)
	case !h.dead && r.rand.IntN(4) == 0:
		h.dead = true
		r.input(layout.Input{Op: layout.OpEndSession, Session: h.session})
		r.say("Die", i, 0, 0)
	}
}

// answerGiveUp is the storage: it has the file give up what a pin keeps, or has no room for it.
func (r *run) answerGiveUp() {
	g := r.giveUp
	if g == nil {
		return
	}
	r.giveUp = nil
	bad := flag(r.rand.IntN(4) == 0)
	op := []layout.Op{layout.OpOrphaned, layout.OpOrphanFailed}[bad]
	moot := r.who[g.of].pin != g.Pin
	r.input(layout.Input{Op: op, Change: g.Change, Pin: g.Pin, Range: g.Range})
	if moot {
		r.say("Moot", 0, 0, 0)
		return
	}
	r.say([]string{"Orphaned", "NotOrphaned"}[bad], g.of, 0, 0)
}

// cutting returns the pin if the steps of its cut are under way.
func (r *run) cutting(id layout.PinID) (layout.PinInfo, bool) {
	for _, p := range r.m.Pins(0) {
		if p.ID == id && p.Cutting {
			return p, true
		}
	}
	return layout.PinInfo{}, false
}

// fence is the context: it answers a step of the cut of its pin.
func (r *run) fence(i int, p layout.PinInfo) {
	switch {
	case r.rand.IntN(2) == 0:
		r.input(layout.Input{Op: layout.OpCutPinDone, Pin: p.ID})
		r.say("Fenced", i, 0, 0)
	case p.Step != 0:
		r.input(layout.Input{Op: layout.OpCutPinFailed, Pin: p.ID, Step: p.Step})
		if p.Step == layout.Fence {
			r.say("NotFenced", i, 0, 0)
		}
	}
}

// crash starts a new machine, in which what was mapped is put back as the arbiter does. What reaches blocks by other ways than
// windows is not kept by any storage yet, and an orphan not by this test: with either there is no crash.
func (r *run) crash() {
	if r.who[1].pin != 0 || r.who[0].orphan != 0 || r.who[1].orphan != 0 {
		return
	}
	var leases [2]layout.LeaseInfo
	for i, h := range r.who {
		leases[i], _ = r.m.Lease(h.lease)
	}
	r.m, r.change, r.giveUp, r.failed = newMachine(), change{}, nil, [2]bool{}
	for i := range r.who {
		r.restore(i, leases[i])
	}
	r.say("Crash", 0, 0, 0)
}

func (r *run) restore(i int, l layout.LeaseInfo) {
	h := &r.who[i]
	was := *h
	*h = holder{session: was.session, dead: true}
	if !was.exposed {
		return
	}
	h.lease, h.exposed, h.away = was.lease, true, !was.dead || was.away
	r.input(layout.Input{Op: layout.OpOpenSession, Session: h.session})
	r.input(layout.Input{
		Op: layout.OpRestore, Session: h.session, Lease: h.lease, Range: block, Access: l.Access, Mode: l.Mode, Unbreakable: l.Unbreakable,
	})
	if was.pin != 0 {
		h.context = was.context
		r.register(i)
		r.nextID++
		h.pin = r.pinAs(i, layout.GuardPins+layout.PinID(r.nextID))
		if l.Closed {
			r.input(layout.Input{Op: layout.OpCloseLease, Lease: h.lease})
		}
	}
	r.input(layout.Input{Op: layout.OpEndSession, Session: h.session})
}

// pinAs pins under a name that was known before. It returns 0 if that was refused.
func (r *run) pinAs(i int, name layout.PinID) layout.PinID {
	h := r.who[i]
	es := r.input(layout.Input{Op: layout.OpPin, Session: h.session, Context: h.context, Lease: h.lease, Range: block, Pin: name})
	if es[0].Kind != layout.Pinned {
		return 0
	}
	return es[0].Pin
}

// reclaim is the process come back: the session is its own again, and a pin of its own takes the place of the one that stood for it.
func (r *run) reclaim(i int) {
	h := &r.who[i]
	h.dead, h.away = false, false
	if es := r.input(layout.Input{Op: layout.OpResume, Session: h.session}); len(es) > 0 { // all that it had was cut
		r.input(layout.Input{Op: layout.OpOpenSession, Session: h.session})
	}
	r.say("Reclaim", i, 0, 0)
	guard := h.pin
	if guard == 0 {
		return
	}
	r.nextID++
	if pin := r.pinAs(i, layout.PinID(r.nextID)); pin != 0 {
		h.pin = pin
		r.input(layout.Input{Op: layout.OpUnpin, Session: h.session, Pin: guard})
	}
}

// finish ends everything, so that the next run finds the model as it was at first.
func (r *run) finish() {
	for range 100000 {
		clean := r.change.state == idle
		for i := range r.who {
			h := &r.who[i]
			_, has := r.m.Lease(h.lease)
			clean = clean && !has && !h.dead && h.context != 0 && h.orphan == 0
		}
		if clean {
			break
		}
		r.step()
	}
	r.say("Fresh", 0, 0, 0)
}
