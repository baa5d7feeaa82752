package arbiter

import (
	"errors"
	"fmt"

	"holdfast/extent"
	"holdfast/layout"
)

// outbox is what a step wants done once the shard's lock is released.
type outbox struct {
	notices []notice
	detach  []detach
	cutPins []cutPin
	alarms  []error
	orphans []orphaning
	unhold  []uint64
	put     []extent.Ino
	ended   []layout.SessionID
	refused *Refused // why a change was refused that was not queued before
}

type notice struct {
	holder Holder
	event  Event
}

type detach struct {
	cut   bool
	file  extent.Ino
	lease layout.LeaseID
	r     extent.Range
}

// dispatch takes note of one effect.
// Preconditions: sh.mu is held.
func (a *Arbiter) dispatch(sh *shard, now layout.Instant, e *layout.Effect, out *outbox) {
	var blockers []Blocker
	a.tally(sh, e)
	sh.tallies.note(now, e)
	switch e.Kind {
	case layout.Notify, layout.Revoked:
		a.notify(now, e, out)
		if e.Kind == layout.Notify && e.Ask == layout.AskDropPins {
			a.tellContexts(sh, now, e, out)
		}
	case layout.CutPin:
		out.cutPins = append(out.cutPins, cutPin{e.Context, PinCut{e.Pin, e.File, e.Range, e.Step}})
	case layout.Orphan:
		out.orphans = append(out.orphans, orphaning{e.File, e.Change, e.Pin, sh.holds[e.Pin], e.Range})
	case layout.StepFailed:
		out.alarms = append(out.alarms, alarm(e))
	case layout.Unmap:
		out.detach = append(out.detach, detach{false, e.File, e.Lease, e.Range})
	case layout.Cut:
		a.notify(now, e, out)
		out.detach = append(out.detach, detach{true, e.File, e.Lease, e.Range})
	case layout.Released:
		out.put = append(out.put, e.File)
		delete(sh.unentitled, e.Lease)
		if ch := sh.ends[e.Lease]; ch != nil {
			close(ch)
			delete(sh.ends, e.Lease)
		}
	case layout.Pinned:
		sh.holds[e.Pin] = 0
	case layout.Unpinned:
		if hold := sh.holds[e.Pin]; hold != 0 {
			out.unhold = append(out.unhold, hold)
		}
		delete(sh.holds, e.Pin)
		sh.pinsLess(e.File)
	case layout.Moved:
		sh.pinsLess(e.File)
	case layout.Ended:
		if e.Session != 0 {
			out.ended = append(out.ended, e.Session)
		}
	case layout.Refused:
		blockers = a.blockers(sh.m.Blockers(e.File, e.Range, e.Class, e.Session, MaxBlockers))
		out.refused = &Refused{Errno: e.Errno, Reason: e.Reason, File: e.File, Range: e.Range, Blockers: blockers}
		a.answer(sh, e, out.refused)
	case layout.Denied:
		a.answer(sh, e, &Refused{Errno: e.Errno, Reason: e.Reason, File: e.File, Range: e.Range})
	case layout.Granted, layout.Modified:
		a.answer(sh, e, nil)
	case layout.Proceed:
		if !a.answer(sh, e, nil) {
			return // it met nobody: nothing to tell
		}
	}
	a.record(sh, now, e, blockers)
}

// notify has the holder of the lease told.
func (a *Arbiter) notify(now layout.Instant, e *layout.Effect, out *outbox) {
	if h, ok := e.Tag.(Holder); ok {
		out.notices = append(out.notices, notice{h, a.event(a.raw(now, e))})
	}
}

// answer wakes whoever waits for the request, and reports whether somebody did.
func (a *Arbiter) answer(sh *shard, e *layout.Effect, refused *Refused) bool {
	if len(sh.waiters) == 0 {
		return false
	}
	w := sh.waiters[requestName(e)]
	if w == nil {
		return false
	}
	delete(sh.waiters, requestName(e))
	w.ch <- answer{*e, refused}
	return true
}

// flush carries out what a step wants done. What it detaches it reports to the machine, and carries out what comes of that. It
// returns the first error of detaching.
// Preconditions: no lock is held.
func (a *Arbiter) flush(out *outbox) error {
	var first error
	for len(out.notices)+len(out.detach)+len(out.cutPins)+len(out.alarms)+len(out.orphans)+len(out.unhold)+len(out.put)+len(out.ended) > 0 {
		now := *out
		*out = outbox{}
		for _, n := range now.notices {
			n.event.Path = a.storage.Path(n.event.File)
			n.holder.Notify(n.event)
		}
		for _, h := range now.unhold {
			a.storage.Unhold(h)
		}
		for _, d := range now.detach {
			if d.cut {
				a.spawn(func() { a.warn(a.cut(d)) })
				continue
			}
			if err := a.unmap(d, out); err != nil && first == nil {
				first = err
			}
		}
		for _, c := range now.cutPins {
			a.spawn(func() { a.cutStep(c) })
		}
		for _, err := range now.alarms {
			a.warn(err)
		}
		for _, o := range now.orphans {
			a.orphan(o, out)
		}
		for _, f := range now.put {
			a.storage.Put(f)
		}
		for _, id := range now.ended {
			a.sessionLeft(id)
		}
	}
	return first
}

// unmap detaches what was given back. It does not end with its caller: the range would stay in the way of everyone.
func (a *Arbiter) unmap(d detach, out *outbox) error {
	err := a.storage.Unmap(a.ctx, d.file, d.lease, d.r)
	op := layout.OpUnmapped
	if err != nil {
		op = layout.OpUnmapFailed
		err = fmt.Errorf("detach %v of file %d: %w", d.r, d.file, err)
		a.recordCutFailed(d, err)
	}
	sh := a.shardOf(d.file)
	sh.mu.Lock()
	a.step(sh, &layout.Input{Op: op, Lease: d.lease, Range: d.r}, out)
	sh.mu.Unlock()
	return err
}

// cut detaches what was taken away.
func (a *Arbiter) cut(d detach) error {
	err := a.storage.Cut(a.ctx, d.file, d.lease, d.r)
	op := layout.OpCutDone
	if err != nil {
		op = layout.OpCutFailed
		err = fmt.Errorf("cut %v of file %d: %w", d.r, d.file, err)
		a.recordCutFailed(d, err)
	}
	_, stepErr := a.do(a.shardOf(d.file), &layout.Input{Op: op, Lease: d.lease, Range: d.r})
	return errors.Join(err, stepErr)
}
