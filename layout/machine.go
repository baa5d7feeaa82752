package layout

import (
	"math/bits"
	"slices"
	"syscall"
	"time"

	"holdfast/extent"
)

const (
	defaultBreakTime = 45 * time.Second
	defaultStepTime  = 10 * time.Second
	minBackoff       = time.Second
	maxBackoff       = 30 * time.Second
	defaultMaxBreaks = 64
	maxPooled        = 256 // of each kind that is kept for reuse
)

// Config sets up a Machine.
type Config struct {
	// FirstID is the first name handed out, Stride the step to the next one: machines of several shards
	// name apart, and id % Stride tells the shard.
	FirstID, Stride uint64
	// BreakTime is how long a holder has to answer; 0 means 45 s.
	BreakTime time.Duration
	// MaxBreakTime bounds what visible progress may stretch it to; 0 means twice BreakTime.
	MaxBreakTime time.Duration
	// StepTime is how long a step of the cut of a pin may take; 0 means 10 s.
	StepTime time.Duration
	// AllowKill lets the last step of a cut kill the session.
	AllowKill bool
	// MaxBreaks is how many requests on one file may be breaking leases at a time; 0 means 64. What would need a further break
	// waits until one is over: a break goes on when nobody waits for it any more, so who gives up again and again would pile
	// them up.
	MaxBreaks int
	// Waits is shared by all machines of an arbiter; nil gives the machine its own.
	Waits *Waits
}

// Machine is the state of one shard of files.
type Machine struct {
	cfg      Config
	nextID   uint64
	now      Instant
	files    table[file]
	leases   table[lease]
	pins     map[PinID]*pin
	sessions table[session]
	owners   map[OwnerID][]*session // of those that share one: their sessions
	contexts map[ContextID]*context
	queued   map[uint64]*request // those that could not be served at once, and were not told yet
	timers   timers
	slots    []uint32 // of sessions that are gone
	lastSlot uint32
	out      []Effect

	freeFiles    []*file
	freeLeases   []*lease
	freeRequests []*request
}

// file is what the machine knows of one file. It exists while anything is in it.
type file struct {
	ino        extent.Ino
	leases     tree[lease] // their pieces
	pins       tree[pin]
	head, tail *request // in the order in which they came
	breaking   int      // requests with breaks that are not answered
}

// session is the unit of identity. slot is its short name within the machine.
type session struct {
	id                     SessionID
	owner                  OwnerID
	slot                   uint32
	dead                   bool
	leases, contexts, pins int
	joined                 []*lease // of those that it holds, the shared ones
}

// context stands for a subsystem object.
type context struct {
	id      ContextID
	session *session
	can     Abilities
	pins    *pin
}

// New returns an empty machine.
func New(cfg Config) *Machine {
	if cfg.FirstID == 0 {
		cfg.FirstID = max(cfg.Stride, 1)
	}
	cfg.Stride = max(cfg.Stride, 1)
	if cfg.BreakTime <= 0 {
		cfg.BreakTime = defaultBreakTime
	}
	if cfg.MaxBreakTime <= 0 {
		cfg.MaxBreakTime = 2 * cfg.BreakTime
	}
	if cfg.StepTime <= 0 {
		cfg.StepTime = defaultStepTime
	}
	if cfg.MaxBreaks <= 0 {
		cfg.MaxBreaks = defaultMaxBreaks
	}
	if cfg.Waits == nil {
		cfg.Waits = NewWaits()
	}
	return &Machine{
		cfg:      cfg,
		nextID:   cfg.FirstID,
		leases:   table[lease]{unit: uint8(bits.TrailingZeros64(cfg.Stride))},
		pins:     map[PinID]*pin{},
		contexts: map[ContextID]*context{},
		owners:   map[OwnerID][]*session{},
		queued:   map[uint64]*request{},
	}
}

// Step takes one input and returns its effects, in the order in which they are to be carried out.
// The slice is valid until the next Step.
func (m *Machine) Step(now Instant, in *Input) []Effect {
	m.now = now
	for i := range m.out {
		e := &m.out[i] // not clear, which calls: there are one or two
		*e = Effect{}
	}
	m.out = m.out[:0]
	switch in.Op {
	case OpAcquire:
		m.acquire(in)
	case OpModify:
		m.modify(in)
	case OpReturn:
		m.giveBack(in)
	case OpCloseLease:
		m.closeLease(in)
	case OpMapped:
		m.mapped(in)
	case OpUnmapped, OpCutDone:
		m.detached(in)
	case OpUnmapFailed, OpCutFailed:
		m.detachFailed(in)
	case OpCutPinDone:
		m.pinCutDone(in)
	case OpCutPinFailed:
		m.pinCutFailed(in)
	case OpOrphaned, OpOrphanFailed:
		m.deferred(in)
	case OpSeize:
		m.seize(in)
	case OpOpenSession:
		m.openSession(in)
	case OpEndSession:
		m.endSession(in)
	case OpRegister:
		m.register(in)
	case OpCloseContext:
		m.closeContext(in)
	case OpPin:
		m.pin(in)
	case OpUnpin:
		m.unpin(in)
	case OpClaim:
		m.claim(in)
	case OpShare:
		m.share(in)
	case OpBreak:
		m.change(in)
	case OpDone:
		m.done(in)
	case OpAbandon:
		m.abandon(in)
	case OpTick:
		m.tick()
	case OpRestore:
		m.restore(in)
	case OpResume:
		m.resume(in)
	default:
		m.deny(in, syscall.EINVAL, "no such input")
	}
	return m.out
}

func (m *Machine) emit(e Effect) { *m.effect() = e }

// effect adds an empty effect, to be filled in before the next. What is emitted all the time is not copied there.
func (m *Machine) effect() *Effect {
	if n := len(m.out); n < cap(m.out) {
		m.out = m.out[:n+1]
	} else {
		m.out = append(m.out, Effect{})
	}
	return &m.out[len(m.out)-1]
}

// deny refuses an input of which nothing was begun.
func (m *Machine) deny(in *Input, errno syscall.Errno, reason string) {
	e := Effect{
		Kind: Denied, Errno: errno, Reason: reason, File: in.File, Range: in.Range, Session: in.Session,
		Lease: in.Lease, Context: in.Context, Pin: in.Pin, Access: in.Access, Mode: in.Mode,
	}
	if l := m.leases.get(uint64(in.Lease)); l != nil {
		e.File = l.file.ino
	}
	m.emit(e)
}

func (m *Machine) newID() uint64 {
	id := m.nextID
	m.nextID += m.cfg.Stride
	return id
}

// file returns the file's record, making it if need be. What finds nothing to put in must call drop.
func (m *Machine) file(ino extent.Ino) *file {
	f := m.files.get(uint64(ino))
	if f == nil {
		if n := len(m.freeFiles); n > 0 {
			f, m.freeFiles = m.freeFiles[n-1], m.freeFiles[:n-1]
		} else {
			f = &file{}
		}
		f.ino = ino
		m.files.put(uint64(ino), f)
	}
	return f
}

// drop forgets the file if nothing is in it.
func (m *Machine) drop(f *file) {
	if f.leases.n > 0 || f.pins.n > 0 || f.head != nil {
		return
	}
	m.files.remove(uint64(f.ino))
	if len(m.freeFiles) < maxPooled {
		m.freeFiles = append(m.freeFiles, f)
	}
}

func (m *Machine) openSession(in *Input) {
	if in.Session == 0 || m.sessions.get(uint64(in.Session)) != nil {
		m.deny(in, syscall.EINVAL, "the session is known already")
		return
	}
	s := &session{id: in.Session, owner: in.Owner}
	if n := len(m.slots); n > 0 {
		s.slot, m.slots = m.slots[n-1], m.slots[:n-1]
	} else {
		m.lastSlot++
		s.slot = m.lastSlot
	}
	m.sessions.put(uint64(s.id), s)
	if s.owner != 0 {
		m.owners[s.owner] = append(m.owners[s.owner], s)
	}
}

// endSession denies what the session waits for, and does not wait for it any more.
func (m *Machine) endSession(in *Input) {
	s := m.sessions.get(uint64(in.Session))
	if s == nil || s.dead {
		m.deny(in, syscall.ESRCH, "no such session")
		return
	}
	s.dead = true
	for _, l := range s.joined {
		l.promote()
	}
	for _, id := range m.queuedIDs() {
		if q := m.queued[id]; q != nil && q.kind != changing && q.session == s.id {
			f := q.file
			m.refuse(q, syscall.ESRCH, "the session has ended")
			m.advance(f)
			m.drop(f)
		}
	}
	var asked []*brk
	for _, t := range m.timers {
		if t.brk != nil && t.brk.lease.session == s {
			asked = append(asked, t.brk)
		}
	}
	for _, b := range asked {
		m.cutLate(b)
	}
	m.dropSession(s)
}

// queuedIDs lists the queue in order of names, so that a run can be repeated exactly.
func (m *Machine) queuedIDs() []uint64 {
	ids := make([]uint64, 0, len(m.queued))
	for id := range m.queued {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// dropSession forgets a session that is dead and has nothing left.
func (m *Machine) dropSession(s *session) {
	if !s.dead || s.leases > 0 || s.contexts > 0 {
		return
	}
	m.sessions.remove(uint64(s.id))
	if rest := slices.DeleteFunc(m.owners[s.owner], func(o *session) bool { return o == s }); len(rest) > 0 {
		m.owners[s.owner] = rest
	} else {
		delete(m.owners, s.owner)
	}
	m.slots = append(m.slots, s.slot)
	m.emit(Effect{Kind: Ended, Session: s.id})
}

// slot returns the short name of a session, 0 if it holds nothing here.
func (m *Machine) slot(id SessionID) uint32 {
	if id == 0 {
		return 0
	}
	if s := m.sessions.get(uint64(id)); s != nil {
		return s.slot
	}
	return 0
}

func (m *Machine) slotOf(q *request) uint32 {
	if q.owner != nil {
		return q.owner.slot
	}
	return m.slot(q.session)
}

func (m *Machine) register(in *Input) {
	s := m.sessions.get(uint64(in.Session))
	switch {
	case s == nil || s.dead:
		m.deny(in, syscall.ESRCH, "no such session")
	case in.Context == 0 || m.contexts[in.Context] != nil:
		m.deny(in, syscall.EINVAL, "the context is known already")
	default:
		m.contexts[in.Context] = &context{id: in.Context, session: s, can: in.Can}
		s.contexts++
	}
}

func (m *Machine) closeContext(in *Input) {
	c := m.contexts[in.Context]
	if c == nil {
		m.deny(in, syscall.ENOENT, "no such context")
		return
	}
	for c.pins != nil {
		m.dropPin(c.pins)
	}
	delete(m.contexts, c.id)
	c.session.contexts--
	m.emit(Effect{Kind: Ended, Context: c.id})
	m.dropSession(c.session)
}

// NextDeadline returns when the next OpTick is due.
func (m *Machine) NextDeadline() (Instant, bool) {
	if len(m.timers) == 0 {
		return 0, false
	}
	return m.timers[0].at, true
}

// checkRange returns r rounded out to blocks, or false.
func checkRange(r extent.Range) (extent.Range, bool) {
	if r.Off < 0 || r.Empty() {
		return r, false
	}
	return r.RoundOut(), true
}
