package arbiter

import (
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
)

// orphaning is a part of a pin whose file is to give it up, before a change that is deferred goes on.
type orphaning struct {
	file   extent.Ino
	change layout.ChangeID
	pin    layout.PinID
	hold   uint64
	r      extent.Range
}

// orphan has the storage do it, and tells the machine how that went.
func (a *Arbiter) orphan(o orphaning, out *outbox) {
	in := layout.Input{Op: layout.OpOrphaned, File: o.file, Change: o.change, Pin: o.pin, Range: o.r}
	if err := a.tryOrphan(o); err != nil {
		in.Op, in.Reason = layout.OpOrphanFailed, fmt.Sprintf("what is pinned cannot be orphaned: %v", err)
	}
	sh := a.shardOf(o.file)
	sh.mu.Lock()
	a.step(sh, &in, out)
	sh.mu.Unlock()
}

func (a *Arbiter) tryOrphan(o orphaning) error {
	if o.hold == 0 {
		return fmt.Errorf("pin %d is being made: %w", o.pin, syscall.EAGAIN)
	}
	return a.storage.Orphan(o.file, o.hold, o.r)
}
