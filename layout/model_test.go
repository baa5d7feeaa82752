package layout

import (
	"slices"
	"syscall"
	"time"

	"holdfast/extent"
)

// model is the machine once more, as simply as can be: every file is eight blocks and the rest to infinity, every question is
// answered by looking at everything, and after each step every request is judged anew.
type model struct {
	leases   []*mLease
	pins     []*mPin
	requests []*mRequest
	dead     map[SessionID]bool
	contexts map[ContextID]SessionID
	now      Instant
	owner    map[SessionID]OwnerID
	breaks   int       // requests on a file that may be breaking at a time
	told     []mAnswer // what the step told whom
	asks     []mAsk    // which holders the step asks for what they hold
	known    []uint64  // requests that were queued before the step
}

const modelBlocks = 9 // the last stands for [8, ∞)

type mLease struct {
	id          LeaseID
	file        extent.Ino
	session     SessionID               // who speaks for it
	holders     []SessionID             // all who hold it
	blocks      [modelBlocks]pieceState // valid where has
	has         [modelBlocks]bool
	access      Access
	mode        Mode
	unbreakable bool
	mapped      bool
	closed      bool
}

type mPin struct {
	id      PinID
	lease   *mLease
	session SessionID
	context ContextID
	r       extent.Range
	gone    [modelBlocks]bool // what is orphaned
	cut     bool
	step    CutStep // that is being tried
	until   Instant
	backoff time.Duration
}

type mRequest struct {
	id          uint64
	kind        requestKind
	state       requestState
	file        extent.Ino
	session     SessionID
	class       Class
	onHold      OnHold
	dropOwn     bool // for as long as its own pins are thought away
	mode        Mode
	access      Access
	unbreakable bool
	abandoned   bool
	queued      bool
	r           extent.Range
	lease       *mLease
	holders     []SessionID
	asked       map[*mLease]*mBreak
	pin         *mPin // that is being orphaned, and what of it
	part        extent.Range
}

type mBreak struct{ start, deadline Instant }

type mAsk struct {
	by   *mRequest
	from *mLease
	ask  Ask
}

type mAnswer struct {
	kind  EffectKind
	id    uint64 // of the request, 0 for an immediate answer
	errno syscall.Errno
}

func mBlock(i int) extent.Range {
	r := extent.Range{Off: int64(i) * extent.BlockSize, End: int64(i+1) * extent.BlockSize}
	if i == modelBlocks-1 {
		r.End = extent.Inf
	}
	return r
}

// remember notes which requests were told a name before the step.
func (md *model) remember() {
	md.known = nil
	for _, q := range md.requests {
		if q.queued {
			md.known = append(md.known, q.id)
		}
	}
}

func (l *mLease) alive() bool { return slices.Contains(l.has[:], true) }

func (l *mLease) touches(r extent.Range, test func(pieceState) bool) bool {
	for i := range l.has {
		if l.has[i] && mBlock(i).Overlaps(r) && test(l.blocks[i]) {
			return true
		}
	}
	return false
}

func anyState(pieceState) bool { return true }

func (md *model) pinned(l *mLease) bool {
	return slices.ContainsFunc(md.pins, func(p *mPin) bool { return p.lease == l && p.in(everything) })
}

// ranges of a request.
func (q *mRequest) ranges() []extent.Range {
	if q.kind != modifying {
		return []extent.Range{q.r}
	}
	var rs []extent.Range
	for i, has := range q.lease.has {
		if has {
			rs = append(rs, mBlock(i))
		}
	}
	return rs
}

// inWay says whether a lease, if broken, must go for q.
func (q *mRequest) inWay(l *mLease, test func(pieceState) bool) bool {
	if l.file != q.file || sameSession(l.sole(), q.session) {
		return false
	}
	if q.kind != changing && q.mode == Shared && l.mode == Shared {
		return false
	}
	return q.touches(l, test)
}

func (q *mRequest) touches(l *mLease, test func(pieceState) bool) bool {
	for _, r := range q.ranges() {
		if l.touches(r, test) {
			return true
		}
	}
	return false
}

func (q *mRequest) comesAfter(p *mRequest) bool {
	if p.file != q.file || !p.r.Overlaps(q.r) {
		return false
	}
	same := sameSession(p.session, q.session)
	switch {
	case p.kind == changing && q.kind == changing:
		return p.state != applying
	case same:
		return false
	case p.kind == changing && p.class == Additive:
		return q.mode == Exclusive
	case p.kind == changing || q.kind == changing:
		return true
	}
	return p.mode == Exclusive || q.mode == Exclusive
}

func (md *model) behind(q *mRequest) bool {
	later := false
	for _, p := range md.requests {
		if p == q {
			later = true
		} else if q.comesAfter(p) && (!later || p.state == applying && q.kind != changing) {
			return true
		}
	}
	return false
}

func (md *model) judge(q *mRequest) (verdictKind, syscall.Errno) {
	const held_ = held
	conflicting, held, otherPins, ownPins, anything := false, false, false, false, false
	for _, l := range md.leases {
		if l.file == q.file && l.touches(q.r, anyState) {
			anything = true
		}
		if !q.inWay(l, anyState) {
			continue
		}
		conflicting = true
		if l.unbreakable && q.inWay(l, isLive) {
			held = true
		}
	}
	for _, p := range md.pins {
		if p.lease.file != q.file {
			continue
		}
		for _, r := range q.ranges() {
			if !p.in(r) {
				continue
			}
			alone := p.session == q.session && p.lease.sole() == q.session
			switch {
			case q.kind == changing && md.sameOwner(p.session, q.session):
				ownPins = true
			case q.kind == changing, q.mode == Exclusive && !alone, q.inWay(p.lease, anyState):
				otherPins = true
			}
		}
	}
	if q.kind != changing {
		switch {
		case q.kind == modifying && !q.lease.alive():
			return refused, syscall.ENOENT
		case q.kind == modifying && md.broken(q.lease):
			return refused, syscall.EAGAIN
		case held || otherPins:
			return refused, syscall.EBUSY
		case md.behind(q), conflicting && md.crowded(q):
			return afterThat, 0
		case conflicting:
			return conflict, 0
		}
		return clearWay, 0
	}
	switch {
	case q.class == Additive:
		for _, l := range md.leases {
			if l.file == q.file && l.mode == Exclusive && !sameSession(l.sole(), q.session) && l.touches(q.r, anyState) {
				return refused, syscall.ETXTBSY
			}
		}
		return clearWay, 0
	case q.class == Moving:
		if anything || md.behind(q) {
			return refused, syscall.EBUSY
		}
		return clearWay, 0
	case ownPins && !q.dropOwn && (!otherPins || q.onHold != Fail):
		return refused, syscall.EDEADLK
	case (held || otherPins) && q.onHold == Wait:
		return held_, 0
	case (held || otherPins) && q.onHold == Fail:
		return refused, syscall.ETXTBSY
	case otherPins && q.onHold == Defer && !md.behind(q):
		return orphans, 0
	case md.behind(q), (conflicting || otherPins) && md.crowded(q):
		return afterThat, 0
	case conflicting, otherPins:
		return conflict, 0
	}
	return clearWay, 0
}

// sameOwner says whose pins are own to a change. A session of which nothing is left is forgotten, and with it whose it was.
func (md *model) sameOwner(a, b SessionID) bool {
	return sameSession(a, b) || b != 0 && md.owner[a] != 0 && md.owner[a] == md.owner[b] && !md.gone(b)
}

func (md *model) gone(s SessionID) bool {
	for _, owner := range md.contexts {
		if owner == s {
			return false
		}
	}
	return md.dead[s] && !slices.ContainsFunc(md.leases, func(l *mLease) bool { return l.heldBy(s) && l.alive() })
}

func (md *model) crowded(q *mRequest) bool {
	n := 0
	for _, p := range md.requests {
		if p.file == q.file && len(p.asked) > 0 {
			n++
		}
	}
	return n >= md.breaks
}

func (md *model) broken(l *mLease) bool {
	return slices.ContainsFunc(md.requests, func(q *mRequest) bool { return q.asked[l] != nil && q.stillInWay(l) })
}

// serve looks at all requests in order until none moves.
func (md *model) serve() {
	for _, q := range md.requests {
		for l := range q.asked {
			if !q.stillInWay(l) {
				delete(q.asked, l)
			}
		}
	}
	for _, q := range slices.Clone(md.requests) {
		if q.state >= deferring || len(q.asked) > 0 {
			continue // a break goes on until all have answered
		}
		if q.abandoned {
			md.requests = slices.DeleteFunc(md.requests, func(p *mRequest) bool { return p == q })
		} else if kind, errno := md.judge(q); !md.act(q, kind, errno) {
			md.requests = slices.DeleteFunc(md.requests, func(p *mRequest) bool { return p == q })
		}
	}
	md.leases = slices.DeleteFunc(md.leases, func(l *mLease) bool { return !l.alive() })
}

// act does what the verdict says, and reports whether q stays.
func (md *model) act(q *mRequest, kind verdictKind, errno syscall.Errno) bool {
	switch kind {
	case refused:
		md.tell(q, Denied, errno)
		return false
	case clearWay:
		q.holders = nil
		md.tell(q, Granted, 0)
		switch q.kind {
		case acquiring:
			l := &mLease{file: q.file, session: q.session, holders: []SessionID{q.session}, access: q.access, mode: q.mode, unbreakable: q.unbreakable}
			for i := range l.has {
				l.has[i] = mBlock(i).Overlaps(q.r)
			}
			md.leases = append(md.leases, l)
		case modifying:
			q.lease.access, q.lease.mode, q.lease.unbreakable = q.access, q.mode, q.unbreakable
		default:
			q.state = applying
			return true
		}
		return false
	case orphans:
		q.state, q.holders = deferring, nil
		return true
	case conflict:
		q.state, q.holders = breaking, nil
		for _, l := range md.leases {
			if q.asked[l] == nil && (q.inWay(l, anyState) || md.pinnedByOthers(l, q)) {
				q.asked[l] = &mBreak{md.now, md.now.Add(modelBreakTime)}
				switch {
				case !md.answerable(l, q):
					md.cutFor(q, l)
				case q.touches(l, isLive):
					md.asks = append(md.asks, mAsk{q, l, md.ask(l, q)})
				}
			}
		}
		return true
	}
	q.state = waiting
	q.holders = md.findHolders(q, kind == held)
	if q.session != 0 && md.reaches(q.holders, q.session, map[SessionID]bool{}) {
		md.tell(q, Denied, syscall.EDEADLK)
		return false
	}
	return true
}

const modelBreakTime = 10 * time.Second

func (md *model) tell(q *mRequest, kind EffectKind, errno syscall.Errno) {
	a := mAnswer{kind, 0, errno}
	if q.queued {
		a.id = q.id
	}
	md.told = append(md.told, a)
}

func (md *model) findHolders(q *mRequest, held bool) []SessionID {
	var ids []SessionID
	if held {
		for _, l := range md.leases {
			if l.unbreakable && q.inWay(l, isLive) {
				ids = append(ids, l.holders...)
			}
		}
		for _, p := range md.pins {
			if p.lease.file == q.file && p.in(q.r) && !sameSession(p.session, q.session) {
				ids = append(ids, p.session)
			}
		}
	}
	for _, p := range md.requests {
		if p == q {
			break
		}
		if q.comesAfter(p) {
			ids = append(ids, p.holders...)
		}
	}
	return ids
}

func (md *model) reaches(holders []SessionID, s SessionID, seen map[SessionID]bool) bool {
	for _, h := range holders {
		if h == s {
			return true
		}
		if seen[h] {
			continue
		}
		seen[h] = true
		for _, q := range md.requests {
			if q.session == h && md.reaches(q.holders, s, seen) {
				return true
			}
		}
	}
	return false
}

func (md *model) cutFor(q *mRequest, l *mLease) {
	q.asked[l].deadline = -1
	for i := range l.has {
		for _, r := range q.ranges() {
			if l.has[i] && l.blocks[i] == live && mBlock(i).Overlaps(r) {
				l.blocks[i] = cutting
			}
		}
	}
}

// giveBack takes the live blocks in r.
func (md *model) giveBack(l *mLease, r extent.Range) {
	for i := range l.has {
		if l.has[i] && l.blocks[i] == live && mBlock(i).Overlaps(r) {
			l.has[i], l.blocks[i] = l.mapped, unmapping
		}
	}
}
