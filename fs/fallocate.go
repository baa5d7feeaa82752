package fs

import (
	"context"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/layout"
)

// Fallocate alters the blocks of a range, as fallocate(2).
func (f *FS) Fallocate(ctx context.Context, c Caller, ino extent.Ino, mode uint32, off, n int64) error {
	if off < 0 || n <= 0 {
		return fmt.Errorf("fallocate [%d,+%d): %w", off, n, syscall.EINVAL)
	}
	if off > extent.MaxSize || n > extent.MaxSize-off {
		return fmt.Errorf("fallocate [%d,+%d): %w", off, n, syscall.EFBIG)
	}
	r := extent.Range{Off: off, End: off + n}
	return f.withInode(ino, func(i *inode) error {
		keep := mode&unix.FALLOC_FL_KEEP_SIZE != 0
		switch mode {
		case 0, unix.FALLOC_FL_KEEP_SIZE:
			return f.allocate(ctx, c, i, r, keep)
		case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
			return f.punch(ctx, c, i, r)
		case unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
			return f.zeroRange(ctx, c, i, r, keep)
		case unix.FALLOC_FL_COLLAPSE_RANGE:
			return f.shift(ctx, c, i, r, i.n.CanCollapse, i.n.Collapse)
		case unix.FALLOC_FL_INSERT_RANGE:
			return f.shift(ctx, c, i, r, i.n.CanInsert, i.n.Insert)
		case unix.FALLOC_FL_UNSHARE_RANGE, unix.FALLOC_FL_UNSHARE_RANGE | unix.FALLOC_FL_KEEP_SIZE:
			if err := f.allocate(ctx, c, i, r, keep); err != nil {
				return err
			}
			return f.unshare(ctx, c, i, r)
		}
		return fmt.Errorf("fallocate mode %#x: %w", mode, syscall.EOPNOTSUPP)
	})
}

// Reshape is Fallocate by another way than the mount.
func (f *FS) Reshape(ctx context.Context, c Caller, ino extent.Ino, mode uint32, r extent.Range) error {
	f.dropped(ino)
	err := f.withInode(ino, func(i *inode) error {
		err := f.killedCapabilities(i, f.Fallocate(ctx, c, ino, mode, r.Off, r.Len()))
		if err == nil && !c.Admin {
			err = f.killPriv(i)
		}
		return err
	})
	if err == nil {
		f.dropped(ino)
	}
	return err
}

// zeroRange makes a range zeros and keeps its blocks: it meets whom a write of zeros
// would meet, except that unwritten blocks stay as they are.
func (f *FS) zeroRange(ctx context.Context, c Caller, i *inode, r extent.Range, keepSize bool) error {
	return f.change(ctx, c, i, func() (plan, error) {
		if err := i.regular(); err != nil {
			return plan{}, err
		}
		if shared, err := i.n.Shared(r); shared || err != nil {
			return plan{layout.Subtractive, r.RoundOut(), stay}, err
		}
		if holes, err := i.hasHole(r); holes || err != nil {
			return plan{class: layout.Additive, r: r.RoundOut()}, err
		}
		return plan{}, nil
	}, func() error {
		if err := i.n.ZeroRange(r, keepSize); err != nil {
			return err
		}
		i.soil(r)
		f.touch(i)
		return nil
	})
}

// shift takes a range out of the file or puts one in: all behind its beginning comes
// to lie elsewhere in the file. What makes no sense is refused before anybody is asked.
func (f *FS) shift(ctx context.Context, c Caller, i *inode, r extent.Range, can, apply func(extent.Range) error) error {
	return f.change(ctx, c, i, func() (plan, error) {
		if err := i.regular(); err != nil {
			return plan{}, err
		}
		if err := can(r); err != nil {
			return plan{}, err
		}
		return plan{layout.Subtractive, extent.Range{Off: r.Off, End: extent.Inf}, comeHome}, nil
	}, func() error {
		if err := apply(r); err != nil {
			return err
		}
		f.touch(i)
		return nil
	})
}

// unshareStep is how much is copied at a time. The inode is locked for as long as
// that takes, and not longer.
const unshareStep = 8 << 20

// unshare gives the file blocks of its own in r.
func (f *FS) unshare(ctx context.Context, c Caller, i *inode, r extent.Range) error {
	return steps(ctx, r, func(p extent.Range) error {
		return f.change(ctx, c, i, func() (plan, error) {
			shared, err := i.n.Shared(p)
			if shared {
				return plan{layout.Subtractive, p.RoundOut(), stay}, err
			}
			return plan{}, err
		}, func() error { return i.n.Unshare(p) })
	})
}

// unshareFor gives the file blocks of its own in r, for somebody who is about to
// write to them directly. Nobody is asked: who has the range mapped keeps his window.
func (f *FS) unshareFor(ctx context.Context, i *inode, r extent.Range) error {
	for !r.Empty() {
		if err := ctx.Err(); err != nil {
			return err
		}
		i.lock()
		err := f.unshareFirst(i, &r)
		i.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// unshareFirst unshares what is shared first in r, and takes it and what is before it
// out of r, which may be a large hole. It needs mu exclusive.
func (f *FS) unshareFirst(i *inode, r *extent.Range) error {
	p := extent.Range{Off: r.End, End: r.End}
	err := i.n.Extents(*r, func(e extent.Extent) bool {
		if e.Shared {
			p.Off = e.Off
		}
		return !e.Shared
	})
	p.End = min(r.End, (p.Off/unshareStep+1)*unshareStep)
	r.Off = p.End
	if err != nil || p.Empty() {
		return err
	}
	defer f.changed(i)
	return i.n.Unshare(p)
}

// steps calls fn for r in parts of unshareStep, aligned to that.
func steps(ctx context.Context, r extent.Range, fn func(extent.Range) error) error {
	for r.Off < r.End {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := extent.Range{Off: r.Off, End: min(r.End, (r.Off/unshareStep+1)*unshareStep)}
		if err := fn(p); err != nil {
			return err
		}
		r.Off = p.End
	}
	return nil
}
