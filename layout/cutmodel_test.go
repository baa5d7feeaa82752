package layout

import (
	"slices"
	"syscall"
	"time"

	"holdfast/extent"
	"pgregory.net/rapid"
)

// The part of the model that knows of cuts of pins, and the inputs for it.

// modelContexts is by what the contexts of the model can be cut: one by its windows, one by steps, one by nothing.
var modelContexts = map[SessionID]Abilities{1: ByWindow, 2: CanGiveBack | CanFence | CanKill, 3: 0}

const modelStepTime = 3 * time.Second

// stillInWay says whether a lease that was asked has still something that is wanted. It may be the caller's own by now, or was
// asked for another's pins.
func (q *mRequest) stillInWay(l *mLease) bool {
	if sameSession(l.sole(), q.session) && q.kind == changing {
		return q.touches(l, anyState)
	}
	return q.inWay(l, anyState)
}

func (md *model) pinsOf(l *mLease, r extent.Range) (pins []*mPin) {
	for _, p := range md.pins {
		if p.lease == l && p.in(r) {
			pins = append(pins, p)
		}
	}
	return pins
}

// pinnedByOthers says whether a lease, be it the caller's own, has pins of others that a change takes away.
func (md *model) pinnedByOthers(l *mLease, q *mRequest) bool {
	return q.onHold == Revoke && l.file == q.file &&
		slices.ContainsFunc(md.pinsOf(l, q.r), func(p *mPin) bool { return !md.sameOwner(p.session, q.session) })
}

func (md *model) answerable(l *mLease, q *mRequest) bool {
	return !md.dead[l.session] && (!l.closed || q.onHold == Revoke && len(md.pinsOf(l, q.r)) > 0)
}

func (md *model) ask(l *mLease, q *mRequest) Ask {
	switch {
	case q.kind != changing && q.mode == Shared:
		return AskDowngrade
	case q.onHold == Revoke && len(md.pinsOf(l, q.r)) > 0:
		return AskDropPins
	}
	return AskReturn
}

// drop takes a pin away, and what only it kept.
func (md *model) drop(pn *mPin) {
	md.pins = slices.DeleteFunc(md.pins, func(o *mPin) bool { return o == pn })
	md.sweep(pn.lease)
	if pn.lease.closed && !md.pinned(pn.lease) {
		md.giveBack(pn.lease, everything)
	}
}

func (md *model) sweep(l *mLease) {
	for i := range l.has {
		if l.has[i] && l.blocks[i] == fencing && len(md.pinsOf(l, mBlock(i))) == 0 {
			l.has[i] = false
		}
	}
}

// cutDone says that the windows over r are detached.
func (md *model) cutDone(l *mLease, r extent.Range) {
	var gone, begin []*mPin
	for _, p := range md.pins {
		if p.lease != l || !slices.ContainsFunc(md.cutBlocks(l, r), func(i int) bool { return p.in(mBlock(i)) }) {
			continue
		}
		if modelContexts[SessionID(p.context)] == ByWindow {
			gone = append(gone, p)
		} else if !p.cut {
			begin = append(begin, p)
		}
	}
	for _, i := range md.cutBlocks(l, r) {
		l.blocks[i] = fencing
	}
	for _, p := range gone {
		md.drop(p)
	}
	md.sweep(l)
	for _, p := range begin {
		p.cut = true
		md.nextStep(p)
	}
}

func (md *model) cutBlocks(l *mLease, r extent.Range) (is []int) {
	for i := range l.has {
		if l.has[i] && l.blocks[i] == cutting && mBlock(i).Overlaps(r) {
			is = append(is, i)
		}
	}
	return is
}

// nextStep is what follows when a step of a cut has failed, or its back-off is over.
func (md *model) nextStep(p *mPin) {
	for s := p.step + 1; s < Kill; s++ { // which is not allowed
		if modelContexts[SessionID(p.context)].has(s) {
			p.step, p.until = s, md.now.Add(modelStepTime)
			return
		}
	}
	p.step = 0
	p.backoff = min(max(2*p.backoff, time.Second), 30*time.Second)
	p.until = md.now.Add(p.backoff)
	for _, q := range md.requests {
		if p.in(everything) && q.asked[p.lease] != nil && !q.abandoned && q.r.Overlaps(p.r) {
			md.tell(q, Denied, syscall.EAGAIN)
			q.abandoned = true
		}
	}
}

// pinCut has the context say that a step of a cut was done, or failed.
func (p *pair) pinCut(t *rapid.T) {
	var cut []*mPin
	for _, pn := range p.md.pins {
		if pn.cut {
			cut = append(cut, pn)
		}
	}
	if len(cut) == 0 {
		t.Skip("none is being cut")
	}
	pn := rapid.SampledFrom(cut).Draw(t, "pin")
	p.md.remember()
	if rapid.Bool().Draw(t, "done") {
		p.md.drop(pn)
		p.step(Input{Op: OpCutPinDone, Pin: pn.id})
		return
	}
	step := CutStep(rapid.IntRange(int(GiveBack), int(Fence)).Draw(t, "step"))
	if pn.step == step {
		p.md.nextStep(pn)
	}
	p.step(Input{Op: OpCutPinFailed, Pin: pn.id, Step: step})
}

func (p *pair) seize(t *rapid.T) {
	l := p.drawLease(t)
	if rapid.IntRange(0, 4).Draw(t, "really") != 0 {
		t.Skip("not now")
	}
	p.md.remember()
	p.md.take(l)
	p.step(Input{Op: OpSeize, Lease: l.id})
}

func (md *model) take(l *mLease) {
	for i := range l.has {
		if l.blocks[i] == live {
			l.blocks[i] = cutting
		}
	}
}

// dropOwn submits a change whose caller wants its own pins dropped.
func (p *pair) dropOwn(q *mRequest, in Input) {
	q.dropOwn = true
	kind, _ := p.md.judge(q)
	if kind == refused {
		p.submit(q, in)
		return
	}
	q.dropOwn = false
	p.md.remember()
	for _, pn := range slices.Clone(p.md.pins) {
		if pn.lease.file == q.file && pn.in(q.r) && q.session != 0 && p.md.sameOwner(pn.session, q.session) {
			p.md.drop(pn)
			p.md.serve()
		}
	}
	p.submit(q, in)
}

// claimable says why pins cannot go over to leases: what will not pass by itself first.
func (md *model) claimable(to map[*mPin]*mLease) syscall.Errno {
	busy := syscall.Errno(0)
	for p, l := range to {
		if l == nil {
			return syscall.EPERM
		}
		for _, q := range md.requests {
			if q.r.Overlaps(p.r) && (q.asked[p.lease] != nil || q.asked[l] != nil) {
				busy = syscall.EAGAIN
			}
		}
		if p.cut {
			busy = syscall.EAGAIN
		}
	}
	return busy
}

// sentAwayFirst puts those first, in order of names, whose wait a failed cut ends.
func sentAwayFirst(as []mAnswer) {
	slices.SortStableFunc(as, func(a, b mAnswer) int {
		aw, bw := a.id != 0 && a.errno == syscall.EAGAIN, b.id != 0 && b.errno == syscall.EAGAIN
		switch {
		case aw && bw:
			return int(a.id) - int(b.id)
		case aw:
			return -1
		case bw:
			return 1
		}
		return 0
	})
}
