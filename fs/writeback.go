package fs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
	"holdfast/window"
)

// dirtyParts returns what of m may differ from its home: all if the mount wrote
// through it, else what holders of write leases have or had mapped. It needs winMu.
func (i *inode) dirtyParts(m *mapping, soiled bool) ranges {
	if soiled {
		return m.live
	}
	return m.live.and(m.writable)
}

// soiledParts is dirtyParts without what only holders can have written.
func (i *inode) soiledParts(m *mapping, soiled bool) ranges {
	if soiled {
		return m.live
	}
	return nil
}

// writeBackAll writes back all windows of the inode, as far as which says.
func (f *FS) writeBackAll(i *inode, which func(*inode, *mapping, bool) ranges) error {
	i.mu.RLock()
	none := len(i.windows) == 0
	i.mu.RUnlock()
	if none {
		return nil
	}
	i.winMu.Lock()
	defer i.winMu.Unlock()
	var errs []error
	for _, m := range i.windows {
		soiled := m.dirty.Swap(false) // before the copy: what is written from now on is for the next time
		err := f.writeBack(i, m, which(i, m, soiled))
		if err != nil && soiled {
			m.dirty.Store(true)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// writeBack copies parts of m to their home. It needs winMu.
func (f *FS) writeBack(i *inode, m *mapping, parts ranges) error {
	return f.each(parts, func(p extent.Range, buf []byte) error {
		i.lock()
		defer i.mu.Unlock()
		return f.copyHome(i, m, p, buf)
	})
}

// each calls fn for parts, a chunk at a time, with a buffer of its size.
func (f *FS) each(parts ranges, fn func(p extent.Range, buf []byte) error) error {
	if len(parts) == 0 {
		return nil
	}
	buf := make([]byte, min(chunk, parts.bytes()))
	for _, r := range parts {
		for pos := r.Off; pos < r.End; pos += chunk {
			p := extent.Range{Off: pos, End: min(pos+chunk, r.End)}
			if err := fn(p, buf[:p.Len()]); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyHome writes p, whole blocks of m, to its home, up to the end of file and without
// its holes. It needs mu exclusive.
func (f *FS) copyHome(i *inode, m *mapping, p extent.Range, buf []byte) error {
	p.End = min(p.End, extent.RoundUp(i.n.Attr.Size))
	if p.Empty() {
		return nil
	}
	buf = buf[:p.Len()]
	if _, err := m.w.ReadAt(buf, m.addr(p.Off).Off); err != nil {
		return err
	}
	if err := i.n.WriteHome(buf, p.Off); err != nil {
		return err
	}
	f.changed(i)
	return nil
}

// detach ends windows over parts: it writes them back, makes the device their
// address again, and takes the pages out of the windows. It needs winMu.
//
// Of a window that a holder damaged the content is lost, and the home keeps what was
// last written back. If the device fails, detach stops and can be called again, unless
// forced: then it goes on and only logs what is lost.
func (f *FS) detach(i *inode, parts ranges, forced bool) error {
	for _, m := range append([]*mapping(nil), i.windows...) {
		err := f.each(parts.and(m.live), func(p extent.Range, buf []byte) error {
			i.lock()
			defer i.mu.Unlock()
			return f.bringHome(i, m, p, buf, forced)
		})
		if err != nil {
			return err
		}
		f.release(i, m)
	}
	return nil
}

// bringHome writes back what of p is dirty and makes the device the address of
// p. Both under one lock, so that no write of the mount gets lost between. It
// needs winMu, and mu exclusive.
func (f *FS) bringHome(i *inode, m *mapping, p extent.Range, buf []byte, forced bool) error {
	for _, d := range i.dirtyParts(m, m.dirty.Load()).and(ranges{p}) {
		err := f.copyHome(i, m, d, buf[:d.Len()])
		if err != nil && !forced && !errors.Is(err, window.ErrDamaged) {
			return err
		}
		if err != nil {
			f.log.Error("content of a window is lost", "inode", i.ino, "path", f.Path(i.ino), "range", d.String(), "err", err)
		}
	}
	return f.leave(i, m, p, forced)
}

// leave makes the device the address of p again, which is live in m, and takes
// the pages out of the window. It needs winMu, and mu exclusive.
func (f *FS) leave(i *inode, m *mapping, p extent.Range, forced bool) error {
	if err := i.n.Home(p); err != nil {
		if !forced {
			return err
		}
		f.log.Error("range did not come home from its window", "inode", i.ino, "range", p.String(), "err", err)
	}
	m.live = m.live.minus(ranges{p})
	if len(m.live) == 0 {
		return nil // release takes all pages at once
	}
	if err := m.w.DetachRange(m.addr(p.Off).Off, p.Len()); err != nil {
		f.log.Warn("pages stay with a holder who sealed them", "inode", i.ino, "range", p.String(), "err", err)
	}
	return nil
}

// release ends a window of which nothing is live any more. It needs winMu, and
// not mu.
func (f *FS) release(i *inode, m *mapping) {
	if len(m.live) > 0 {
		return
	}
	i.mu.Lock()
	f.forget(i, m)
	i.mu.Unlock()
}

// forget is release with mu held as well.
func (f *FS) forget(i *inode, m *mapping) {
	for k, o := range i.windows {
		if o == m {
			i.windows = append(i.windows[:k:k], i.windows[k+1:]...)
			break
		}
	}
	kept := f.orphans.leave(m)
	if len(kept) == 0 {
		f.endWindow(m)
		return
	}
	for _, p := range (ranges{m.r}).minus(kept) {
		if err := m.w.DetachRange(m.addr(p.Off).Off, p.Len()); err != nil {
			f.log.Warn("pages stay with a holder who sealed them", "inode", i.ino, "range", p.String(), "err", err)
		}
	}
}

// discardWindows ends windows over whole blocks that are about to be freed,
// without writing them back. They are the caller's own: everybody else's were
// given back before. It needs winMu, and mu exclusive.
func (f *FS) discardWindows(i *inode, r extent.Range) error {
	if r.Empty() {
		return nil // no whole block
	}
	f.unexposeAll(i, r)
	for _, m := range append([]*mapping(nil), i.windows...) {
		for _, p := range m.live.and(ranges{r}) {
			if err := f.leave(i, m, p, false); err != nil {
				return err
			}
		}
		if len(m.live) == 0 {
			f.forget(i, m)
		}
	}
	for lease := range i.users {
		f.unuse(i, lease, ranges{r})
	}
	return nil
}

// homeWindows ends windows over r, whole blocks, and writes back what is dirty. They
// are the caller's own. It needs winMu, and mu exclusive.
func (f *FS) homeWindows(i *inode, r extent.Range) error {
	f.unexposeAll(i, r)
	for _, m := range append([]*mapping(nil), i.windows...) {
		err := f.each(m.live.and(ranges{r}), func(p extent.Range, buf []byte) error {
			return f.bringHome(i, m, p, buf, false)
		})
		if err != nil {
			return err
		}
		if len(m.live) == 0 {
			f.forget(i, m)
		}
	}
	for lease := range i.users {
		f.unuse(i, lease, ranges{r})
	}
	return nil
}

// unmap ends the mapping of r by a lease. What it may have written becomes
// content, and what no other lease maps is detached. It reports whether the lease
// was one for writing.
func (f *FS) unmap(i *inode, lease layout.LeaseID, r extent.Range, forced bool) (wrote bool, err error) {
	i.winMu.Lock()
	defer i.winMu.Unlock()
	f.cutFormer(i, lease, r)
	u := i.users[lease]
	if u == nil {
		return false, nil
	}
	parts := u.parts.and(ranges{r.RoundOut()})
	if len(parts) == 0 {
		return false, nil
	}
	f.unexpose(i, lease, parts)
	others := i.users.mapped(func(id layout.LeaseID, _ *user) bool { return id != lease })
	if u.write {
		if err := f.writeBackShared(i, parts.and(others)); err != nil && !forced {
			return false, err
		}
		writers := i.users.mapped(func(id layout.LeaseID, u *user) bool { return id != lease && u.write })
		i.lock()
		f.clearTail(i, parts.and(others).minus(writers))
		f.touch(i)
		f.changed(i)
		i.mu.Unlock()
	}
	if err := f.detach(i, parts.minus(others), forced); err != nil {
		return false, err
	}
	f.unuse(i, lease, parts)
	return u.write, nil
}

// clearTail zeroes what of parts lies behind the end of file, in the windows that they stay
// in: it was the holder's who has just left, and must not appear when the file grows. It
// needs winMu, and mu exclusive.
func (f *FS) clearTail(i *inode, parts ranges) {
	tail := parts.and(ranges{{Off: i.n.Attr.Size, End: extent.Inf}})
	for _, m := range i.windows {
		err := f.each(m.live.and(tail), func(p extent.Range, zeros []byte) error {
			_, err := m.w.WriteAt(zeros, m.addr(p.Off).Off)
			return err
		})
		if err != nil { // the holder damaged it: reads of it fail
			f.log.Warn("bytes behind the end of file stay in a window", "inode", i.ino, "range", m.r.String(), "err", err)
		}
	}
}

// writeBackShared writes back parts that stay in windows because others map them.
func (f *FS) writeBackShared(i *inode, parts ranges) error {
	for _, m := range i.windows {
		err := f.writeBack(i, m, m.live.and(parts))
		if err != nil && !errors.Is(err, window.ErrDamaged) {
			return err
		}
	}
	return nil
}

// Commit makes what the holder of a write lease wrote directly in r, until now,
// durable content. A size lets the file grow to it; -1 leaves the size.
func (f *FS) Commit(ctx context.Context, lease layout.LeaseID, ino extent.Ino, r extent.Range, size int64) error {
	if r.Off < 0 || r.Empty() {
		return fmt.Errorf("commit %v: %w", r, syscall.EINVAL)
	}
	if size != -1 {
		if err := checkSize(size); err != nil {
			return err
		}
		if size > r.End {
			return fmt.Errorf("commit %v with size %d, which lies behind it: %w", r, size, syscall.EINVAL)
		}
	}
	err := f.withInode(ino, func(i *inode) error {
		if err := f.commitWindows(i, lease, r.RoundOut(), size); err != nil {
			return err
		}
		return f.vol.Sync(ctx, i.n, &i.mu)
	})
	if err == nil {
		f.dropped(ino)
	}
	return err
}

func (f *FS) commitWindows(i *inode, lease layout.LeaseID, r extent.Range, size int64) error {
	i.winMu.Lock()
	defer i.winMu.Unlock()
	if _, err := f.checkLease(lease, i.ino, r, true); err != nil {
		return err
	}
	if err := f.grow(i, size); err != nil {
		return err
	}
	u := i.users[lease]
	if u == nil {
		return nil
	}
	for _, m := range i.windows {
		if err := f.writeBack(i, m, m.live.and(u.parts).and(ranges{r})); err != nil {
			return err
		}
	}
	return nil
}

// grow lets the file grow to size and sets its times.
func (f *FS) grow(i *inode, size int64) error {
	i.lock()
	defer i.mu.Unlock()
	if err := f.writable(); err != nil {
		return err
	}
	if size > i.n.Attr.Size {
		if err := i.n.Truncate(size); err != nil {
			return err
		}
	}
	f.touch(i)
	f.changed(i)
	return nil
}
