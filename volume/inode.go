package volume

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// Inode is a file in memory. Its caller guards it, see the package comment, and
// makes sure that there is only one of a number. It must not be copied.
type Inode struct {
	Ino  extent.Ino
	Attr Attr

	v       *Volume
	stored  Attr // as the record has it; Size there is what is committed
	inStore bool // the record exists
	deleted bool

	loadMu sync.Mutex
	loaded atomic.Bool // the extent map is complete
	m      extMap
	// bare are the holes of m that windows are over. They have no home (home counts with off,
	// so that neighbours join) and read as zeros; what gets blocks leaves it for m.
	bare extMap
	// dirty is where the records lag behind m because something was added. What is
	// taken away leaves the records at once.
	dirty rangeSet
	// tidy: the block that the end of file is in holds zeros behind it.
	tidy bool
	// unflushed: the device was written to since the last commit began.
	unflushed atomic.Bool

	recorded uint64 // the last batch that wrote extents

	commitMu   sync.Mutex    // held by the commit of this inode, from snapshot to the end
	started    atomic.Uint64 // commits begun
	done       uint64        // the last that succeeded; guarded by commitMu
	committing rangeSet      // what the commit under way took from dirty
	commitSize int64         // the size it will record
	flushing   bool          // it will flush, but may not have yet; guarded like Attr

	ahead    run   // blocks kept for growth; guarded by space.mu
	aheadOff int64 // the file offset they are for; guarded by space.mu
}

// New makes an inode in memory. Tx.PutInode brings it into the store.
func (v *Volume) New(ino extent.Ino, a Attr) *Inode {
	n := &Inode{Ino: ino, Attr: a, v: v, tidy: true}
	n.loaded.Store(true)
	return n
}

// Load reads the inode from the store. It returns ENOENT if there is none.
func (v *Volume) Load(ino extent.Ino) (*Inode, error) {
	b, err := v.st.Get(inodeKey(ino))
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("inode %d: %w", ino, syscall.ENOENT)
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	a, err := decodeAttr(b)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	return &Inode{Ino: ino, Attr: a, v: v, stored: a, inStore: true}, nil
}

// extents returns the map, loading it first if need be. It needs n shared.
func (n *Inode) extents() (*extMap, error) {
	if !n.loaded.Load() {
		if err := n.loadExtents(); err != nil {
			return nil, fmt.Errorf("inode %d: extents: %w", n.Ino, err)
		}
	}
	return &n.m, nil
}

func (n *Inode) loadExtents() error {
	n.loadMu.Lock()
	defer n.loadMu.Unlock()
	if n.loaded.Load() {
		return nil
	}
	n.m = extMap{} // an attempt that failed may have left a part
	pos := int64(0)
	lower := key(prefixExtent, uint64(n.Ino))
	err := n.v.st.Scan(lower, after(prefixExtent, uint64(n.Ino)), func(k, b []byte) (bool, error) {
		_, e, err := decodeExtent(k, b)
		if err != nil {
			return false, err
		}
		if e.Off < pos || e.Addr.Off < dataStart || e.Addr.Off+e.Len > n.v.size.Load() {
			return false, fmt.Errorf("extent %v at %v overlaps or leaves the device: %w", e.Range(), e.Addr, ErrCorrupt)
		}
		pos = e.Off + e.Len
		n.m.insert(mapping{off: e.Off, len: e.Len, home: e.Addr.Off, state: e.State, stored: true, shared: e.Shared})
		return true, nil
	})
	if err != nil {
		return err
	}
	n.disown(extent.Range{Off: extent.RoundUp(n.stored.Size), End: extent.Inf})
	n.loaded.Store(true)
	return nil
}

// disown makes what is written in r read as zeros again. Bytes behind the end of
// file were never committed: a crash between the batches of a commit leaves them,
// or the holder of a window. They must not appear when the file grows.
func (n *Inode) disown(r extent.Range) {
	n.m.update(r, func(e *mapping) {
		if e.state == extent.Written {
			e.state = extent.Unwritten
			n.dirty.add(e.rng())
		}
	})
}

// mutable prepares for a change: it needs n exclusive.
func (n *Inode) mutable() (*extMap, error) {
	if err := n.v.writable(); err != nil {
		return nil, err
	}
	if n.deleted {
		return nil, fmt.Errorf("inode %d: %w", n.Ino, ErrDeleted)
	}
	m, err := n.extents()
	if err != nil || n.tidy {
		return m, err
	}
	// A write that was not committed before a crash may have left bytes behind the
	// end of file. In a file that is open, who leaves them there zeroes them.
	if err := n.zeroTail(); err != nil {
		return nil, err
	}
	n.tidy = true
	return m, nil
}

// zeroTail zeroes the device from the end of file to the end of its block.
func (n *Inode) zeroTail() error {
	tail := extent.Range{Off: n.Attr.Size, End: extent.RoundUp(n.Attr.Size)}
	var found mapping
	n.m.in(tail, func(e mapping) bool {
		found = e
		return false
	})
	if found.len == 0 || found.state != extent.Written {
		return nil
	}
	b := make([]byte, found.len)
	if _, err := n.v.dev.ReadAt(b, found.home); err != nil {
		return err
	}
	if isZero(b) {
		return nil
	}
	if err := n.zero(tail); !errors.Is(err, ErrSum) {
		return err
	}
	return nil // nobody can read the block, nor write to a part of it
}

// Dirty reports whether Sync would have something to do for n. It needs n shared.
func (n *Inode) Dirty() bool {
	return !n.deleted && n.inStore && (n.unflushed.Load() || n.Attr != n.stored || n.loaded.Load() && !n.dirty.empty())
}

// Allocated returns the bytes of blocks that n has. It needs n shared.
func (n *Inode) Allocated() (int64, error) {
	if !n.Attr.IsRegular() {
		return 0, nil
	}
	m, err := n.extents()
	if err != nil {
		return 0, err
	}
	return m.bytes, nil
}

// Extents calls fn for what is mapped in r, in order, until it returns false. What
// is isolated shows its window's address. It needs n shared; fn must not alter n.
func (n *Inode) Extents(r extent.Range, fn func(extent.Extent) bool) error {
	m, err := n.extents()
	if err != nil {
		return err
	}
	m.in(r, func(e mapping) bool { return fn(e.extent()) })
	return nil
}

// HomeExtents is Extents with the addresses and states on the device.
func (n *Inode) HomeExtents(r extent.Range, fn func(extent.Extent) bool) error {
	m, err := n.extents()
	if err != nil {
		return err
	}
	m.in(r, func(e mapping) bool { return fn(e.homeExtent()) })
	return nil
}

// Plan reports whether a write to r would only overwrite: all of it is mapped,
// written, the file's alone, and within its size. It needs n shared.
func (n *Inode) Plan(r extent.Range) (written bool) {
	if r.Off < 0 || r.End > n.Attr.Size {
		return false
	}
	m, err := n.extents()
	return err == nil && m.covered(r, n.v.overwritable())
}

// overwritable says what bytes can be replaced where they are, beside others who do.
func (v *Volume) overwritable() func(mapping) bool {
	if v.sums != nil {
		return mapping.inWindow // what is on the device gets other blocks, as what is shared
	}
	return mapping.overwritable
}

// ReadAt reads up to the end of file; less than len(p) means that it was met.
// Holes and what is unwritten read as zeros. It needs n shared.
func (n *Inode) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, syscall.EINVAL)
	}
	if off >= n.Attr.Size {
		return 0, nil
	}
	m, err := n.extents()
	if err != nil {
		return 0, err
	}
	if max := n.Attr.Size - off; int64(len(p)) > max {
		p = p[:max]
	}
	pos, end := off, off+int64(len(p))
	m.m.Ascend(off+1, func(_ int64, e mapping) bool {
		if e.off >= end {
			return false
		}
		if e.off > pos {
			clear(p[pos-off : e.off-off])
			pos = e.off
		}
		stop := min(e.end(), end)
		err = n.read(e, p[pos-off:stop-off], pos)
		pos = stop
		return err == nil && pos < end
	})
	if err != nil {
		return 0, fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	clear(p[pos-off:])
	return len(p), nil
}

// View appends to pieces, within its capacity, the bytes of r as system calls can
// take them from the device; see device.Viewer for what else must not. ok is false
// if only ReadAt can read them all: some are in a window, in a hole, not cached, or have
// checksums to be compared with.
// It needs n shared for as long as the pieces are used, so that no block of theirs
// can become another file's.
func (n *Inode) View(pieces [][]byte, r extent.Range) (_ [][]byte, ok bool) {
	m, err := n.extents()
	if err != nil || n.v.viewer == nil || n.v.sums != nil || r.End > n.Attr.Size {
		return nil, false
	}
	pos := r.Off
	m.in(r, func(e mapping) bool {
		if e.off > pos || e.win.Seg != 0 || e.state != extent.Written || len(pieces) == cap(pieces) {
			return false
		}
		b := n.v.viewer.View(e.home, e.len)
		if b == nil {
			return false
		}
		pieces = append(pieces, b)
		pos = e.end()
		return true
	})
	return pieces, pos == r.End && !r.Empty()
}

// read fills p with the bytes of e at file offset off.
func (n *Inode) read(e mapping, p []byte, off int64) error {
	v := n.v
	var err error
	switch {
	case e.win.Seg != 0:
		var s Segment
		if s, err = v.segment(e.win.Seg); err == nil {
			_, err = s.ReadAt(p, e.win.Off+off-e.off)
		}
	case e.state == extent.Written:
		if v.sums != nil {
			return n.locate(v.sums.read(p, e.home+off-e.off), e)
		}
		_, err = v.dev.ReadAt(p, e.home+off-e.off)
	default:
		clear(p)
	}
	return err
}

// Overwrite writes p over bytes that Plan said are written. It returns
// ErrUnmapped if they are not, after which a part may be written. It needs n
// shared: many may overwrite at once.
func (n *Inode) Overwrite(p []byte, off int64) error {
	end := off + int64(len(p))
	if off < 0 || end > n.Attr.Size {
		return fmt.Errorf("overwrite [%d,%d) of %d bytes: %w", off, end, n.Attr.Size, ErrUnmapped)
	}
	if err := n.v.writable(); err != nil {
		return err
	}
	m, err := n.extents()
	if err != nil {
		return err
	}
	pos := off
	ok := n.v.overwritable()
	m.m.Ascend(off+1, func(_ int64, e mapping) bool {
		if e.off > pos || !ok(e) || pos >= end {
			return false
		}
		stop := min(e.end(), end)
		err = n.store(e, p[pos-off:stop-off], pos)
		pos = stop
		return err == nil && pos < end
	})
	if err != nil {
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	if pos < end {
		return fmt.Errorf("overwrite at %d: %w", pos, ErrUnmapped)
	}
	return nil
}

// store writes p at file offset off to where the bytes of e are.
func (n *Inode) store(e mapping, p []byte, off int64) error {
	if e.win.Seg != 0 {
		s, err := n.v.segment(e.win.Seg)
		if err == nil {
			_, err = s.WriteAt(p, e.win.Off+off-e.off)
		}
		return err
	}
	if n.v.sums != nil {
		return n.storeSummed(e, p, off)
	}
	if err := n.v.write(p, e.home+off-e.off); err != nil {
		return err
	}
	n.wrote()
	return nil
}

// wrote notes that the device holds bytes of n that are not flushed. It comes
// after the write, so that a commit that clears the note flushes the write.
func (n *Inode) wrote() {
	if !n.unflushed.Load() {
		n.unflushed.Store(true)
	}
}
