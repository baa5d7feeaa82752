package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
)

// Moved is what a defragmentation or an evacuation has done.
type Moved struct {
	Bytes   int64     `json:"bytes"`   // that lie elsewhere now
	Skipped []Skipped `json:"skipped"` // what stayed where it was
}

// Skipped is a range that was not moved, and why.
type Skipped struct {
	File     extent.Ino        `json:"file,omitempty"`
	Path     string            `json:"path,omitempty"`
	Range    arbiter.Range     `json:"range"`  // of the file; of the device where no file has it
	Reason   string            `json:"reason"` // why it stayed
	Blockers []arbiter.Blocker `json:"blockers,omitempty"`
}

// mover moves blocks on behalf of somebody.
type mover struct {
	f     *FS
	ctx   context.Context
	c     Caller
	class layout.Class
	done  Moved
}

func (f *FS) mover(ctx context.Context, c Caller, force bool) *mover {
	m := &mover{f: f, ctx: ctx, c: c, class: layout.Moving, done: Moved{Skipped: []Skipped{}}}
	if force {
		m.class, m.c.OnHold = layout.Subtractive, layout.Revoke
	}
	return m
}

// moveStep is how much is moved at once. The files are locked for as long as that takes.
const moveStep = 8 << 20

// Defrag brings the blocks of a file together, where it can, while it is in use. What is
// held is skipped; with force its holders are asked, and in the end cut off.
func (f *FS) Defrag(ctx context.Context, c Caller, ino extent.Ino, force bool) (Moved, error) {
	m := f.mover(ctx, c, force)
	err := f.withInode(ino, func(i *inode) error {
		if err := f.sync(ctx, i); err != nil {
			return err
		}
		for pos := int64(0); pos < extent.Inf; {
			rs, r, err := i.scattered(pos)
			if err != nil || r.Empty() {
				return err
			}
			pos = r.End
			if len(rs) < 2 {
				continue
			}
			if err := m.move(rs, true, ino, r); err != nil {
				return err
			}
		}
		return nil
	})
	return m.done, err
}

// scattered returns the blocks of the first stretch of the file at or behind pos that has
// no hole and is at most moveStep long, in order, and that stretch.
func (i *inode) scattered(pos int64) (rs []extent.Range, r extent.Range, err error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if err := i.regular(); err != nil {
		return nil, r, err
	}
	err = i.n.HomeExtents(extent.Range{Off: pos, End: extent.Inf}, func(e extent.Extent) bool {
		if len(rs) == 0 {
			r = extent.Range{Off: e.Off, End: e.Off}
		}
		n := min(e.Len, moveStep-r.Len())
		if e.Off != r.End || n == 0 {
			return false
		}
		r.End += n
		if k := len(rs) - 1; k >= 0 && rs[k].End == e.Addr.Off {
			rs[k].End += n
		} else {
			rs = append(rs, extent.Range{Off: e.Addr.Off, End: e.Addr.Off + n})
		}
		return n == e.Len
	})
	return rs, r, err
}

// Evacuate moves all that lies at or behind size on the device away, and makes the volume
// that long. What is held stays; then the volume keeps its size, EBUSY. With force its
// holders are asked, and in the end cut off.
func (f *FS) Evacuate(ctx context.Context, c Caller, size int64, force bool) (moved Moved, err error) {
	size = extent.RoundDown(size)
	if err := f.vol.Withhold(size); err != nil {
		return Moved{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.vol.Withhold(extent.MaxSize))
		}
	}()
	if err := f.Sync(ctx); err != nil {
		return Moved{}, err
	}
	m := f.mover(ctx, c, force)
	if err := m.empty(extent.Range{Off: size, End: extent.MaxSize}); err != nil {
		return m.done, err
	}
	if n := len(m.done.Skipped); n > 0 {
		s := m.done.Skipped[0]
		return m.done, fmt.Errorf("%d ranges behind %d cannot be moved, the first is %v of %s: %s: %w",
			n, size, s.Range, s.Path, s.Reason, syscall.EBUSY)
	}
	return m.done, f.vol.Shrink(size)
}

// usesAtOnce bounds how many uses of blocks are looked up at a time.
const usesAtOnce = 256

// empty moves away what files have in r of the device.
func (m *mover) empty(r extent.Range) error {
	for {
		uses, err := m.f.vol.Uses(r, usesAtOnce)
		if err != nil {
			return err
		}
		for _, u := range uses {
			for d := u.Device; d.Off < d.End; {
				p := extent.Range{Off: d.Off, End: min(d.End, d.Off+moveStep)}
				off := u.Range.Off + p.Off - u.Device.Off
				if err := m.move([]extent.Range{p}, false, u.Ino, extent.Range{Off: off, End: off + p.Len()}); err != nil {
					return err
				}
				d.Off = p.End
			}
			r.Off = u.Device.End
		}
		if len(uses) < usesAtOnce {
			break
		}
	}
	for _, o := range m.f.Orphans() {
		if d := (extent.Range{Off: o.Addr, End: o.Addr + o.Len}); d.End > r.Off && o.Addr >= r.Off {
			m.done.Skipped = append(m.done.Skipped, Skipped{
				File: o.File, Path: o.Path, Range: arbiter.RangeOf(d), Reason: "its file has given it up, and it is still held",
			})
		}
	}
	return nil
}

// move moves blocks, which ino has in r, for all files that have them, or notes why not.
func (m *mover) move(rs []extent.Range, together bool, ino extent.Ino, r extent.Range) error {
	const tries = 8 // files get the blocks, too, meanwhile
	var err error
	for range tries {
		if err = m.ctx.Err(); err != nil {
			return err
		}
		if err = m.moveOnce(rs, together); !errors.Is(err, volume.ErrOwners) {
			break
		}
	}
	switch {
	case err == nil:
		for _, p := range rs {
			m.done.Bytes += p.Len()
		}
		return nil
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ETXTBSY), errors.Is(err, syscall.ENOENT),
		errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.EDEADLK), errors.Is(err, volume.ErrSum), together && errors.Is(err, syscall.ENOSPC):
		s := Skipped{File: ino, Path: m.f.Path(ino), Range: arbiter.RangeOf(r), Reason: err.Error()}
		var refused *arbiter.Refused
		if errors.As(err, &refused) {
			s.File, s.Path, s.Reason, s.Blockers = refused.File, m.f.Path(refused.File), refused.Reason, refused.Blockers
		}
		m.done.Skipped = append(m.done.Skipped, s)
		return nil
	}
	return err
}

// moveOnce asks leave on all files that have the blocks, and moves them.
func (m *mover) moveOnce(rs []extent.Range, together bool) error {
	var uses []volume.Use
	for _, r := range rs {
		found, err := m.f.vol.Uses(r, usesAtOnce)
		if err != nil {
			return err
		}
		uses = append(uses, found...)
	}
	inodes, free, err := m.users(uses)
	defer free()
	if err != nil {
		return err
	}
	for _, u := range uses {
		leave, err := m.f.arb.Break(m.ctx, m.c, u.Ino, u.Range, m.class)
		if err != nil {
			return err
		}
		defer leave.Done()
	}
	defer lockAll(inodes...)()
	ns := make([]*volume.Inode, len(inodes))
	for k, i := range inodes {
		ns[k] = i.n
		m.f.changed(i)
	}
	return m.f.vol.Move(rs, ns, together)
}

// users returns the files of uses, each once, until free is called.
func (m *mover) users(uses []volume.Use) (inodes []*inode, free func(), err error) {
	free = func() {
		for _, i := range inodes {
			m.f.put(i)
		}
	}
	for _, u := range uses {
		if slices.ContainsFunc(inodes, func(i *inode) bool { return i.ino == u.Ino }) {
			continue
		}
		i, err := m.f.get(u.Ino)
		if err != nil {
			return inodes, free, err
		}
		inodes = append(inodes, i)
	}
	return inodes, free, nil
}
