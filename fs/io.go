package fs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/layout"
)

// Open counts a use of the file, until Release.
func (f *FS) Open(_ context.Context, _ Caller, ino extent.Ino, _ uint32) error {
	i, err := f.get(ino) // kept until Release
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.opens++
	i.mu.Unlock()
	return nil
}

// Release ends a use of the file. The last one gives back blocks taken ahead.
func (f *FS) Release(ino extent.Ino) {
	i, err := f.get(ino)
	if err != nil {
		return
	}
	i.mu.Lock()
	opened := i.opens > 0
	if opened {
		i.opens--
	}
	if i.opens == 0 && i.grown {
		i.grown = false
		i.n.TrimPrealloc()
	}
	i.mu.Unlock()
	f.put(i)
	if opened {
		f.put(i)
	}
}

// Read reads up to the end of file: less than len(p) means that it was met.
func (f *FS) Read(_ context.Context, ino extent.Ino, p []byte, off int64) (int, error) {
	return f.read(ino, p, off, true)
}

// ReadNoAtime is Read that leaves the time of access alone.
func (f *FS) ReadNoAtime(_ context.Context, ino extent.Ino, p []byte, off int64) (int, error) {
	return f.read(ino, p, off, false)
}

func (f *FS) read(ino extent.Ino, p []byte, off int64, access bool) (int, error) {
	i, err := f.get(ino)
	if err != nil {
		return 0, err
	}
	defer f.put(i)
	i.mu.RLock()
	defer i.mu.RUnlock()
	if err := i.regular(); err != nil {
		return 0, err
	}
	n, err := i.n.ReadAt(p, off)
	if err == nil && len(p) > 0 && access {
		f.accessed(i)
	}
	return n, err
}

// Write writes p at off, or at the end of file if appending, and returns how much: where
// there is no room for all of it what there is room for. writeback says that it is a page of a memory mapping, written when
// the kernel saw fit: that must not undo what a holder of a write lease wrote
// directly meanwhile, and is EIO.
func (f *FS) Write(ctx context.Context, c Caller, ino extent.Ino, p []byte, off int64, appending, writeback bool) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	i, err := f.get(ino)
	if err != nil {
		return 0, err
	}
	defer f.put(i)
	if writeback {
		c = f.speaker(c, ino, extent.Range{Off: off, End: off + int64(len(p))})
	}
	w := write{f: f, i: i, c: c, p: p, off: off, appending: appending, writeback: writeback}
	err = w.do(ctx)
	if errors.Is(err, syscall.ENOSPC) && !writeback {
		return w.some(ctx, err)
	}
	return w.written(err)
}

// write is one Write under way.
type write struct {
	f                    *FS
	i                    *inode
	c                    Caller
	p                    []byte
	off                  int64
	appending, writeback bool
	caps                 bool // the file may have capabilities, which go
	part                 bool // there is no space for all, also after those were asked who keep orphans
}

// do writes all or nothing, but for errors of the device.
func (w *write) do(ctx context.Context) error {
	done, err := w.overwrite()
	switch {
	case done || err != nil:
	case w.part:
		err = w.f.changeOnce(ctx, w.c, w.i, w.plan, w.apply, nil)
	default:
		err = w.f.change(ctx, w.c, w.i, w.plan, w.apply)
	}
	if w.caps {
		err = w.f.killedCapabilities(w.i, err)
	}
	return err
}

// some writes what there is room for, up to the end of a block, where there is none for all;
// full is the error of that. What else is in the way later is for the next write to meet.
func (w *write) some(ctx context.Context, full error) (int, error) {
	p, start := w.p, w.off
	if w.appending {
		w.i.mu.RLock()
		start = w.i.n.Attr.Size
		w.i.mu.RUnlock()
	}
	w.part = true
	lo, hi := start, start+int64(len(p)) // up to lo it is written, up to hi it cannot be
	for {
		end := extent.RoundDown(lo + (hi-lo)/2)
		if end <= lo {
			end = extent.RoundUp(lo + 1)
		}
		if end >= hi {
			break
		}
		w.p, w.off = p[lo-start:end-start], lo
		switch err := w.do(ctx); {
		case err == nil:
			lo = end
		case errors.Is(err, syscall.ENOSPC):
			hi = end
		case lo > start:
			return int(lo - start), nil
		default:
			return 0, err
		}
	}
	if lo == start {
		return 0, full
	}
	return int(lo - start), nil
}

func (w *write) written(err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return len(w.p), nil
}

// at returns the range that is written, given the size as it is; it is empty where only pages
// behind the end of file are written back. It needs mu shared.
func (w *write) at() (extent.Range, error) {
	off := w.off
	if w.appending {
		off = w.i.n.Attr.Size
	}
	if off < 0 {
		return extent.Range{}, fmt.Errorf("write at %d: %w", off, syscall.EINVAL)
	}
	if off > extent.MaxSize-int64(len(w.p)) {
		return extent.Range{}, fmt.Errorf("write at %d: %w", off, syscall.EFBIG)
	}
	r := extent.Range{Off: off, End: off + int64(len(w.p))}
	if err := w.i.regular(); err != nil {
		return r, err
	}
	if w.writeback {
		// A page never lets the file grow: it was cut by another way than the mount, and the
		// kernel does not know yet.
		if r.End = min(r.End, w.i.n.Attr.Size); r.Empty() {
			return extent.Range{}, nil
		}
		return r, w.f.checkWriteback(w.c, w.i.ino, r)
	}
	return r, nil
}

// overwrite does the write if it alters no mapping: that meets nobody, and needs
// the lock only shared.
func (w *write) overwrite() (done bool, err error) {
	i := w.i
	i.mu.RLock()
	defer i.mu.RUnlock()
	r, err := w.at()
	if err != nil || r.Empty() || !i.n.Plan(r) {
		return r.Empty(), err
	}
	if err := i.n.Overwrite(w.p[:r.Len()], r.Off); err != nil {
		return false, err
	}
	i.soil(r)
	w.caps = i.mayHaveCaps()
	i.wroteAt.Store(w.f.stamp())
	w.f.changed(i)
	return true, nil
}

func (w *write) plan() (plan, error) {
	r, err := w.at()
	if err != nil || r.Empty() {
		return plan{}, err
	}
	return w.i.planWrite(r)
}

// planWrite says what a write to r would be. It needs mu shared.
func (i *inode) planWrite(r extent.Range) (plan, error) {
	if i.n.Plan(r) {
		return plan{}, nil
	}
	blocks := r.RoundOut()
	if shared, err := i.n.Shared(r); shared || err != nil {
		return plan{layout.Subtractive, blocks, stay}, err // the blocks are given up for others
	}
	additive := plan{class: layout.Additive, r: blocks}
	pos := blocks.Off
	err := i.n.Extents(blocks, func(e extent.Extent) bool {
		if e.Off > pos || e.State != extent.Written && e.Addr.Seg == extent.Device {
			return false
		}
		pos = e.Off + e.Len
		return true
	})
	if err != nil || pos < blocks.End {
		return additive, err
	}
	if r.End <= i.n.Attr.Size {
		return plan{}, nil // an overwrite, which moves blocks that have checksums
	}
	return plan{class: layout.Size, r: blocks}, nil
}

func (w *write) apply() error {
	r, err := w.at()
	if err != nil || r.Empty() {
		return err
	}
	if err := w.i.n.Write(w.p[:r.Len()], r.Off); err != nil {
		return err
	}
	w.i.grown = true
	w.i.soil(r)
	w.caps = w.i.mayHaveCaps()
	w.f.touch(w.i)
	return nil
}

// checkWriteback refuses page write-back into a range under another's write
// lease. It is called with mu held, under which no window can come up.
func (f *FS) checkWriteback(c Caller, ino extent.Ino, r extent.Range) error {
	if f.arb.WriteLeased(ino, r.RoundOut(), c.Session) {
		return fmt.Errorf("write-back of mapped pages %v under a write lease: %w", r, syscall.EIO)
	}
	return nil
}

// speaker returns the caller with its session, which takes long to find and is
// only needed where a lease stands in the way. Write-back by the kernel itself
// has no process and is nobody's own.
func (f *FS) speaker(c Caller, ino extent.Ino, r extent.Range) Caller {
	if c.Session == 0 && c.PID > 0 && f.arb.WriteLeased(ino, r.RoundOut(), 0) {
		c.Session = f.arb.SessionOf(c.PID)
	}
	return c
}

// Fsync makes content, attributes and the name durable.
func (f *FS) Fsync(ctx context.Context, ino extent.Ino, _ bool) error {
	return f.withInode(ino, func(i *inode) error { return f.sync(ctx, i) })
}

// FsyncDir makes the names in a directory durable.
func (f *FS) FsyncDir(ctx context.Context, ino extent.Ino) error { return f.Fsync(ctx, ino, false) }

func (f *FS) sync(ctx context.Context, i *inode) error {
	if err := f.writeBackAll(i, (*inode).dirtyParts); err != nil {
		return err
	}
	i.lock() // brings the times up to date
	i.mu.Unlock()
	return f.vol.Sync(ctx, i.n, &i.mu)
}

// Seek is lseek(2) with SEEK_DATA and SEEK_HOLE; the other positions are the
// caller's to compute.
func (f *FS) Seek(_ context.Context, ino extent.Ino, off int64, whence int) (pos int64, err error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, fmt.Errorf("seek from %d: %w", whence, syscall.EINVAL)
	}
	err = f.withInode(ino, func(i *inode) error {
		i.mu.RLock()
		defer i.mu.RUnlock()
		if err := i.regular(); err != nil {
			return err
		}
		pos, err = i.seek(off, whence == unix.SEEK_DATA)
		return err
	})
	return pos, err
}

var errNoData = fmt.Errorf("no data behind the offset: %w", syscall.ENXIO)

// seek finds the next data or hole. Blocks that were never written are a hole.
func (i *inode) seek(off int64, data bool) (int64, error) {
	size := i.n.Attr.Size
	if off < 0 || off >= size {
		return 0, errNoData
	}
	pos, found := off, false
	err := i.n.Extents(extent.Range{Off: off, End: size}, func(e extent.Extent) bool {
		if e.State != extent.Written && e.Addr.Seg == extent.Device {
			return true
		}
		if data {
			pos, found = max(pos, e.Off), true
			return false
		}
		if e.Off > pos {
			return false
		}
		pos = max(pos, e.Off+e.Len)
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case data && !found:
		return 0, errNoData
	}
	return min(pos, size), nil
}
