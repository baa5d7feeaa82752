package fs

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
)

// diverted returns nil if a write that refusal stopped can go on: it was to take shared blocks
// away from who reaches them directly, and the other files have got copies instead.
func (f *FS) diverted(ctx context.Context, c Caller, i *inode, p plan, refusal error) error {
	if p.class != layout.Subtractive || p.own != stay || !refused(refusal) {
		return refusal
	}
	var rs []extent.Range
	i.mu.RLock()
	err := i.n.HomeExtents(p.r, func(e extent.Extent) bool {
		e = e.Slice(p.r)
		if e.Shared {
			rs = append(rs, extent.Range{Off: e.Addr.Off, End: e.Addr.Off + e.Len})
		}
		return true
	})
	i.mu.RUnlock()
	if err == nil {
		err = f.divert(ctx, c, i, p.r, rs)
	}
	if refused(err) {
		f.log.Debug("shared blocks of a held range were not copied for the others", "inode", i.ino, "range", p.r.String(), "err", err)
		return refusal
	}
	return err
}

// refused reports whether somebody who holds blocks was in the way.
func refused(err error) bool {
	return errors.Is(err, syscall.ETXTBSY) || errors.Is(err, syscall.EDEADLK) || errors.Is(err, syscall.EBUSY)
}

// divert gives all files but i other blocks for rs, if nobody holds them there.
func (f *FS) divert(ctx context.Context, c Caller, i *inode, r extent.Range, rs []extent.Range) error {
	m := f.mover(ctx, c, false)
	var uses []volume.Use
	for _, d := range rs {
		found, err := f.vol.Uses(d, usesAtOnce)
		if err != nil {
			return err
		}
		uses = append(uses, found...)
	}
	uses = slices.DeleteFunc(uses, func(u volume.Use) bool { return u.Ino == i.ino })
	inodes, free, err := m.users(uses)
	defer free()
	if err != nil {
		return err
	}
	var leaves []arbiter.Change
	defer func() {
		for _, l := range leaves {
			l.Done()
		}
	}()
	for _, u := range uses {
		leave, err := f.arb.Break(ctx, c, u.Ino, u.Range, layout.Moving)
		if err != nil {
			return err
		}
		leaves = append(leaves, leave)
	}
	defer lockAll(inodes...)()
	ns := make([]*volume.Inode, len(inodes))
	for k, o := range inodes {
		ns[k] = o.n
		f.changed(o)
	}
	return f.vol.Divert(ctx, rs, ns, i.ino, r)
}
