package arbiter

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
)

// rawEvent is an event as it is kept: without what can be found out when somebody reads it, and without pointers
// to allocate on the way of every grant.
type rawEvent struct {
	seq      uint64
	at       layout.Instant
	deadline layout.Instant
	kind     EventKind
	class    layout.Class
	ask      layout.Ask
	errno    syscall.Errno
	file     extent.Ino
	r        extent.Range
	lease    layout.LeaseID
	leaseSeq uint64
	session  layout.SessionID
	pid      int32
	context  layout.ContextID
	pin      layout.PinID
	change   layout.ChangeID
	reason   string
	blockers []Blocker
}

// kindOf returns how an effect is called in the stream; "" is not told.
func kindOf(e layout.EffectKind) EventKind {
	switch e {
	case layout.Granted:
		return EventGrant
	case layout.Modified:
		return EventModify
	case layout.Denied:
		return EventDeny
	case layout.Queued:
		return EventWait
	case layout.Proceed:
		return EventChange
	case layout.Refused:
		return EventRefuse
	case layout.Notify:
		return EventBreak
	case layout.TimedOut:
		return EventTimeout
	case layout.Returned:
		return EventReturn
	case layout.Cut, layout.CutPin:
		return EventCut
	case layout.Orphaned:
		return EventOrphan
	case layout.StepFailed:
		return EventCutFailed
	case layout.Revoked:
		return EventRevoke
	case layout.Released:
		return EventRelease
	case layout.Transferred:
		return EventTransfer
	case layout.Pinned:
		return EventPin
	case layout.Unpinned:
		return EventUnpin
	case layout.Moved:
		return EventMove
	case layout.Joined:
		return EventShare
	case layout.Left:
		return EventLeave
	}
	return ""
}

// feed numbers events and hands them to subscribers.
type feed struct {
	seq    atomic.Uint64
	anyone atomic.Bool // somebody subscribes

	mu     sync.Mutex // guards what follows, and the order of numbers while somebody subscribes
	subs   []*Subscription
	closed bool
}

// Subscription is a stream of events. Its reader never delays anyone: what does not fit its buffer is dropped and counted.
type Subscription struct {
	// C delivers the events, in the order of their numbers. It is closed by Close.
	C <-chan Event

	arb     *Arbiter
	raw     chan rawEvent
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once
	dropped atomic.Uint64
}

// Dropped returns how many events did not fit the buffer so far.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Close ends the stream and closes C.
func (s *Subscription) Close() {
	s.once.Do(func() {
		f := &s.arb.feed
		f.mu.Lock()
		f.subs = slices.DeleteFunc(f.subs, func(o *Subscription) bool { return o == s })
		f.anyone.Store(len(f.subs) > 0)
		f.mu.Unlock()
		close(s.quit)
		<-s.done
	})
}

// Subscribe starts a stream of what happens from now on, with a buffer for as many events. Close must follow.
func (a *Arbiter) Subscribe(buffer int) *Subscription {
	c := make(chan Event)
	s := &Subscription{
		C: c, arb: a, raw: make(chan rawEvent, max(buffer, 1)), quit: make(chan struct{}), done: make(chan struct{}),
	}
	a.feed.mu.Lock()
	if a.feed.closed {
		close(s.quit)
		s.once.Do(func() {})
	} else {
		a.feed.subs = append(a.feed.subs, s)
		a.feed.anyone.Store(true)
	}
	a.feed.mu.Unlock()
	go s.pump(c)
	return s
}

// pump completes the events, which needs the storage and so cannot be done where they arise.
func (s *Subscription) pump(c chan<- Event) {
	defer close(s.done)
	defer close(c)
	for {
		select {
		case <-s.quit:
			return
		case raw := <-s.raw:
			ev := s.arb.event(raw)
			s.arb.addPath(&ev)
			select {
			case c <- ev:
			case <-s.quit:
				return
			}
		}
	}
}

func (f *feed) close() {
	f.mu.Lock()
	f.closed = true
	subs := slices.Clone(f.subs)
	f.mu.Unlock()
	for _, s := range subs {
		s.Close()
	}
}

// publish numbers the event and hands it to the subscribers.
func (f *feed) publish(raw *rawEvent) {
	if !f.anyone.Load() {
		raw.seq = f.seq.Add(1)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	raw.seq = f.seq.Add(1)
	for _, s := range f.subs {
		select {
		case s.raw <- *raw:
		default:
			s.dropped.Add(1)
		}
	}
}

// keep adds the event to the shard's ring.
// Preconditions: sh.mu is held.
func (sh *shard) keep(raw rawEvent) {
	if len(sh.ring) < cap(sh.ring) {
		sh.ring = append(sh.ring, raw)
		return
	}
	sh.ring[sh.ringAt] = raw
	sh.ringAt = (sh.ringAt + 1) % len(sh.ring)
}

// raw makes an event of an effect.
func (a *Arbiter) raw(now layout.Instant, e *layout.Effect) rawEvent {
	raw := rawEvent{
		at: now, deadline: e.Deadline, kind: kindOf(e.Kind), class: e.Class, ask: e.Ask, errno: e.Errno,
		file: e.File, r: e.Range, lease: e.Lease, leaseSeq: e.Seq, session: e.Session, context: e.Context, pin: e.Pin,
		change: e.Change, reason: e.Reason,
	}
	if e.Step != 0 {
		raw.reason = e.Step.String()
		if e.Reason != "" {
			raw.reason += ": " + e.Reason
		}
	}
	if v, ok := a.sessions.Load(e.Session); ok && e.Session != 0 {
		raw.pid = v.(*session).info.PID
	}
	return raw
}

// record notes an effect.
// Preconditions: sh.mu is held.
func (a *Arbiter) record(sh *shard, now layout.Instant, e *layout.Effect, blockers []Blocker) {
	if kindOf(e.Kind) == "" {
		return
	}
	raw := a.raw(now, e)
	raw.blockers = blockers
	a.feed.publish(&raw)
	sh.keep(raw)
}

// recordAlone notes what is no effect of a machine.
// Preconditions: no shard.mu is held.
func (a *Arbiter) recordAlone(sh *shard, raw rawEvent) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	raw.at = a.now()
	a.feed.publish(&raw)
	sh.keep(raw)
}

// recordRefusal is recordAlone of what was refused, and counts it by reason.
// Preconditions: no shard.mu is held.
func (a *Arbiter) recordRefusal(sh *shard, raw rawEvent, reason string) {
	a.recordAlone(sh, raw)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.tallies.refuse(reason)
}

// recordVain notes a wait that was given up.
// Preconditions: no shard.mu is held.
func (a *Arbiter) recordVain(sh *shard, queued *layout.Effect, r *Refused) {
	raw := a.raw(0, queued)
	raw.kind, raw.errno, raw.reason, raw.blockers = EventDeny, r.Errno, r.Reason, r.Blockers
	if queued.Change != 0 {
		raw.kind = EventRefuse
	}
	a.recordRefusal(sh, raw, "a wait was given up")
}

func (a *Arbiter) recordSession(kind EventKind, s *session) {
	a.recordAlone(a.shards[0], rawEvent{kind: kind, session: s.id, pid: s.info.PID, reason: s.info.Name})
}

func (a *Arbiter) recordContext(kind EventKind, e *contextEntry) {
	a.recordAlone(a.shards[0], rawEvent{
		kind: kind, context: e.id, session: e.session().id, pid: e.session().info.PID, reason: e.info.Kind + " " + e.info.Name,
	})
}

func (a *Arbiter) recordCutFailed(d detach, err error) {
	a.recordAlone(a.shardOf(d.file), rawEvent{kind: EventCutFailed, file: d.file, r: d.r, lease: d.lease, reason: err.Error()})
}

// event completes a kept event, but for its path.
func (a *Arbiter) event(raw rawEvent) Event {
	ev := Event{
		Seq: raw.seq, Time: a.time(raw.at), Kind: raw.kind, File: raw.file, Lease: raw.lease, LeaseSeq: raw.leaseSeq,
		Session: raw.session, PID: raw.pid, Context: raw.context, Pin: raw.pin, Change: raw.change, Class: raw.class,
		Ask: raw.ask, Errno: raw.errno, Reason: raw.reason, Blockers: raw.blockers,
	}
	if !raw.r.Empty() {
		r := RangeOf(raw.r)
		ev.Range = &r
	}
	if raw.deadline != 0 {
		t := a.time(raw.deadline)
		ev.Deadline = &t
	}
	return ev
}

func (a *Arbiter) addPath(ev *Event) {
	if ev.File != 0 {
		ev.Path = a.storage.Path(ev.File)
	}
}

// Recent returns the past events that are still kept, oldest first.
func (a *Arbiter) Recent() []Event {
	var raws []rawEvent
	for _, sh := range a.shards {
		sh.mu.Lock()
		raws = append(raws, sh.ring...)
		sh.mu.Unlock()
	}
	slices.SortFunc(raws, func(a, b rawEvent) int { return cmp.Compare(a.seq, b.seq) })
	evs := make([]Event, len(raws))
	for i, raw := range raws {
		evs[i] = a.event(raw)
		a.addPath(&evs[i])
	}
	return evs
}
