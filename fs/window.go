package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
	"holdfast/window"
)

// mapping is a window over a range of an inode. Its fields but writable and dirty are
// altered with the inode's winMu and mu held.
type mapping struct {
	w    *window.Window
	r    extent.Range // the file range that the window was made for
	live ranges       // what of r the window is the address of

	// writable is what was ever handed out for writing. It stays so while the window lives:
	// that a lease was given back takes no memory from who had it. Guarded by winMu.
	writable ranges

	left bool // no part is live any more; guarded by orphans.mu

	// dirty: the mount wrote through the window since it was written back.
	dirty atomic.Bool
}

// addr returns where in the window the file offset off lies.
func (m *mapping) addr(off int64) extent.Addr {
	return extent.Addr{Seg: m.w.Segment(), Off: off - m.r.Off}
}

// users says which parts of an inode the leases have mapped.
type users map[layout.LeaseID]*user

type user struct {
	uid   uint32 // to whom it is charged
	parts ranges
	write bool
}

// mapped returns the parts that the leases have mapped which pick selects.
func (u users) mapped(pick func(layout.LeaseID, *user) bool) (out ranges) {
	for id, user := range u {
		if pick(id, user) {
			out = out.or(user.parts)
		}
	}
	return out
}

// charged returns the parts of r that are charged to a user for other leases.
func (u users) charged(uid uint32, r ranges, except layout.LeaseID) ranges {
	return u.mapped(func(id layout.LeaseID, user *user) bool { return user.uid == uid && id != except }).and(r)
}

// remove ends the mapping of r by a lease.
func (u users) remove(lease layout.LeaseID, r ranges) {
	if user := u[lease]; user != nil {
		if user.parts = user.parts.minus(r); len(user.parts) == 0 {
			delete(u, lease)
		}
	}
}

// soil notes that the mount wrote to r, as far as windows are over it. It needs mu shared.
func (i *inode) soil(r extent.Range) {
	for _, m := range i.windows {
		if m.r.Overlaps(r) && !m.dirty.Load() {
			m.dirty.Store(true)
		}
	}
	if i.former != nil {
		i.former.soil(r)
	}
}

// Piece is a part of a mapping: the file's bytes at FileOff lie at Off in Window.
type Piece struct {
	Window  *window.Window
	Off     int64
	FileOff int64
	Len     int64
}

// Map makes the range of a lease reachable as memory: windows that hold its
// content, with no page missing, shared with everyone else who maps the same
// bytes. Holes get blocks if it is for writing. It tells the arbiter that the lease is
// mapped, and fails if the lease does not cover the range by then.
func (f *FS) Map(ctx context.Context, lease layout.LeaseID, ino extent.Ino, r extent.Range, write bool) (pieces []Piece, err error) {
	if r, err = mappable(r); err != nil {
		return nil, err
	}
	err = f.withSpace(ctx, func() error {
		pieces, err = f.mapOnce(ctx, lease, ino, r, write)
		return err
	})
	return pieces, err
}

func (f *FS) mapOnce(ctx context.Context, lease layout.LeaseID, ino extent.Ino, r extent.Range, write bool) (pieces []Piece, err error) {
	exposed := false
	err = f.withInode(ino, func(i *inode) error {
		if err := f.arb.Mapped(lease); err != nil {
			return err
		}
		i.winMu.Lock()
		defer i.winMu.Unlock()
		// If the range is given back from now on, Unmap waits for winMu and finds it.
		uid, err := f.checkLease(lease, ino, r, write)
		if err != nil {
			return err
		}
		more := ranges{r}.minus(i.users.charged(uid, ranges{r}, 0)).bytes()
		if err := f.arb.ChargeWindows(uid, more); err != nil {
			return err
		}
		if err := f.isolateAll(ctx, i, r, write); err != nil {
			f.arb.DischargeWindows(uid, more)
			return err
		}
		i.use(lease, uid, r, write)
		pieces = i.pieces(r)
		exposed, err = f.expose(i, lease, nil)
		return f.exposable(err, write)
	})
	if err == nil {
		err = f.exposable(f.exposeNow(ctx, exposed), write)
	}
	return pieces, err
}

// mappable returns the range in whole blocks, if memory can be made of it.
func mappable(r extent.Range) (extent.Range, error) {
	switch {
	case r.Off < 0 || r.Empty():
		return r, fmt.Errorf("map %v: %w", r, syscall.EINVAL)
	case r.End == extent.Inf:
		return r, fmt.Errorf("map %v: a range to infinity cannot be mapped, name its end: %w", r, syscall.EINVAL)
	case r.End > extent.MaxSize:
		return r, fmt.Errorf("map %v: %w", r, syscall.EFBIG)
	}
	return r.RoundOut(), nil
}

// checkLease makes sure that a lease is one on the file that covers r and allows the access.
// It returns to whom what is mapped by it is charged.
func (f *FS) checkLease(lease layout.LeaseID, ino extent.Ino, r extent.Range, write bool) (uid uint32, err error) {
	info, err := f.arb.Lease(lease)
	if err != nil {
		return 0, err
	}
	if info.File != ino {
		return 0, fmt.Errorf("lease %d is on inode %d, not %d: %w", lease, info.File, ino, syscall.EINVAL)
	}
	if write && info.Access != layout.Write {
		return 0, fmt.Errorf("lease %d is for reading: %w", lease, syscall.EPERM)
	}
	var held ranges
	for _, h := range info.Ranges {
		held = held.add(h.Extent())
	}
	if rest := (ranges{r}).minus(held); len(rest) > 0 {
		return 0, fmt.Errorf("lease %d does not cover %v: %w", lease, rest[0], syscall.EPERM)
	}
	return info.UID, nil
}

// unuse ends the mapping of r by a lease. It needs winMu.
func (f *FS) unuse(i *inode, lease layout.LeaseID, r ranges) {
	u := i.users[lease]
	if u == nil {
		return
	}
	gone := u.parts.and(r)
	if n := gone.minus(i.users.charged(u.uid, gone, lease)).bytes(); n > 0 {
		f.arb.DischargeWindows(u.uid, n)
	}
	i.users.remove(lease, r)
}

// use notes that a lease has mapped r. It needs winMu.
func (i *inode) use(lease layout.LeaseID, uid uint32, r extent.Range, write bool) {
	if i.users == nil {
		i.users = make(users)
	}
	u := i.users[lease]
	if u == nil {
		u = &user{uid: uid}
		i.users[lease] = u
	}
	u.parts = u.parts.add(r)
	u.write = u.write || write
	if !u.write {
		return
	}
	for _, m := range i.windows {
		m.writable = m.writable.or(m.live.and(u.parts))
	}
}

// pieces returns where r lies. It needs winMu.
func (i *inode) pieces(r extent.Range) (out []Piece) {
	for _, m := range i.windows {
		for _, p := range m.live.and(ranges{r}) {
			out = append(out, Piece{Window: m.w, Off: m.addr(p.Off).Off, FileOff: p.Off, Len: p.Len()})
		}
	}
	slices.SortFunc(out, func(a, b Piece) int { return compare(a.FileOff, b.FileOff) })
	return out
}

// isolateAll makes windows for what of r has none. It needs winMu. If it fails,
// it leaves none that it made.
func (f *FS) isolateAll(ctx context.Context, i *inode, r extent.Range, write bool) error {
	gaps := ranges{r}.minus(i.live())
	for _, gap := range gaps {
		if err := i.checkFormer(gap); err != nil {
			return err
		}
	}
	// The limit, then all blocks, then memory: no block is taken for a window that may
	// not be, no write-back will find the volume full, and no page is touched for a
	// request that cannot be served. A reader takes no block: he need not be one who
	// may write, and leaves nothing to write back.
	left := gaps.bytes()
	if err := f.charge(left); err != nil {
		return err
	}
	defer func() { f.windowBytes.Add(-left) }() // of windows that were not made
	if write {
		if err := f.unshareFor(ctx, i, r); err != nil {
			return err
		}
		if err := f.fill(i, r); err != nil { // also in windows that were made for readers
			return err
		}
	}
	for _, gap := range gaps {
		m, err := f.newMapping(i, gap)
		if err == nil {
			left -= gap.Len()
			err = f.isolate(ctx, i, m)
		}
		if err != nil {
			if undo := f.detach(i, gaps.and(i.live()), true); undo != nil {
				f.log.Error("windows of a mapping that failed were not written back", "inode", i.ino, "err", undo)
			}
			return err
		}
	}
	return nil
}

// charge counts n bytes of windows that are to be made.
func (f *FS) charge(n int64) error {
	if used := f.windowBytes.Add(n); used > f.windowLimit {
		f.windowBytes.Add(-n)
		return fmt.Errorf("windows of %d bytes would pass the limit of %d bytes of windows (%d are in use): %w",
			n, f.windowLimit, used-n, syscall.ENOMEM)
	}
	return nil
}

// fill allocates the holes of r.
func (f *FS) fill(i *inode, r extent.Range) error {
	i.lock()
	defer i.mu.Unlock()
	err := i.n.Allocate(r, true)
	f.changed(i)
	return err
}

// live returns what of the inode is in windows. It needs winMu.
func (i *inode) live() (out ranges) {
	for _, m := range i.windows {
		out = out.or(m.live)
	}
	return out
}

// windowed reports whether a window is over a part of r, be it a hole. It needs mu
// shared.
func (i *inode) windowed(r extent.Range) bool {
	return slices.ContainsFunc(i.windows, func(m *mapping) bool { return len(m.live.and(ranges{r})) > 0 })
}

// chunk is how much is copied into or out of a window at a time. The inode is
// locked for as long as that takes, and not longer.
const chunk = 1 << 20

// isolate moves the file's content to a new window.
func (f *FS) isolate(ctx context.Context, i *inode, m *mapping) error {
	i.mu.Lock()
	i.windows = append(i.windows, m)
	i.mu.Unlock()
	r := m.r
	buf := make([]byte, min(chunk, r.Len()))
	for pos := r.Off; pos < r.End; pos += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := extent.Range{Off: pos, End: min(pos+chunk, r.End)}
		if err := f.loadWindow(i, m, part, buf[:part.Len()]); err != nil {
			return err
		}
	}
	return nil
}

// newMapping makes an empty window for r, which is counted in windowBytes.
func (f *FS) newMapping(i *inode, r extent.Range) (*mapping, error) {
	seg, err := f.vol.NewSegment()
	if err != nil {
		return nil, err
	}
	w, err := window.New(seg, fmt.Sprintf("%d+%d", i.ino, r.Off), r.Len())
	if err != nil {
		return nil, err
	}
	if err := f.vol.AttachSegment(seg, w); err != nil {
		return nil, errors.Join(err, w.Detach())
	}
	return &mapping{w: w, r: r}, nil
}

// loadWindow moves one part of the file into its window.
func (f *FS) loadWindow(i *inode, m *mapping, part extent.Range, buf []byte) error {
	i.lock()
	defer i.mu.Unlock()
	n, err := i.n.ReadAt(buf, part.Off)
	if err != nil {
		return err
	}
	if n > 0 {
		if _, err := m.w.WriteAt(buf[:n], m.addr(part.Off).Off); err != nil {
			return err
		}
	}
	if err := i.n.Isolate(part, m.addr(part.Off)); err != nil {
		return err
	}
	m.live = m.live.add(part)
	return nil
}
