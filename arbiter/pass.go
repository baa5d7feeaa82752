package arbiter

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"holdfast/layout"
)

// Claim makes a context, whosever it is, the session's, with all its pins, if the session has leases that cover them. Or nothing
// changes, and the error names the first range without cover.
//
// Preconditions: the caller has proved that the session has a copy of the context's handle.
func (a *Arbiter) Claim(ctx context.Context, id layout.SessionID, c layout.ContextID) error {
	s, err := a.session(id)
	if err != nil {
		return err
	}
	v, ok := a.contexts.Load(c)
	if !ok {
		return fmt.Errorf("context %d: %w", c, syscall.ENOENT)
	}
	e := v.(*contextEntry)
	var out outbox
	before := e.session()
	// Its pins are in several shards, and all of them move in one step.
	for _, sh := range a.shards {
		sh.mu.Lock()
	}
	err = a.claim(s, e, &out)
	for _, sh := range a.shards {
		sh.mu.Unlock()
	}
	if flushed := a.flush(&out); err != nil {
		a.warn(flushed)
		return err
	}
	if before != s {
		a.recordContext(EventClaim, e)
	}
	return nil
}

// claim is Claim.
// Preconditions: the mu of all shards is held.
func (a *Arbiter) claim(s *session, e *contextEntry, out *outbox) error {
	if e.closed.Load() {
		return fmt.Errorf("context %d was closed: %w", e.id, syscall.ENOENT)
	}
	in := layout.Input{Op: layout.OpClaim, Session: s.id, Context: e.id}
	for i, sh := range a.shards {
		if !e.opened[i].Load() {
			continue
		}
		if err := a.enter(sh, s, out); err != nil {
			return err
		}
		if denied := sh.m.Claimable(e.id, s.id); denied.Errno != 0 {
			a.step(sh, &in, out) // that it was refused is told
			return &Refused{Errno: denied.Errno, Reason: denied.Reason, File: denied.File, Range: denied.Range}
		}
	}
	for i, sh := range a.shards {
		if e.opened[i].Load() {
			a.step(sh, &in, out)
		}
	}
	e.owner.Store(s)
	return nil
}

// Share makes the session one of those who hold the lease, if the policy lets it. Its end is LeaveLease.
//
// Preconditions: the caller has proved that the session has a copy of the lease's handle, and the right to such a lease.
func (a *Arbiter) Share(ctx context.Context, id layout.SessionID, lease layout.LeaseID, onPass layout.OnPass) (LeaseInfo, error) {
	s, err := a.session(id)
	if err != nil {
		return LeaseInfo{}, err
	}
	var out outbox
	sh := a.shardFor(uint64(lease))
	sh.mu.Lock()
	if err := a.enter(sh, s, &out); err != nil {
		sh.mu.Unlock()
		return LeaseInfo{}, err
	}
	e := a.step(sh, &layout.Input{Op: layout.OpShare, Session: id, Lease: lease, OnPass: onPass}, &out)
	sh.mu.Unlock()
	a.warn(a.flush(&out))
	if e.Kind == layout.Denied {
		return LeaseInfo{}, &Refused{Errno: e.Errno, Reason: e.Reason, File: e.File, Range: e.Range}
	}
	return a.Lease(lease)
}

// LeaveLease tells that the last copy of a session's handle of the lease is gone. Where others hold it too it goes on, else it is
// CloseLease.
func (a *Arbiter) LeaveLease(ctx context.Context, id layout.SessionID, lease layout.LeaseID) error {
	_, err := a.do(a.shardFor(uint64(lease)), &layout.Input{Op: layout.OpCloseLease, Session: id, Lease: lease, OnClose: a.onClose(lease)})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}
