package fs

import (
	"context"
	"fmt"
	"syscall"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// storage is the FS as the arbiter sees it.
type storage FS

var _ arbiter.Storage = (*storage)(nil)

func (s *storage) fs() *FS { return (*FS)(s) }

// Storage is the FS as the arbiter sees it.
func (f *FS) Storage() arbiter.Storage { return (*storage)(f) }

// Prepare allocates and writes zeros as the flags say, and gives the file blocks of its
// own where they will be written to. Of a range to infinity
// that is what lies before the end of file.
func (s *storage) Prepare(ctx context.Context, file extent.Ino, r extent.Range, access layout.Access, flags arbiter.PrepareFlags) error {
	return s.fs().withSpace(ctx, func() error { return s.prepare(ctx, file, r, access, flags) })
}

func (s *storage) prepare(ctx context.Context, file extent.Ino, r extent.Range, access layout.Access, flags arbiter.PrepareFlags) error {
	return s.fs().withInode(file, func(i *inode) error {
		i.mu.RLock()
		size, err := i.n.Attr.Size, i.regular()
		i.mu.RUnlock()
		if err != nil {
			return err
		}
		if r = r.RoundOut(); r.End == extent.Inf {
			r.End = extent.RoundUp(size)
		}
		if r.End > extent.MaxSize {
			return fmt.Errorf("prepare %v: %w", r, syscall.EFBIG)
		}
		if r.Empty() {
			return nil
		}
		if access == layout.Write {
			if err := s.fs().unshareFor(ctx, i, r); err != nil {
				return err
			}
		}
		if flags&(arbiter.PrepareAllocate|arbiter.PrepareWritten) == 0 {
			return nil
		}
		return s.fs().prepare(ctx, i, r, flags&arbiter.PrepareWritten != 0)
	})
}

// prepare fills the holes of r, and with zeros what was never written.
func (f *FS) prepare(ctx context.Context, i *inode, r extent.Range, zero bool) error {
	if err := f.fill(i, r); err != nil || !zero {
		return err
	}
	return f.each(ranges{r}, func(p extent.Range, zeros []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return f.zeroUnwritten(i, p, zeros)
	})
}

func (f *FS) zeroUnwritten(i *inode, r extent.Range, zeros []byte) error {
	i.lock()
	defer i.mu.Unlock()
	var todo []extent.Range
	err := i.n.HomeExtents(r, func(e extent.Extent) bool {
		if e.State == extent.Unwritten {
			todo = append(todo, e.Range().Intersect(r))
		}
		return true
	})
	for _, t := range todo {
		if err == nil {
			err = i.n.WriteHome(zeros[:t.Len()], t.Off)
		}
	}
	f.changed(i)
	return err
}

func (s *storage) Hold(file extent.Ino, r extent.Range, uid uint32) (hold uint64, err error) {
	err = s.fs().withInode(file, func(i *inode) error {
		i.mu.RLock()
		defer i.mu.RUnlock()
		hold, err = i.n.Hold(r, uid)
		return err
	})
	return hold, err
}

func (s *storage) Unhold(hold uint64) {
	s.fs().dropOrphan(hold)
	s.vol.Unhold(hold)
	s.fs().orphans.wake()
}

// OnClose implements arbiter.OnCloser.
func (s *storage) OnClose(file extent.Ino) layout.OnClose { return s.fs().OnClose(file) }

func (s *storage) Unmap(ctx context.Context, file extent.Ino, lease layout.LeaseID, r extent.Range) error {
	return s.fs().endMapping(ctx, file, lease, r, false)
}

func (s *storage) Cut(ctx context.Context, file extent.Ino, lease layout.LeaseID, r extent.Range) error {
	return s.fs().endMapping(ctx, file, lease, r, true)
}

func (f *FS) endMapping(ctx context.Context, file extent.Ino, lease layout.LeaseID, r extent.Range, forced bool) error {
	err := f.withInode(file, func(i *inode) error {
		wrote, err := f.unmap(i, lease, r, forced)
		if err == nil && wrote && !forced { // what is given back is committed, what is cut need not be
			err = f.vol.Sync(ctx, i.n, &i.mu)
		}
		return err
	})
	f.invalidated(file)
	return err
}

func (s *storage) Get(file extent.Ino) error {
	_, err := s.fs().get(file) // until Put
	return err
}

func (s *storage) Put(file extent.Ino) {
	if i := s.fs().cached(file); i != nil {
		s.fs().put(i)
	}
}

func (s *storage) Path(file extent.Ino) string { return s.fs().Path(file) }
