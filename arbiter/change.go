package arbiter

import (
	"context"
	"errors"
	"maps"
	"syscall"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// Change is leave to apply a change. The zero value needs no Done.
type Change struct {
	arb  *Arbiter
	file extent.Ino
	id   layout.ChangeID
}

// Done lifts the barrier: the change was applied, or will not be.
func (c Change) Done() {
	if c.id == 0 {
		return
	}
	var out outbox
	sh := c.arb.shardOf(c.file)
	sh.mu.Lock()
	c.arb.step(sh, &layout.Input{Op: layout.OpDone, File: c.file, Change: c.id}, &out)
	sh.mu.Unlock()
	c.arb.warn(c.arb.flush(&out))
}

// Break asks leave for a change, before anything is altered. It returns when the change may be applied, and Done must then
// be called; or a *Refused: ETXTBSY and EDEADLK as the contract says, EAGAIN when the wait was over before the break was (it goes on
// in the background), EINTR when the context was cancelled.
//
// Preconditions: the caller holds no lock that a holder needs to give back.
func (a *Arbiter) Break(ctx context.Context, c Caller, file extent.Ino, r extent.Range, class layout.Class) (Change, error) {
	if class == layout.None || class == layout.Size {
		return Change{}, nil
	}
	sh := a.shardOf(file)
	sh.mu.Lock()
	var out outbox
	if (c.Session != 0 || c.PID != 0) && !sh.m.Clear(file, r, class) {
		if c.Session == 0 {
			sh.mu.Unlock()
			c.Session = a.own(c.PID, file)
			sh.mu.Lock()
		}
		a.introduce(sh, c.Session, &out)
	}
	in := layout.Input{Op: layout.OpBreak, Session: c.Session, File: file, Range: r, Class: class, OnHold: a.OnHold(c), DropOwn: c.DropOwn}
	e := a.step(sh, &in, &out)
	if e.Kind == layout.Queued {
		return a.awaitChange(ctx, c, sh, e, out)
	}
	sh.mu.Unlock()
	refused := out.refused
	a.warn(a.flush(&out))
	if refused != nil {
		return Change{}, refused
	}
	return Change{a, file, e.Change}, nil
}

// awaitChange waits for a queued change.
// Preconditions: sh.mu is held; it is released.
func (a *Arbiter) awaitChange(ctx context.Context, c Caller, sh *shard, e layout.Effect, out outbox) (Change, error) {
	w := sh.enlist(&e)
	limit := c.Wait
	if limit == 0 && a.now() >= sh.vain[e.File] {
		limit = a.cfg.MountWait
	}
	sh.mu.Unlock()
	a.warn(a.flush(&out))
	ans, err := a.await(ctx, sh, w, e, limit)
	if c.Wait == 0 && limit > 0 && errors.Is(err, syscall.EAGAIN) {
		sh.waitedInVain(e.File, a.now(), a.cfg.MountWait)
	}
	switch {
	case err != nil:
		return Change{}, err
	case ans.refused != nil:
		return Change{}, ans.refused
	}
	return Change{a, e.File, ans.effect.Change}, nil
}

// waitedInVain notes that a change through the mount has waited for nothing. For as long again, others of the file do not wait at
// all: the kernel lets them in one after the other, and what stands behind them there would wait for the sum.
func (sh *shard) waitedInVain(file extent.Ino, now layout.Instant, wait time.Duration) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	maps.DeleteFunc(sh.vain, func(_ extent.Ino, until layout.Instant) bool { return until <= now })
	sh.vain[file] = now.Add(wait)
}

// OnHold returns the policy of a caller's changes: its own, or that of the volume.
func (a *Arbiter) OnHold(c Caller) layout.OnHold {
	if c.OnHold == 0 {
		return a.cfg.OnHold
	}
	return c.OnHold
}

// Would foresees a change: who is in its way, and with which errno it would be refused now. With 0 and blockers it would have to wait for them.
func (a *Arbiter) Would(c Caller, file extent.Ino, r extent.Range, class layout.Class) ([]Blocker, syscall.Errno) {
	if c.Session == 0 && c.PID != 0 {
		c.Session = a.own(c.PID, file)
	}
	var out outbox
	sh := a.shardOf(file)
	sh.mu.Lock()
	a.introduce(sh, c.Session, &out)
	errno, _ := sh.m.Would(file, r, class, a.OnHold(c), c.Session)
	found := sh.m.Blockers(file, r, class, c.Session, 0)
	sh.mu.Unlock()
	a.warn(a.flush(&out))
	return a.blockers(found), errno
}

// WriteLeased reports whether a session other than the given one may write the range directly.
func (a *Arbiter) WriteLeased(file extent.Ino, r extent.Range, except layout.SessionID) bool {
	sh := a.shardOf(file)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.m.WriteLeased(file, r, except)
}
