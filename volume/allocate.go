package volume

import (
	"errors"
	"fmt"
	"syscall"

	"holdfast/device"
	"holdfast/extent"
)

const (
	// discardMin is the least that is worth telling the device about when it is
	// freed.
	discardMin = 1 << 20
	// reserveChunk is how much of the host's space is claimed at a time.
	reserveChunk = 8 << 20
)

// syncStore makes durable what was applied, and frees the blocks that waited for
// that.
func (v *Volume) syncStore() error {
	if err := v.writable(); err != nil {
		return err
	}
	seq := v.applied.Load()
	if v.durable.Load() < seq {
		if err := v.st.Sync(); err != nil {
			return v.fail(err)
		}
		for d := v.durable.Load(); d < seq && !v.durable.CompareAndSwap(d, seq); d = v.durable.Load() {
		}
	}
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	ready := v.space.settled(seq)
	for _, r := range ready {
		// While nobody can have it: a discard that comes late would hit the next owner.
		if r.End-r.Off >= discardMin {
			v.discard(r)
		}
	}
	v.space.reuse(ready)
	return nil
}

func (v *Volume) discard(r extent.Range) {
	v.reserveMu.Lock()
	v.reserved.remove(r)
	v.reserveMu.Unlock()
	if err := v.dev.Discard(r.Off, r.End-r.Off); err != nil {
		v.log.Warn("discard failed", "range", r.String(), "err", err)
	}
}

// reserve claims the host's space for r, which the caller has taken.
func (v *Volume) reserve(r run) error {
	v.reserveMu.Lock()
	defer v.reserveMu.Unlock()
	if v.reserved.contains(r.rng()) {
		return nil
	}
	chunk := extent.Range{
		Off: r.off &^ (reserveChunk - 1),
		End: min((r.off+r.len+reserveChunk-1)&^(reserveChunk-1), v.size.Load()),
	}
	for _, c := range []extent.Range{chunk, r.rng()} {
		err := v.dev.Reserve(c.Off, c.End-c.Off)
		if err == nil {
			v.reserved.add(c)
			return nil
		}
		if errors.Is(err, device.ErrFailed) {
			return v.fail(err)
		}
		if c == r.rng() || !errors.Is(err, syscall.ENOSPC) {
			return err
		}
	}
	return nil
}

// allocate returns want bytes of blocks for n, or ENOSPC and none. More, up to
// ahead, is kept for n's growth at file offset next.
func (v *Volume) allocate(n *Inode, want, ahead, goal, next int64) ([]run, error) {
	runs, ok := v.space.take(n, want, ahead, goal, next)
	if !ok {
		// What is busy becomes free by a sync, what is kept ahead by asking.
		if err := v.syncStore(); err != nil {
			return nil, err
		}
		v.space.dropAllAhead()
		if runs, ok = v.space.take(n, want, 0, goal, next); !ok {
			return nil, fmt.Errorf("allocate %d bytes: %w", want, syscall.ENOSPC)
		}
	}
	for _, r := range runs {
		if err := v.reserve(r); err != nil {
			v.space.give(runs)
			return nil, fmt.Errorf("allocate %d bytes: %w", want, err)
		}
	}
	return runs, nil
}
