package arbiter

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

const (
	defaultShards    = 64
	defaultMountWait = time.Second
	defaultStepTime  = 10 * time.Second
	defaultEvents    = 4096
	never            = layout.Instant(math.MaxInt64)
)

// Config sets up an Arbiter. The zero value is usable.
type Config struct {
	Shards       int           // default 64
	Clock        Clock         // default: the system's
	BreakTime    time.Duration // default 45 s
	MaxBreakTime time.Duration // what progress may stretch it to; default twice BreakTime
	StepTime     time.Duration // how long a step of the cut of a pin may take; default 10 s
	AllowKill    bool          // the last step may kill
	// RecallOnChown makes unbreakable leases breakable whose sessions a change of owner has taken the right to them.
	RecallOnChown bool
	MountWait     time.Duration // default 1 s
	OnHold        layout.OnHold // default layout.Fail
	Events        int           // how many past events are kept, about; default 4096
	Log           *slog.Logger  // default: discards
	Limits        Limits        // of each user
	// Lineage returns the process a thread belongs to, and the parent of that process. The default reads /proc.
	Lineage func(pid int32) (process, parent int32, err error)
	// Closer looks at a thread that closes a descriptor. The default reads /proc.
	Closer func(thread int32) (Closer, error)
}

// Arbiter runs the layout machines.
type Arbiter struct {
	cfg     Config
	storage Storage // set by Attach before anything else
	shards  []*shard
	origin  time.Time
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	work    sync.WaitGroup
	kick    chan struct{} // the earliest deadline has changed
	lookups chan struct{} // tokens for reading /proc

	sessions sync.Map // layout.SessionID → *session
	contexts sync.Map // layout.ContextID → *contextEntry
	accounts sync.Map // uint32, a user → *account
	names    atomic.Uint64
	guards   atomic.Uint64 // names of pins that stand for others, see Restore
	feed     feed

	mu     sync.Mutex // guards what follows, and session.admitted, session.swept
	byPID  map[int32][]*session
	closed bool
}

// shard is a share of the files.
type shard struct {
	index int
	due   atomic.Int64 // Instant of the machine's next deadline

	mu      sync.Mutex // guards what follows
	m       *layout.Machine
	waiters map[uint64]*waiter // by name of the request
	holds   map[layout.PinID]uint64
	// unentitled are unbreakable leases that their sessions would not get any more.
	unentitled map[layout.LeaseID]struct{}
	// Who pays, where that is not the session that has it; and for all that are unbreakable.
	leasePayers, unbreakable map[layout.LeaseID]*account
	pinPayers                map[layout.PinID]*account
	tallies                  tallies
	ends                     map[layout.LeaseID]chan struct{} // of leases whose end somebody waits for
	vain                     map[extent.Ino]layout.Instant    // until when a change through the mount does not wait
	closing                  map[extent.Ino][]chan struct{}   // closes that wait for pins to go
	ring                     []rawEvent
	ringAt                   int
}

// waiter is a caller whose request was queued.
type waiter struct {
	ch chan answer // of one place: the sender never blocks
}

// answer is what a request came to.
type answer struct {
	effect  layout.Effect
	refused *Refused
}

// New returns a running arbiter. Attach must follow before anything else, and Close in the end.
func New(cfg Config) *Arbiter {
	setDefaults(&cfg)
	ctx, cancel := context.WithCancel(context.Background())
	a := &Arbiter{
		cfg: cfg, origin: cfg.Clock.Now(), ctx: ctx, cancel: cancel,
		kick: make(chan struct{}, 1), lookups: make(chan struct{}, maxLookups), byPID: map[int32][]*session{},
	}
	waits := layout.NewWaits()
	for i := range cfg.Shards {
		first := uint64(i)
		if i == 0 {
			first = uint64(cfg.Shards)
		}
		s := &shard{
			index: i,
			m: layout.New(layout.Config{
				FirstID: first, Stride: uint64(cfg.Shards), BreakTime: cfg.BreakTime, MaxBreakTime: cfg.MaxBreakTime,
				StepTime: cfg.StepTime, AllowKill: cfg.AllowKill, Waits: waits,
			}),
			waiters:     map[uint64]*waiter{},
			holds:       map[layout.PinID]uint64{},
			leasePayers: map[layout.LeaseID]*account{}, unbreakable: map[layout.LeaseID]*account{}, pinPayers: map[layout.PinID]*account{},
			ends: map[layout.LeaseID]chan struct{}{},

			unentitled: map[layout.LeaseID]struct{}{},
			vain:       map[extent.Ino]layout.Instant{},
			closing:    map[extent.Ino][]chan struct{}{},
			tallies:    newTallies(),
			ring:       make([]rawEvent, 0, max(cfg.Events/cfg.Shards, 1)),
		}
		s.due.Store(int64(never))
		a.shards = append(a.shards, s)
	}
	a.work.Add(1)
	go a.keepTime()
	return a
}

func setDefaults(cfg *Config) {
	if cfg.Shards <= 0 {
		cfg.Shards = defaultShards
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	if cfg.MountWait <= 0 {
		cfg.MountWait = defaultMountWait
	}
	if cfg.StepTime <= 0 {
		cfg.StepTime = defaultStepTime
	}
	if cfg.OnHold == 0 {
		cfg.OnHold = layout.Fail
	}
	if cfg.Events <= 0 {
		cfg.Events = defaultEvents
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Lineage == nil {
		cfg.Lineage = procLineage
	}
	if cfg.Closer == nil {
		cfg.Closer = procCloser
	}
}

// Attach gives the arbiter its storage. It must be called once, before anything else.
func (a *Arbiter) Attach(s Storage) { a.storage = s }

// Close ends all waits with ESHUTDOWN and all subscriptions, and waits for what runs in the background.
func (a *Arbiter) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.work.Wait()
	a.feed.close()
}

// spawn runs fn in the background, unless the arbiter is closing.
func (a *Arbiter) spawn(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.work.Go(fn)
}

func (a *Arbiter) now() layout.Instant {
	return layout.Instant(a.cfg.Clock.Now().Sub(a.origin))
}

func (a *Arbiter) time(i layout.Instant) time.Time { return a.origin.Add(time.Duration(i)) }

func (a *Arbiter) shardOf(file extent.Ino) *shard {
	return a.shards[uint64(file)%uint64(len(a.shards))]
}

// shardFor returns the shard that gave something its name.
func (a *Arbiter) shardFor(name uint64) *shard { return a.shards[name%uint64(len(a.shards))] }

// do runs one input by itself: step, then flush. It returns the first effect, which is the answer to the input.
func (a *Arbiter) do(sh *shard, in *layout.Input) (layout.Effect, error) {
	var out outbox
	sh.mu.Lock()
	e := a.step(sh, in, &out)
	sh.mu.Unlock()
	err := a.flush(&out)
	if e.Kind == layout.Denied {
		return e, &Refused{Errno: e.Errno, Reason: e.Reason, File: in.File, Range: in.Range}
	}
	return e, err
}

// step runs the machine and gathers in out what is to be done without the lock. It returns the answer to the input
// itself, if it has one.
// Preconditions: sh.mu is held.
func (a *Arbiter) step(sh *shard, in *layout.Input, out *outbox) layout.Effect {
	now := a.now()
	effects := sh.m.Step(now, in)
	for i := range effects {
		e := &effects[i]
		if in.Op == layout.OpCloseLease && e.Kind == layout.Denied && e.Request == 0 {
			continue // it has ended already: that refuses nobody anything
		}
		a.dispatch(sh, now, e, out)
	}
	due, ok := sh.m.NextDeadline()
	if !ok {
		due = never
	}
	if old := layout.Instant(sh.due.Load()); due != old {
		sh.due.Store(int64(due))
		if due < old {
			select {
			case a.kick <- struct{}{}:
			default: // it was kicked already
			}
		}
	}
	if len(effects) == 0 {
		return layout.Effect{}
	}
	return effects[0]
}

// await waits until the queued request is answered, the context ends or the time is up. Then the request is abandoned; what it has
// begun to break goes on. limit < 0 sets no limit.
func (a *Arbiter) await(ctx context.Context, sh *shard, w *waiter, queued layout.Effect, limit time.Duration) (answer, error) {
	var timeout <-chan time.Time
	if limit >= 0 {
		t := a.cfg.Clock.NewTimer(limit)
		defer t.Stop()
		timeout = t.C()
	}
	errno, reason := syscall.EAGAIN, queued.Reason
	select {
	case ans := <-w.ch:
		return ans, nil
	case <-timeout:
	case <-ctx.Done():
		if ctx.Err() == context.Canceled {
			errno, reason = syscall.EINTR, "interrupted: "+queued.Reason
		}
	case <-a.ctx.Done():
		errno, reason = syscall.ESHUTDOWN, "the server shuts down"
	}
	var out outbox
	sh.mu.Lock()
	select {
	case ans := <-w.ch: // it came in the last moment
		sh.mu.Unlock()
		return ans, nil
	default:
	}
	refused := &Refused{Errno: errno, Reason: reason, File: queued.File, Range: queued.Range}
	if queued.Change != 0 {
		refused.Blockers = a.blockers(sh.m.Blockers(queued.File, queued.Range, queued.Class, queued.Session, MaxBlockers))
	}
	delete(sh.waiters, requestName(&queued))
	a.step(sh, &layout.Input{Op: layout.OpAbandon, File: queued.File, Request: queued.Request, Change: queued.Change}, &out)
	sh.mu.Unlock()
	a.warn(a.flush(&out))
	a.recordVain(sh, &queued, refused)
	return answer{}, refused
}

func requestName(e *layout.Effect) uint64 { return uint64(e.Request) | uint64(e.Change) }

// enlist makes a waiter for a queued request.
// Preconditions: sh.mu is held.
func (sh *shard) enlist(e *layout.Effect) *waiter {
	w := &waiter{ch: make(chan answer, 1)}
	sh.waiters[requestName(e)] = w
	return w
}

// warn logs an error that has nobody to go to: the range is tried again and stays listed meanwhile.
func (a *Arbiter) warn(err error) {
	if err != nil {
		a.cfg.Log.Warn("detaching a range failed; it will be tried again", "error", err)
	}
}
