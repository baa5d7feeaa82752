package layout

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/extent"
	"pgregory.net/rapid"
)

// TestMachineAgainstModel steps the machine and the model together and compares all that can be seen, after every step.
func TestMachineAgainstModel(t *testing.T) {
	for range 20 { // a hundred runs are few for so many rules
		rapid.Check(t, checkPair)
	}
}

func checkPair(t *rapid.T) {
	breaks := rapid.SampledFrom([]int{1, 2, 64}).Draw(t, "breaks at a time")
	p := &pair{
		t: t, m: New(Config{BreakTime: modelBreakTime, MaxBreakTime: modelBreakTime, MaxBreaks: breaks, StepTime: modelStepTime}),
		md: &model{dead: map[SessionID]bool{}, contexts: map[ContextID]SessionID{}, owner: map[SessionID]OwnerID{}, breaks: breaks},
	}
	if rapid.Bool().Draw(t, "two sessions of one process") {
		p.md.owner[1], p.md.owner[2] = 7, 7
	}
	for s := SessionID(1); s <= 3; s++ {
		p.m.Step(0, &Input{Op: OpOpenSession, Session: s, Owner: p.md.owner[s]})
		p.register(s)
	}
	t.Repeat(map[string]func(*rapid.T){
		"acquire": p.acquire, "acquire2": p.acquire, "return": p.giveBack, "close": p.closeLease, "modify": p.modify, "mapped": p.mapped,
		"pin": p.pin, "unpin": p.unpin, "break": p.change, "break2": p.change, "done": p.done, "abandon": p.abandon,
		"detached": p.detached, "tick": p.tick, "end": p.endSession, "close context": p.closeContext,
		"share": p.share, "claim": p.claim, "cut done": p.detached, "pin cut": p.pinCut, "seize": p.seize, "orphan": p.orphan, "orphan2": p.orphan, "": p.compare,
	})
}

func (p *pair) register(s SessionID) {
	p.m.Step(p.md.now, &Input{Op: OpRegister, Session: s, Context: ContextID(s), Can: modelContexts[s]})
	p.md.contexts[ContextID(s)] = s
}

type pair struct {
	t  *rapid.T
	m  *Machine
	md *model
}

func (p *pair) drawRange(t *rapid.T) extent.Range {
	from := rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 3, modelBlocks - 2}).Draw(t, "from")
	to := rapid.SampledFrom([]int{from, from, from + 1, modelBlocks - 1}).Draw(t, "to")
	return extent.Range{Off: mBlock(from).Off, End: mBlock(to).End}
}

func (p *pair) drawLease(t *rapid.T) *mLease {
	if len(p.md.leases) == 0 {
		t.Skip("no lease")
	}
	return rapid.SampledFrom(p.md.leases).Draw(t, "lease")
}

// step runs the input, lets the model serve its requests, and compares the answers.
func (p *pair) step(in Input) {
	p.md.serve()
	var orphans []string
	var got []mAnswer
	var leases []LeaseID
	var asks []string
	name := uint64(0)
	for _, e := range p.m.Step(p.md.now, &in) {
		id := uint64(e.Request) | uint64(e.Change)
		switch e.Kind {
		case Granted:
			leases = append(leases, e.Lease)
			got = append(got, mAnswer{Granted, id, 0})
		case Modified:
			got = append(got, mAnswer{Granted, id, 0})
		case Proceed:
			if p.md.isQueued(id) {
				got = append(got, mAnswer{Granted, id, 0})
			} else {
				got = append(got, mAnswer{Granted, 0, 0})
				name = id
			}
		case Denied, Refused:
			if !p.md.isQueued(id) {
				id = 0 // refused where it would have been queued, as a deadlock
			}
			got = append(got, mAnswer{Denied, id, e.Errno})
		case Queued:
			name = id
		case Orphan:
			orphans = append(orphans, fmt.Sprintf("pin %d %v for request %d", e.Pin, e.Range, id))
		case Notify:
			asks = append(asks, fmt.Sprintf("lease %d for request %d: %v", e.Lease, id, e.Ask))
		}
	}
	want := p.md.told
	p.md.told = nil
	if in.Op == OpTick { // cuts that fail at the same time
		sentAwayFirst(got)
		sentAwayFirst(want)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.t.Fatalf("%+v:\nmachine answers %v\nmodel expects   %v", in, got, want)
	}
	i := 0
	for _, l := range p.md.leases {
		if l.id == 0 {
			l.id = leases[i]
			i++
		}
	}
	for _, q := range p.md.requests {
		if q.id == 0 {
			q.id = name
		}
		q.queued = q.queued || q.state != applying
	}
	p.compareAsks(asks)
	p.compareOrphans(orphans)
}

// compareAsks checks invariant 6: every holder in the way is told, not only one, and each once.
func (p *pair) compareAsks(got []string) {
	var want []string
	for _, a := range p.md.asks {
		want = append(want, fmt.Sprintf("lease %d for request %d: %v", a.from.id, a.by.id, a.ask))
	}
	p.md.asks = nil
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.t.Fatalf("invariant 6: told were %v, in the way are %v", got, want)
	}
}

func (md *model) isQueued(id uint64) bool {
	return id != 0 && slices.Contains(md.known, id)
}

// compare holds everything visible against the model, and checks the invariants.
func (p *pair) compare(t *rapid.T) {
	if err := CheckInvariants(p.m); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, l := range p.m.Leases(0) {
		var blocks [modelBlocks]byte
		for i := range blocks {
			blocks[i] = '.'
			for _, pc := range p.m.leases.get(uint64(l.ID)).pieces() {
				if pc.Overlaps(mBlock(i)) {
					blocks[i] = "luCfF"[pc.state]
				}
			}
		}
		got = append(got, fmt.Sprintf("%d %d %d %s %v %v %v %v", l.ID, l.File, l.Session, blocks, l.Access, l.Mode, l.Unbreakable, l.Closed)+fmt.Sprint(l.Holders))
	}
	for _, l := range p.md.leases {
		var blocks [modelBlocks]byte
		for i := range blocks {
			blocks[i] = '.'
			if l.has[i] {
				blocks[i] = "luCfF"[l.blocks[i]]
			}
		}
		want = append(want, fmt.Sprintf("%d %d %d %s %v %v %v %v", l.id, l.file, l.session, blocks, l.access, l.mode, l.unbreakable, l.closed)+fmt.Sprint(l.several()))
	}
	for ino := extent.Ino(1); ino <= 2; ino++ {
		if f := p.m.files.get(uint64(ino)); f != nil {
			for q := f.head; q != nil; q = q.next {
				got = append(got, fmt.Sprintf("request %d %d %v", q.id, q.state, q.abandoned))
			}
		}
		for _, q := range p.md.requests {
			if q.file == ino {
				want = append(want, fmt.Sprintf("request %d %d %v", q.id, q.state, q.abandoned))
			}
		}
	}
	for _, pn := range p.m.Pins(0) {
		got = append(got, fmt.Sprintf("pin %d %d %d %v %v %v %v", pn.ID, pn.Lease, pn.Session, pn.Range, pn.Cutting, pn.Step, pn.Deadline)+fmt.Sprint(orphanedBlocks(pn.Orphaned)))
	}
	for _, pn := range p.md.pins {
		want = append(want, fmt.Sprintf("pin %d %d %d %v %v %v %v", pn.id, pn.lease.id, pn.session, pn.r, pn.cut, pn.step, pn.until)+fmt.Sprint(pn.gone))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("machine:\n%s\nmodel:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// submit is what both do with a new request.
func (p *pair) submit(q *mRequest, in Input) {
	md := p.md
	md.remember()
	q.asked = map[*mLease]*mBreak{}
	kind, errno := md.judge(q)
	if in.NoWait && kind != clearWay && kind != refused {
		kind, errno = refused, syscall.EAGAIN
	}
	md.requests = append(md.requests, q)
	if !md.act(q, kind, errno) {
		md.requests = md.requests[:len(md.requests)-1]
	}
	p.step(in)
}

func (p *pair) acquire(t *rapid.T) {
	in := Input{
		Op: OpAcquire, Session: SessionID(rapid.IntRange(1, 3).Draw(t, "session")), File: extent.Ino(1 + rapid.IntRange(0, 4).Draw(t, "file")/4),
		Range: p.drawRange(t), Access: Access(rapid.IntRange(0, 1).Draw(t, "access")), NoWait: rapid.Bool().Draw(t, "nowait"),
		Mode: Mode(rapid.IntRange(0, 3).Draw(t, "mode") / 3), Unbreakable: rapid.IntRange(0, 3).Draw(t, "unbreakable") == 0,
	}
	if p.md.dead[in.Session] {
		t.Skip("dead")
	}
	p.submit(&mRequest{
		kind: acquiring, file: in.File, session: in.Session, r: in.Range, mode: in.Mode, access: in.Access, unbreakable: in.Unbreakable,
	}, in)
}

func (p *pair) change(t *rapid.T) {
	in := Input{
		Op: OpBreak, Session: SessionID(rapid.IntRange(0, 3).Draw(t, "session")), File: extent.Ino(1 + rapid.IntRange(0, 4).Draw(t, "file")/4),
		Range: p.drawRange(t), Class: rapid.SampledFrom([]Class{Subtractive, Subtractive, Subtractive, Additive, Moving}).Draw(t, "class"),
		OnHold: rapid.SampledFrom([]OnHold{Fail, Wait, Revoke, Revoke, Defer}).Draw(t, "on hold"), DropOwn: rapid.IntRange(0, 5).Draw(t, "drop own") == 0,
	}
	q := &mRequest{kind: changing, file: in.File, session: in.Session, r: in.Range, class: in.Class, onHold: in.OnHold}
	if in.DropOwn && in.Class == Subtractive {
		p.dropOwn(q, in)
		return
	}
	p.submit(q, in)
}

func (p *pair) modify(t *rapid.T) {
	l := p.drawLease(t)
	in := Input{
		Op: OpModify, Session: l.session, Lease: l.id, Access: Write, Mode: Mode(rapid.IntRange(0, 1).Draw(t, "mode")),
		Unbreakable: rapid.IntRange(0, 3).Draw(t, "unbreakable") == 0, NoWait: rapid.Bool().Draw(t, "nowait"),
	}
	if l.closed || p.md.dead[l.session] {
		t.Skip("closed")
	}
	if len(l.holders) > 1 {
		p.md.remember()
		p.md.told = append(p.md.told, mAnswer{Denied, 0, syscall.EBUSY})
		p.step(in)
		return
	}
	q := &mRequest{kind: modifying, file: l.file, session: l.session, lease: l, mode: in.Mode, access: in.Access, unbreakable: in.Unbreakable}
	rs := q.ranges()
	q.r = extent.Range{Off: rs[0].Off, End: rs[len(rs)-1].End}
	if in.Mode > l.mode || in.Unbreakable && !l.unbreakable {
		p.submit(q, in)
		return
	}
	p.md.remember()
	p.md.act(q, clearWay, 0)
	p.step(in)
}

func (p *pair) giveBack(t *rapid.T) {
	l, r := p.drawLease(t), p.drawRange(t)
	in := Input{Op: OpReturn, Session: rapid.SampledFrom(l.holders).Draw(t, "holder"), Lease: l.id, Range: r}
	p.md.remember()
	if slices.ContainsFunc(p.md.pins, func(pn *mPin) bool { return pn.lease == l && pn.in(r) }) {
		p.md.told = append(p.md.told, mAnswer{Denied, 0, syscall.EBUSY})
	} else {
		p.md.giveBack(l, r)
	}
	p.step(in)
}

func (p *pair) closeLease(t *rapid.T) {
	l := p.drawLease(t)
	if l.closed {
		t.Skip("closed")
	}
	in := Input{Op: OpCloseLease, Lease: l.id}
	p.md.remember()
	if len(l.holders) > 1 && rapid.Bool().Draw(t, "one of them") {
		in.Session = rapid.SampledFrom(l.holders).Draw(t, "holder")
		p.md.leave(l, in.Session)
		p.step(in)
		return
	}
	l.closed = true
	if rapid.IntRange(0, 3).Draw(t, "abort") == 0 {
		in.OnClose = Abort
	}
	if in.OnClose == Abort && p.md.pinned(l) {
		p.md.take(l)
		p.step(in)
		return
	}
	if !p.md.pinned(l) {
		p.md.giveBack(l, everything)
	} else {
		for _, q := range p.md.requests {
			if q.asked[l] != nil && !p.md.answerable(l, q) {
				p.md.cutFor(q, l)
			}
		}
	}
	p.step(in)
}

func (p *pair) mapped(t *rapid.T) {
	l := p.drawLease(t)
	l.mapped = true
	p.md.remember()
	p.step(Input{Op: OpMapped, Lease: l.id})
}

func (p *pair) detached(t *rapid.T) {
	l, r := p.drawLease(t), p.drawRange(t)
	in := Input{Op: rapid.SampledFrom([]Op{OpUnmapped, OpCutDone}).Draw(t, "op"), Lease: l.id, Range: r}
	p.md.remember()
	if in.Op == OpCutDone {
		p.md.cutDone(l, r)
		p.step(in)
		return
	}
	for i := range l.has {
		if l.has[i] && mBlock(i).Overlaps(r) && l.blocks[i] == unmapping {
			l.has[i] = false
		}
	}
	p.step(in)
}

func (p *pair) pin(t *rapid.T) {
	l, r := p.drawLease(t), p.drawRange(t)
	c := ContextID(rapid.IntRange(1, 3).Draw(t, "context"))
	by := p.md.contexts[c]
	if l.closed || p.md.dead[by] || !l.heldBy(by) {
		t.Skip("closed, or not his")
	}
	in := Input{Op: OpPin, Session: by, Lease: l.id, Context: c, Range: r}
	p.md.remember()
	errno := syscall.Errno(0)
	for i := range l.has {
		if mBlock(i).Overlaps(r) && (!l.has[i] || l.blocks[i] != live) {
			errno = syscall.EINVAL
		}
	}
	for _, q := range p.md.requests {
		bars := q.kind == changing && q.class != Additive ||
			q.kind != changing && !sameSession(q.session, l.sole()) && (q.mode == Exclusive || l.mode == Exclusive)
		if q.file == l.file && q.r.Overlaps(r) && (bars || q.asked[l] != nil) {
			errno = syscall.EAGAIN
		}
	}
	if errno != 0 {
		p.md.told = append(p.md.told, mAnswer{Denied, 0, errno})
		p.step(in)
		return
	}
	p.step(in)
	for _, pn := range p.m.Pins(0) {
		if !slices.ContainsFunc(p.md.pins, func(o *mPin) bool { return o.id == pn.ID }) {
			p.md.pins = append(p.md.pins, &mPin{id: pn.ID, lease: l, session: by, context: in.Context, r: r})
		}
	}
}

func (p *pair) drop(pn *mPin) {
	p.md.drop(pn)
}

func (p *pair) unpin(t *rapid.T) {
	if len(p.md.pins) == 0 {
		t.Skip("no pin")
	}
	pn := rapid.SampledFrom(p.md.pins).Draw(t, "pin")
	p.md.remember()
	p.drop(pn)
	p.step(Input{Op: OpUnpin, Session: pn.session, Pin: pn.id})
}

func (p *pair) closeContext(t *rapid.T) {
	c := ContextID(rapid.IntRange(1, 3).Draw(t, "context"))
	if p.m.contexts[c] == nil || rapid.IntRange(0, 4).Draw(t, "really") != 0 {
		t.Skip("not now")
	}
	for i := len(p.md.pins) - 1; i >= 0; i-- { // one at a time: each may let somebody go on
		if pn := p.md.pins[i]; pn.context == c {
			p.md.remember()
			p.drop(pn)
			p.step(Input{Op: OpUnpin, Session: pn.session, Pin: pn.id})
		}
	}
	p.m.Step(p.md.now, &Input{Op: OpCloseContext, Context: c})
	delete(p.md.contexts, c)
	if s := SessionID(c); !p.md.dead[s] {
		p.register(s)
	}
}

func (p *pair) done(t *rapid.T) {
	var ids []*mRequest
	for _, q := range p.md.requests {
		if q.state == applying {
			ids = append(ids, q)
		}
	}
	if len(ids) == 0 {
		t.Skip("no change")
	}
	q := rapid.SampledFrom(ids).Draw(t, "change")
	p.md.remember()
	p.md.requests = slices.DeleteFunc(p.md.requests, func(o *mRequest) bool { return o == q })
	p.step(Input{Op: OpDone, File: q.file, Change: ChangeID(q.id)})
}

func (p *pair) abandon(t *rapid.T) {
	var ids []*mRequest
	for _, q := range p.md.requests {
		if q.state != applying && !q.abandoned {
			ids = append(ids, q)
		}
	}
	if len(ids) == 0 {
		t.Skip("nobody waits")
	}
	q := rapid.SampledFrom(ids).Draw(t, "request")
	p.md.remember()
	if q.state == breaking || q.state == deferring {
		q.abandoned = true
	} else {
		p.md.requests = slices.DeleteFunc(p.md.requests, func(o *mRequest) bool { return o == q })
	}
	p.step(Input{Op: OpAbandon, File: q.file, Change: ChangeID(q.id)})
}

func (p *pair) tick(t *rapid.T) {
	p.md.now = p.md.now.Add(time.Duration(rapid.IntRange(1, 8).Draw(t, "seconds")) * time.Second)
	p.md.remember()
	for _, q := range p.md.requests {
		for l, b := range q.asked {
			if b.deadline >= 0 && b.deadline <= p.md.now {
				p.md.cutFor(q, l)
			}
		}
	}
	for _, pn := range p.md.pins {
		if pn.cut && pn.until <= p.md.now {
			p.md.nextStep(pn)
		}
	}
	p.step(Input{Op: OpTick})
}

func (p *pair) endSession(t *rapid.T) {
	s := SessionID(rapid.IntRange(1, 3).Draw(t, "session"))
	if p.md.dead[s] || rapid.IntRange(0, 9).Draw(t, "really") != 0 {
		t.Skip("not now")
	}
	// The machine refuses one request after the other, and serves in between; the model does the same by single steps.
	p.md.remember()
	p.md.dead[s] = true
	for _, l := range p.md.leases {
		p.md.promote(l)
	}
	for _, q := range slices.Clone(p.md.requests) {
		if q.session == s && q.kind != changing && !q.abandoned && slices.Contains(p.md.requests, q) {
			p.md.tell(q, Denied, syscall.ESRCH)
			p.md.requests = slices.DeleteFunc(p.md.requests, func(o *mRequest) bool { return o == q })
			p.md.serve()
		}
	}
	for _, q := range p.md.requests {
		for l := range q.asked {
			if l.session == s {
				p.md.cutFor(q, l)
			}
		}
	}
	p.step(Input{Op: OpEndSession, Session: s})
}
