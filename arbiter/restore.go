package arbiter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
)

// Exposed says who has got memory of a file under a lease. The storage keeps it with what it exposes, so that the next server knows.
type Exposed struct {
	Lease       layout.LeaseID `json:"lease"`
	File        extent.Ino     `json:"file"`
	Ranges      []Range        `json:"ranges"`
	Access      layout.Access  `json:"access"`
	Mode        layout.Mode    `json:"mode"`
	Unbreakable bool           `json:"unbreakable,omitempty"`
	Closed      bool           `json:"closed,omitempty"`
	Session     Process        `json:"session"`
	Contexts    []ContextInfo  `json:"contexts,omitempty"` // through which it is pinned
}

// Process is the process of a session. Number and start together mean one process, as long as the machine runs.
type Process struct {
	Session layout.SessionID `json:"session"`
	Kind    string           `json:"kind"`
	Name    string           `json:"name"`
	PID     int32            `json:"pid"`
	UID     uint32           `json:"uid"`
	GID     uint32           `json:"gid"`
	Start   uint64           `json:"start"` // in clock ticks since boot
}

// What one exposure tells of a lease is bounded: who has more is known by these.
const (
	maxExposedRanges   = 64
	maxExposedContexts = 64
)

// Exposer is a Storage that keeps what is exposed.
type Exposer interface {
	// Pinned notes durably that what the lease has mapped can be reached through one more context. It is called
	// before the holder is told of his pin.
	Pinned(ctx context.Context, file extent.Ino, lease layout.LeaseID) error
}

// Exposed describes who has a lease. ok is false if there is no such lease, or no process from which the next server
// could have it back.
func (a *Arbiter) Exposed(lease layout.LeaseID) (e Exposed, ok bool) {
	info, err := a.Lease(lease)
	if err != nil {
		return Exposed{}, false
	}
	v, ok := a.sessions.Load(info.Session)
	if !ok {
		return Exposed{}, false
	}
	s := v.(*session)
	if s.info.PID == 0 || s.info.Start == 0 {
		return Exposed{}, false
	}
	e = Exposed{
		Lease: lease, File: info.File, Ranges: info.Ranges[:min(len(info.Ranges), maxExposedRanges)], Access: info.Access, Mode: info.Mode,
		Unbreakable: info.Unbreakable, Closed: info.Closed, Session: s.process(),
	}
	for _, id := range info.Contexts[:min(len(info.Contexts), maxExposedContexts)] {
		if v, ok := a.contexts.Load(id); ok {
			c := v.(*contextEntry).info
			c.ID, c.Session, c.PID, c.Pins = id, info.Session, 0, 0
			e.Contexts = append(e.Contexts, c)
		}
	}
	return e, true
}

func (s *session) process() Process {
	i := &s.info
	return Process{Session: s.id, Kind: i.Kind, Name: i.Name, PID: i.PID, UID: i.UID, GID: i.GID, Start: i.Start}
}

// former is what a session had under a former server and nobody has claimed yet.
type former struct {
	guards   map[layout.PinID]layout.LeaseID // pins that stand for those of then
	leases   map[layout.LeaseID]bool
	contexts map[layout.ContextID]bool
}

// Restore puts back what a former server had exposed of one lease, with parts of it in memory: lease, contexts and, over the
// parts, pins that stand for theirs. Nobody has it until Resume. It comes before all sessions, and EndRestore after the last.
func (a *Arbiter) Restore(e *Exposed, parts []extent.Range) error {
	s := a.restoreSession(&e.Session)
	if err := a.storage.Get(e.File); err != nil {
		return err
	}
	sh := a.shardOf(e.File)
	if err := a.restoreLease(sh, s, e); err != nil {
		a.storage.Put(e.File)
		return err
	}
	s.former.leases[e.Lease] = true
	for i := range e.Contexts {
		c := a.restoreContext(s, &e.Contexts[i])
		for _, r := range parts {
			pin, err := a.restorePin(c, e, r)
			if err != nil {
				return err
			}
			s.former.guards[pin] = e.Lease
		}
	}
	if e.Closed && len(e.Contexts) > 0 {
		_, err := a.do(sh, &layout.Input{Op: layout.OpCloseLease, Lease: e.Lease})
		return err
	}
	return nil
}

func (a *Arbiter) restoreSession(p *Process) *session {
	if v, ok := a.sessions.Load(p.Session); ok {
		return v.(*session)
	}
	s := &session{
		id: p.Session, owner: layout.OwnerID(p.Session), account: a.account(p.UID), opened: make([]atomic.Bool, len(a.shards)), admitted: map[int32]bool{},
		info:   SessionInfo{ID: p.Session, Kind: p.Kind, Name: p.Name, PID: p.PID, UID: p.UID, GID: p.GID, Start: p.Start, Since: a.cfg.Clock.Now()},
		former: &former{map[layout.PinID]layout.LeaseID{}, map[layout.LeaseID]bool{}, map[layout.ContextID]bool{}},
	}
	s.unclaimed.Store(true)
	a.reserve(uint64(p.Session))
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.byPID[p.PID] {
		s.owner = o.owner
	}
	a.byPID[p.PID] = append(a.byPID[p.PID], s)
	a.sessions.Store(s.id, s)
	return s
}

// reserve keeps a name of a session or context from being given to another.
func (a *Arbiter) reserve(name uint64) {
	for now := a.names.Load(); now < name && !a.names.CompareAndSwap(now, name); now = a.names.Load() {
	}
}

func (a *Arbiter) restoreLease(sh *shard, s *session, e *Exposed) error {
	var out outbox
	sh.mu.Lock()
	err := a.enter(sh, s, &out)
	sh.mu.Unlock()
	if err != nil {
		return err
	}
	for k, r := range e.Ranges {
		_, err := a.do(sh, &layout.Input{
			Op: layout.OpRestore, Session: s.id, Lease: e.Lease, File: e.File, Range: r.Extent(), Access: e.Access, Mode: e.Mode, Unbreakable: e.Unbreakable,
		})
		if err == nil && k == 0 {
			s.account.force(LimitLeases, 1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Arbiter) restoreContext(s *session, info *ContextInfo) *contextEntry {
	if v, ok := a.contexts.Load(info.ID); ok {
		return v.(*contextEntry)
	}
	a.reserve(uint64(info.ID))
	c := &contextEntry{
		id: info.ID, can: layout.ByWindow, info: ContextInfo{Kind: info.Kind, Name: info.Name, Can: info.Can},
		opened: make([]atomic.Bool, len(a.shards)),
	}
	c.owner.Store(s)
	a.contexts.Store(c.id, c)
	s.former.contexts[c.id] = true
	return c
}

func (a *Arbiter) restorePin(c *contextEntry, e *Exposed, r extent.Range) (layout.PinID, error) {
	c.session().account.force(LimitPins, 1)
	return a.pinAs(c.session(), c, &layout.Input{
		Op: layout.OpPin, Session: c.session().id, Context: c.id, Lease: e.Lease, Range: r, Access: e.Access,
		Pin: a.guardName(e.Lease),
	})
}

// guardName returns a name for a pin that stands for another, in the shard of its lease.
func (a *Arbiter) guardName(lease layout.LeaseID) layout.PinID {
	shards := uint64(len(a.shards))
	return layout.GuardPins + layout.PinID(a.guards.Add(1)*shards+uint64(lease)%shards)
}

// EndRestore ends the sessions that were restored, as their connections ended with the former server: nobody waits for them.
func (a *Arbiter) EndRestore() {
	a.sessions.Range(func(_, v any) bool {
		if s := v.(*session); s.unclaimed.Load() {
			a.endInShards(s)
		}
		return true
	})
}

// Unclaimed lists what no process has claimed yet of what a former server had exposed.
func (a *Arbiter) Unclaimed() []Process {
	var all []Process
	a.sessions.Range(func(_, v any) bool {
		if s := v.(*session); s.unclaimed.Load() {
			all = append(all, s.process())
		}
		return true
	})
	slices.SortFunc(all, func(x, y Process) int { return int(int64(x.Session) - int64(y.Session)) })
	return all
}

// Resume gives a process the session back that it had with a former server. The caller has proved by a connection of the process
// that it is the same. What the session had is its own again as it claims it, until Settle.
func (a *Arbiter) Resume(id layout.SessionID, p Process) error {
	s, err := a.formerSession(id)
	if err != nil {
		return err
	}
	if is := s.process(); is.PID != p.PID || is.Start != p.Start || is.UID != p.UID {
		return fmt.Errorf("session %d is of another process: %w", id, syscall.EPERM)
	}
	if !s.unclaimed.CompareAndSwap(true, false) {
		return fmt.Errorf("session %d is claimed already: %w", id, syscall.EBUSY)
	}
	a.mu.Lock()
	s.swept = false
	a.mu.Unlock()
	s.ended.Store(false)
	s.account.force(LimitSessions, 1)
	for i, sh := range a.shards {
		var out outbox
		sh.mu.Lock()
		if s.opened[i].Load() {
			a.step(sh, &layout.Input{Op: layout.OpResume, Session: id}, &out)
		}
		sh.mu.Unlock()
		a.warn(a.flush(&out))
	}
	a.recordSession(EventReclaim, s)
	return nil
}

// formerSession returns a session that a former server had opened.
func (a *Arbiter) formerSession(id layout.SessionID) (*session, error) {
	if v, ok := a.sessions.Load(id); ok {
		if s := v.(*session); s.former != nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no session %d of a former server: %w", id, syscall.ENOENT)
}

// ReclaimLease gives a resumed session one of its leases back. h is told of breaks from now on.
func (a *Arbiter) ReclaimLease(id layout.SessionID, lease layout.LeaseID, h Holder) (LeaseInfo, error) {
	s, err := a.formerSession(id)
	if err != nil {
		return LeaseInfo{}, err
	}
	switch info, err := a.Lease(lease); {
	case err != nil:
		return LeaseInfo{}, err
	case info.Session != id:
		return LeaseInfo{}, fmt.Errorf("lease %d belongs to another session: %w", lease, syscall.EPERM)
	}
	if _, err := a.do(a.shardFor(uint64(lease)), &layout.Input{Op: layout.OpResume, Session: id, Lease: lease, Tag: h}); err != nil {
		return LeaseInfo{}, err
	}
	a.mu.Lock()
	delete(s.former.leases, lease)
	a.mu.Unlock()
	return a.Lease(lease)
}

// ReclaimContext gives a resumed session one of its contexts back.
func (a *Arbiter) ReclaimContext(id layout.SessionID, c layout.ContextID) error {
	s, err := a.formerSession(id)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !s.former.contexts[c] {
		return fmt.Errorf("session %d had no context %d when its server died: %w", id, c, syscall.ENOENT)
	}
	delete(s.former.contexts, c)
	return nil
}

// ReclaimPin gives a resumed session a pin back that it had, under its name if that is free.
func (a *Arbiter) ReclaimPin(id layout.SessionID, pin layout.PinID, c layout.ContextID, lease layout.LeaseID, r extent.Range, access layout.Access) (layout.PinID, error) {
	v, ok := a.contexts.Load(c)
	if !ok {
		return 0, fmt.Errorf("context %d: %w", c, syscall.ENOENT)
	}
	s, err := a.formerSession(id)
	if err != nil {
		return 0, err
	}
	s.account.force(LimitPins, 1)
	return a.pinAs(s, v.(*contextEntry), &layout.Input{Op: layout.OpPin, Session: id, Context: c, Lease: lease, Range: r, Access: access, Pin: pin})
}

// Settle ends what a resumed session has not claimed: the pins that stood for others, then contexts and leases.
func (a *Arbiter) Settle(ctx context.Context, id layout.SessionID) error {
	s, err := a.formerSession(id)
	if err != nil {
		return err
	}
	return a.giveUp(ctx, s)
}

// Forsake ends all that nobody has claimed of a session: its process is dead, or an administrator said so.
func (a *Arbiter) Forsake(ctx context.Context, id layout.SessionID) error {
	s, err := a.formerSession(id)
	if err != nil {
		return err
	}
	if s.unclaimed.CompareAndSwap(true, false) {
		a.mu.Lock()
		a.forgetPID(s.info.PID, s)
		a.mu.Unlock()
		a.recordSession(EventForsake, s)
	}
	err = a.giveUp(ctx, s)
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.open.Load() == 0 && s.swept {
		a.sessions.Delete(id)
	}
	return err
}

func (a *Arbiter) giveUp(ctx context.Context, s *session) error {
	a.mu.Lock()
	f := *s.former
	s.former.guards, s.former.leases, s.former.contexts = nil, map[layout.LeaseID]bool{}, map[layout.ContextID]bool{}
	a.mu.Unlock()
	var errs []error
	for _, pin := range slices.Sorted(maps.Keys(f.guards)) {
		err := a.Unpin(ctx, s.id, pin)
		if !errors.Is(err, syscall.ENOENT) { // its lease may be gone
			errs = append(errs, err)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(f.contexts)) {
		errs = append(errs, a.CloseContext(ctx, c))
	}
	for _, l := range slices.Sorted(maps.Keys(f.leases)) {
		errs = append(errs, a.CloseLease(ctx, l))
	}
	return errors.Join(errs...)
}

// Alarm tells of a process that lives and has not claimed what it has had since before the server was started.
func (a *Arbiter) Alarm(id layout.SessionID) {
	if s, err := a.formerSession(id); err == nil && s.unclaimed.Load() {
		a.recordSession(EventUnclaimed, s)
	}
}

func (a *Arbiter) isUnclaimed(id layout.SessionID) bool {
	v, ok := a.sessions.Load(id)
	return ok && v.(*session).unclaimed.Load()
}

// leaveFormer makes unclaimed again what a session that has ended did not get to claim.
func (a *Arbiter) leaveFormer(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := s.former; f != nil && len(f.guards)+len(f.leases)+len(f.contexts) > 0 {
		s.unclaimed.Store(true)
	}
}
