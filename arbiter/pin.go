package arbiter

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
)

// contextEntry is a registered context. A shard hears of it with the first pin there.
type contextEntry struct {
	id      layout.ContextID
	owner   atomic.Pointer[session] // another one after a claim, which has the locks of all shards
	context Context
	can     layout.Abilities
	info    ContextInfo // as it described itself when it was registered
	closed  atomic.Bool
	opened  []atomic.Bool // by shard, written under its lock
}

func (e *contextEntry) session() *session { return e.owner.Load() }

// Register makes a context known. Its handle's last close is CloseContext.
func (a *Arbiter) Register(id layout.SessionID, c Context) (layout.ContextID, error) {
	s, err := a.session(id)
	if err != nil {
		return 0, err
	}
	e := &contextEntry{
		id: layout.ContextID(a.names.Add(1)), context: c, info: c.Info(), opened: make([]atomic.Bool, len(a.shards)),
	}
	e.can = abilities(c, e.info.Can)
	e.owner.Store(s)
	a.contexts.Store(e.id, e)
	a.recordContext(EventContextOpen, e)
	return e.id, nil
}

// CloseContext ends a context's right: its pins go, and the leases that only they kept. An unknown context is no error.
func (a *Arbiter) CloseContext(ctx context.Context, id layout.ContextID) error {
	v, ok := a.contexts.Load(id)
	if !ok {
		return nil
	}
	e := v.(*contextEntry)
	if e.closed.Swap(true) {
		return nil
	}
	var first error
	for i, sh := range a.shards {
		var out outbox
		sh.mu.Lock()
		if e.opened[i].Load() { // pins after this find it closed
			a.step(sh, &layout.Input{Op: layout.OpCloseContext, Context: id}, &out)
		}
		sh.mu.Unlock()
		if err := a.flush(&out); err != nil && first == nil {
			first = err
		}
	}
	a.contexts.Delete(id)
	a.recordContext(EventContextClose, e)
	return first
}

// Pin notes that the range can be reached through the context, and holds its blocks. The lease must be the session's, live, and cover it.
func (a *Arbiter) Pin(ctx context.Context, id layout.SessionID, c layout.ContextID, lease layout.LeaseID, r extent.Range, access layout.Access) (layout.PinID, error) {
	v, ok := a.contexts.Load(c)
	if !ok {
		return 0, fmt.Errorf("context %d: %w", c, syscall.ENOENT)
	}
	s, err := a.session(id)
	if err != nil {
		return 0, err
	}
	if err := a.charge(s, LimitPins, a.shardFor(uint64(lease)), rawEvent{lease: lease, context: c, r: r}); err != nil {
		return 0, err
	}
	pin, err := a.pinAs(s, v.(*contextEntry), &layout.Input{
		Op: layout.OpPin, Session: id, Context: c, Lease: lease, Range: r, Access: access,
	})
	if e, ok := a.storage.(Exposer); ok && err == nil {
		if err = e.Pinned(ctx, a.fileOf(lease), lease); err != nil {
			a.warn(a.Unpin(ctx, id, pin))
			return 0, fmt.Errorf("exposure of lease %d through context %d: %w", lease, c, err)
		}
	}
	return pin, err
}

// fileOf returns the file of a lease, 0 if it is gone.
func (a *Arbiter) fileOf(lease layout.LeaseID) extent.Ino {
	sh := a.shardFor(uint64(lease))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	info, _ := sh.m.Lease(lease)
	return info.File
}

// pinAs makes a pin, which may have a name already and is charged to the session, and holds its blocks.
func (a *Arbiter) pinAs(s *session, e *contextEntry, in *layout.Input) (layout.PinID, error) {
	c := in.Context
	sh := a.shardFor(uint64(in.Lease))
	pinned, err := a.pin(sh, e, in)
	if pinned.Kind != layout.Pinned { // else the end of the pin does it
		s.account.put(LimitPins, sh.index, 1)
	}
	if err != nil {
		return 0, err
	}
	hold, err := a.storage.Hold(pinned.File, pinned.Range, e.session().info.UID)
	if err != nil {
		_, undo := a.do(sh, &layout.Input{Op: layout.OpUnpin, Pin: pinned.Pin}) // it may be another's by now
		a.warn(undo)
		return 0, fmt.Errorf("hold %v of file %d: %w", pinned.Range, pinned.File, err)
	}
	sh.mu.Lock()
	_, there := sh.holds[pinned.Pin]
	if there {
		sh.holds[pinned.Pin] = hold
	}
	sh.mu.Unlock()
	if !there { // the context was closed meanwhile
		a.storage.Unhold(hold)
		return 0, fmt.Errorf("context %d was closed: %w", c, syscall.ENOENT)
	}
	return pinned.Pin, nil
}

func (a *Arbiter) pin(sh *shard, e *contextEntry, in *layout.Input) (layout.Effect, error) {
	var out outbox
	sh.mu.Lock()
	if e.closed.Load() {
		sh.mu.Unlock()
		return layout.Effect{}, fmt.Errorf("context %d was closed: %w", e.id, syscall.ENOENT)
	}
	if err := a.enter(sh, e.session(), &out); err != nil {
		sh.mu.Unlock()
		return layout.Effect{}, err
	}
	if opened := &e.opened[uint64(in.Lease)%uint64(len(a.shards))]; !opened.Load() {
		a.step(sh, &layout.Input{Op: layout.OpRegister, Session: e.session().id, Context: e.id, Can: e.can}, &out)
		opened.Store(true)
	}
	res := a.step(sh, in, &out)
	sh.mu.Unlock()
	if err := a.flush(&out); err != nil {
		return res, err
	}
	if res.Kind == layout.Denied {
		return res, &Refused{Errno: res.Errno, Reason: res.Reason, Range: in.Range}
	}
	return res, nil
}

// Unpin takes a pin away. A lease that only its pins kept goes with the last.
func (a *Arbiter) Unpin(ctx context.Context, s layout.SessionID, pin layout.PinID) error {
	_, err := a.do(a.shardFor(uint64(pin)), &layout.Input{Op: layout.OpUnpin, Session: s, Pin: pin})
	return err
}
