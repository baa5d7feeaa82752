package fs

import (
	"context"
	"fmt"
	"syscall"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// plan is what an operation would do to the mapping of a file.
type plan struct {
	class layout.Class
	r     extent.Range // empty where class is none
	own   fate         // where class is subtractive
}

// fate is what becomes of the caller's own windows in the range of a subtractive
// change. Everybody else's have come home by then.
type fate uint8

const (
	discarded fate = iota // their blocks go
	stay                  // their blocks are replaced by others with the same content
	comeHome              // their blocks become those of another range
)

// within reports whether leave for o covers p.
func (p plan) within(o plan) bool {
	return !p.meets() || p.class == o.class && o.r.Contains(p.r)
}

// meets reports whether the arbiter has to be asked: what does not alter the
// mapping, and what extends the file, meets nobody.
func (p plan) meets() bool { return p.class != layout.None && p.class != layout.Size }

// change makes a plan, asks for leave and applies it. makePlan and apply are called with
// i.mu held, shared or exclusive and exclusive; makePlan may be called often. The mutexes of
// others are held as well when it is applied.
func (f *FS) change(ctx context.Context, c Caller, i *inode, makePlan func() (plan, error), apply func() error, others ...*inode) error {
	return f.withSpace(ctx, func() error { return f.changeOnce(ctx, c, i, makePlan, apply, others) })
}

func (f *FS) changeOnce(ctx context.Context, c Caller, i *inode, makePlan func() (plan, error), apply func() error, others []*inode) error {
	i.mu.RLock()
	asked, err := makePlan()
	c = i.byPolicy(c)
	i.mu.RUnlock()
	diverted := false
	for err == nil {
		var leave arbiter.Change
		if asked.meets() {
			leave, err = f.arb.Break(ctx, c, i.ino, asked.r, asked.class)
			if err != nil && !diverted {
				if err = f.diverted(ctx, c, i, asked, err); err == nil {
					diverted = true
					i.mu.RLock()
					asked, err = makePlan()
					i.mu.RUnlock()
					continue
				}
			}
			if err != nil {
				return err
			}
		}
		var done bool
		done, asked, err = f.applyUnder(i, asked, makePlan, apply, others)
		leave.Done()
		if done {
			return err
		}
	}
	return err
}

// applyUnder applies the change if its plan is still within what was asked for. Else it
// returns the plan as it is now.
func (f *FS) applyUnder(i *inode, asked plan, makePlan func() (plan, error), apply func() error, others []*inode) (bool, plan, error) {
	if asked.class == layout.Subtractive {
		// The caller's own windows may be in the range.
		i.winMu.Lock()
		defer i.winMu.Unlock()
	}
	defer lockAll(append([]*inode{i}, others...)...)()
	p, err := makePlan()
	if err != nil || !p.within(asked) {
		return false, p, err
	}
	if p.class == layout.Subtractive {
		if err := f.endOwnWindows(i, p); err != nil {
			return true, p, err
		}
	}
	err = apply()
	f.changed(i)
	return true, p, err
}

// endOwnWindows does to the caller's own windows what a subtractive change needs. It
// needs winMu, and mu exclusive.
func (f *FS) endOwnWindows(i *inode, p plan) error {
	switch p.own {
	case discarded:
		return f.discardWindows(i, p.r.RoundIn())
	case comeHome:
		return f.homeWindows(i, p.r)
	}
	return nil
}

// regular refuses what has no content.
func (i *inode) regular() error {
	switch i.n.Attr.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return nil
	case syscall.S_IFDIR:
		return fmt.Errorf("inode %d is a directory: %w", i.ino, syscall.EISDIR)
	}
	return fmt.Errorf("inode %d is not a regular file: %w", i.ino, syscall.EINVAL)
}

// setSize truncates, up or down, and sets the other attributes with it.
func (f *FS) setSize(ctx context.Context, c Caller, i *inode, s SetAttr) (a Attr, err error) {
	if err := checkSize(s.Size); err != nil {
		return Attr{}, err
	}
	makePlan := func() (plan, error) {
		if err := i.regular(); err != nil {
			return plan{}, err
		}
		switch size := i.n.Attr.Size; {
		case s.Size < size:
			return plan{layout.Subtractive, extent.Range{Off: s.Size, End: extent.Inf}, discarded}, nil
		case s.Size > size:
			return plan{class: layout.Size, r: extent.Range{Off: size, End: s.Size}}, nil
		}
		return plan{}, nil
	}
	err = f.change(ctx, c, i, makePlan, func() error {
		if s.Size != i.n.Attr.Size {
			if err := i.n.Truncate(s.Size); err != nil {
				return err
			}
		}
		if a, err = f.apply(i, s, true); err != nil {
			return err
		}
		return f.killCapabilities(i)
	})
	return a, err
}

// Truncate sets the size of a file by another way than the mount.
func (f *FS) Truncate(ctx context.Context, c Caller, ino extent.Ino, size int64) error {
	s := SetAttr{Valid: SetSize, Size: size}
	if !c.Admin {
		s.Valid |= KillPriv
	}
	f.dropped(ino)
	_, err := f.SetAttr(ctx, c, ino, s)
	if err == nil {
		f.dropped(ino)
	}
	return err
}

func (f *FS) withInode(ino extent.Ino, fn func(*inode) error) error {
	i, err := f.get(ino)
	if err != nil {
		return err
	}
	defer f.put(i)
	return fn(i)
}

func (f *FS) allocate(ctx context.Context, c Caller, i *inode, r extent.Range, keepSize bool) error {
	return f.change(ctx, c, i, func() (plan, error) {
		if err := i.regular(); err != nil {
			return plan{}, err
		}
		holes, err := i.hasHole(r)
		if holes {
			return plan{class: layout.Additive, r: r.RoundOut()}, err
		}
		return plan{}, err
	}, func() error {
		before := i.n.Attr.Size
		if err := i.n.Allocate(r, keepSize); err != nil {
			return err
		}
		i.n.Attr.Ctime = f.stamp()
		if i.n.Attr.Size != before {
			f.touch(i)
		}
		return nil
	})
}

func (f *FS) punch(ctx context.Context, c Caller, i *inode, r extent.Range) error {
	if r.Off < 0 || r.Empty() {
		return fmt.Errorf("punch %v: %w", r, syscall.EINVAL)
	}
	return f.change(ctx, c, i, func() (plan, error) {
		if err := i.regular(); err != nil {
			return plan{}, err
		}
		blocks, err := i.hasBlock(r)
		if blocks {
			return plan{layout.Subtractive, r, discarded}, err // the arbiter rounds it out; whole blocks inside it are freed
		}
		return plan{}, err
	}, func() error {
		if err := i.n.Punch(r); err != nil {
			return err
		}
		f.touch(i)
		return nil
	})
}

// hasHole reports whether a block of r is missing. It needs mu shared.
func (i *inode) hasHole(r extent.Range) (bool, error) {
	r = r.RoundOut()
	pos := r.Off
	err := i.n.Extents(r, func(e extent.Extent) bool {
		if e.Off > pos {
			return false
		}
		pos = e.Off + e.Len
		return pos < r.End
	})
	return pos < r.End, err
}

// hasBlock reports whether r has a block. It needs mu shared.
func (i *inode) hasBlock(r extent.Range) (found bool, err error) {
	err = i.n.Extents(r.RoundOut(), func(extent.Extent) bool {
		found = true
		return false
	})
	return found, err
}

// Class says what a write to r, or its allocation, would be to holders of leases.
func (f *FS) Class(_ context.Context, ino extent.Ino, r extent.Range) (class layout.Class, err error) {
	err = f.withInode(ino, func(i *inode) error {
		i.mu.RLock()
		defer i.mu.RUnlock()
		if err := i.regular(); err != nil {
			return err
		}
		p, err := i.planWrite(r)
		class = p.class
		return err
	})
	return class, err
}
