package arbiter

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
)

// Acquire asks for a lease, waits for it if need be and allowed, and prepares its blocks. h is told of breaks.
func (a *Arbiter) Acquire(ctx context.Context, id layout.SessionID, req AcquireRequest, h Holder) (LeaseInfo, error) {
	s, err := a.session(id)
	if err != nil {
		return LeaseInfo{}, err
	}
	if req.Unbreakable && !req.MayUnbreakable {
		return LeaseInfo{}, fmt.Errorf("an unbreakable lease needs the owner of the file or an administrator: %w", syscall.EPERM)
	}
	granted, err := a.reserved(ctx, s, &req, h)
	if err != nil {
		return LeaseInfo{}, err
	}
	if err := a.storage.Prepare(ctx, req.File, granted.Range, req.Access, req.Prepare); err != nil {
		return LeaseInfo{}, errors.Join(fmt.Errorf("prepare %v: %w", granted.Range, err), a.CloseLease(ctx, granted.Lease))
	}
	return LeaseInfo{
		ID: granted.Lease, File: req.File, Session: id, Ranges: []Range{RangeOf(granted.Range)}, Access: granted.Access,
		Mode: granted.Mode, Unbreakable: granted.Unbreakable, Seq: granted.Seq, Since: a.cfg.Clock.Now(),
	}, nil
}

// reserved is grant with what it takes: a reference of the file and a place under the limit.
func (a *Arbiter) reserved(ctx context.Context, s *session, req *AcquireRequest, h Holder) (layout.Effect, error) {
	if err := a.storage.Get(req.File); err != nil {
		return layout.Effect{}, err
	}
	sh := a.shardOf(req.File)
	if err := a.charge(s, LimitLeases, sh, rawEvent{file: req.File, r: req.Range}); err != nil {
		a.storage.Put(req.File)
		return layout.Effect{}, err
	}
	granted, err := a.grant(ctx, s, req, h)
	if err != nil { // else the end of the lease undoes both
		s.account.put(LimitLeases, sh.index, 1)
		a.storage.Put(req.File)
	}
	return granted, err
}

// grant returns the Granted effect.
func (a *Arbiter) grant(ctx context.Context, s *session, req *AcquireRequest, h Holder) (layout.Effect, error) {
	var out outbox
	sh := a.shardOf(req.File)
	if req.Unbreakable {
		if err := a.charge(s, LimitUnbreakable, sh, rawEvent{file: req.File, r: req.Range}); err != nil {
			return layout.Effect{}, err
		}
		defer s.account.put(LimitUnbreakable, sh.index, 1) // the effect has charged it by then
	}
	sh.mu.Lock()
	if err := a.enter(sh, s, &out); err != nil {
		sh.mu.Unlock()
		return layout.Effect{}, err
	}
	e := a.step(sh, &layout.Input{
		Op: layout.OpAcquire, Session: s.id, File: req.File, Range: req.Range, Access: req.Access, Mode: req.Mode,
		Unbreakable: req.Unbreakable, NoWait: req.NoWait, Tag: h,
	}, &out)
	return a.outcome(ctx, sh, e, &out)
}

// outcome unlocks, flushes and, where the request was queued, waits for how it ends.
func (a *Arbiter) outcome(ctx context.Context, sh *shard, e layout.Effect, out *outbox) (layout.Effect, error) {
	var w *waiter
	if e.Kind == layout.Queued {
		w = sh.enlist(&e)
	}
	sh.mu.Unlock()
	a.warn(a.flush(out))
	switch {
	case e.Kind == layout.Denied:
		return e, &Refused{Errno: e.Errno, Reason: e.Reason, File: e.File, Range: e.Range}
	case w == nil:
		return e, nil
	}
	ans, err := a.await(ctx, sh, w, e, WaitForever)
	if err != nil {
		return e, err
	}
	if ans.refused != nil {
		return e, ans.refused
	}
	return ans.effect, nil
}

// Return gives back a range of a lease. When it returns without error, the range is detached and free.
func (a *Arbiter) Return(ctx context.Context, s layout.SessionID, lease layout.LeaseID, r extent.Range) error {
	_, err := a.do(a.shardFor(uint64(lease)), &layout.Input{Op: layout.OpReturn, Session: s, Lease: lease, Range: r})
	return err
}

// Modify upgrades or downgrades a lease in one step. An upgrade may wait as Acquire does.
func (a *Arbiter) Modify(ctx context.Context, id layout.SessionID, lease layout.LeaseID, req ModifyRequest) (LeaseInfo, error) {
	s, err := a.session(id)
	if err != nil {
		return LeaseInfo{}, err
	}
	sh := a.shardFor(uint64(lease))
	sh.mu.Lock()
	now, ok := sh.m.Lease(lease)
	sh.mu.Unlock()
	raised := ok && req.Unbreakable && !now.Unbreakable
	if raised && !req.MayUnbreakable {
		return LeaseInfo{}, fmt.Errorf("an unbreakable lease needs the owner of the file or an administrator: %w", syscall.EPERM)
	}
	if raised {
		if err := a.charge(s, LimitUnbreakable, sh, rawEvent{lease: lease, file: now.File}); err != nil {
			return LeaseInfo{}, err
		}
		defer s.account.put(LimitUnbreakable, sh.index, 1) // the effect has charged it by then
	}
	if _, err := a.modify(ctx, sh, id, lease, req); err != nil {
		return LeaseInfo{}, err
	}
	return a.Lease(lease)
}

// modify returns the Modified effect.
func (a *Arbiter) modify(ctx context.Context, sh *shard, s layout.SessionID, lease layout.LeaseID, req ModifyRequest) (layout.Effect, error) {
	var out outbox
	sh.mu.Lock()
	e := a.step(sh, &layout.Input{
		Op: layout.OpModify, Session: s, Lease: lease, Access: req.Access, Mode: req.Mode, Unbreakable: req.Unbreakable, NoWait: req.NoWait,
	}, &out)
	return a.outcome(ctx, sh, e, &out)
}

// CloseLease tells that the last copy of the lease's handle is gone. Pinned, it goes over to its contexts; otherwise it is
// released. A lease that is gone already is no error.
func (a *Arbiter) CloseLease(ctx context.Context, lease layout.LeaseID) error {
	_, err := a.do(a.shardFor(uint64(lease)), &layout.Input{Op: layout.OpCloseLease, Lease: lease, OnClose: a.onClose(lease)})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// OnCloser is a Storage whose files say what becomes of the pins of a lease whose last handle is closed.
type OnCloser interface {
	OnClose(file extent.Ino) layout.OnClose
}

// onClose returns what the close of the lease's last handle does to its pins. What a close waits for is decided elsewhere.
func (a *Arbiter) onClose(lease layout.LeaseID) layout.OnClose {
	s, ok := a.storage.(OnCloser)
	if !ok {
		return layout.Transfer
	}
	sh := a.shardFor(uint64(lease))
	sh.mu.Lock()
	file, pinned := sh.m.PinnedBy(lease)
	sh.mu.Unlock()
	if !pinned || s.OnClose(file) != layout.Abort {
		return layout.Transfer
	}
	return layout.Abort
}

// Mapped tells that windows of the lease were handed out, BEFORE they are: from then on its ranges are free only when detached.
func (a *Arbiter) Mapped(lease layout.LeaseID) error {
	_, err := a.do(a.shardFor(uint64(lease)), &layout.Input{Op: layout.OpMapped, Lease: lease})
	return err
}

// Lease describes one lease, without its path. ENOENT if it is gone.
func (a *Arbiter) Lease(lease layout.LeaseID) (LeaseInfo, error) {
	sh := a.shardFor(uint64(lease))
	sh.mu.Lock()
	info, ok := sh.m.Lease(lease)
	sh.mu.Unlock()
	if !ok {
		return LeaseInfo{}, fmt.Errorf("lease %d: %w", lease, syscall.ENOENT)
	}
	return a.leaseInfo(&info), nil
}
