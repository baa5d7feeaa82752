package volume

import (
	"fmt"
	"syscall"

	"holdfast/extent"
)

// Segment is the memory of a window.
type Segment interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
}

// AttachSegment makes s the bytes of the addresses of seg, a number from
// NewSegment.
func (v *Volume) AttachSegment(seg extent.Segment, s Segment) error {
	if seg <= extent.Device {
		return fmt.Errorf("attach segment %d: %w", seg, syscall.EINVAL)
	}
	if _, loaded := v.segments.LoadOrStore(seg, s); loaded {
		return fmt.Errorf("attach segment %d: %w", seg, syscall.EEXIST)
	}
	return nil
}

// DetachSegment ends what AttachSegment began. Ranges that are still isolated in
// it can no longer be read.
func (v *Volume) DetachSegment(seg extent.Segment) { v.segments.Delete(seg) }

func (v *Volume) segment(seg extent.Segment) (Segment, error) {
	s, ok := v.segments.Load(seg)
	if !ok {
		return nil, fmt.Errorf("segment %d: %w", seg, ErrSegment)
	}
	return s.(Segment), nil
}

// Isolate makes the bytes at a, in an attached segment, those of r. The blocks on
// the device stay the file's, as its home. r is whole blocks of which none is
// isolated, else ErrIsolated. The caller has brought there what ReadAt reads, and zeros
// behind the end of file: what the device has there may be left over from a crash.
// It needs n exclusive.
//
// A hole stays a hole: it gets no blocks and reads as zeros, whatever is at its
// address. When a part of it gets blocks, zeros are written to the segment, and
// then it is the address of that part, too.
func (n *Inode) Isolate(r extent.Range, a extent.Addr) error {
	if err := checkBlocks(r, a.Off); err != nil {
		return fmt.Errorf("isolate %v: %w", r, err)
	}
	if _, err := n.v.segment(a.Seg); err != nil {
		return fmt.Errorf("isolate %v: %w", r, err)
	}
	m, err := n.mutable()
	if err != nil {
		return err
	}
	isolated := n.bare.overlaps(r)
	m.in(r, func(e mapping) bool {
		isolated = isolated || e.win.Seg != 0
		return !isolated
	})
	if isolated {
		return fmt.Errorf("isolate %v: %w", r, ErrIsolated)
	}
	at := func(off int64) extent.Addr { return extent.Addr{Seg: a.Seg, Off: a.Off + off - r.Off} }
	m.update(r, func(e *mapping) { e.win = at(e.off) })
	for _, h := range m.holes(r) {
		n.bare.insert(mapping{off: h.Off, len: h.Len(), home: h.Off, win: at(h.Off), state: extent.Unwritten})
	}
	return nil
}

// zeroBare makes the windows over the holes show zeros again. Nobody should have
// written there, but the holder of another part of a window can.
func (n *Inode) zeroBare(holes []extent.Range) (err error) {
	for _, h := range holes {
		n.bare.in(h, func(e mapping) bool {
			err = n.zeroMapping(e)
			return err == nil
		})
	}
	return err
}

// house makes the windows over holes that got blocks the addresses of these. The
// store is to know the blocks: they are written only when the window is.
func (n *Inode) house(holes []extent.Range) {
	for _, h := range holes {
		for _, b := range n.bare.remove(h) {
			n.m.update(b.rng(), func(e *mapping) { e.win = b.slice(e.rng()).win })
			n.dirty.add(b.rng())
		}
	}
}

// Home makes the blocks on the device the bytes of r again. What changed in
// windows since the last WriteHome is lost, and what they held behind the end of
// file does not become content. Parts that are at home already stay so. It needs n
// exclusive.
func (n *Inode) Home(r extent.Range) error {
	if r.Off < 0 || r.Empty() || r.RoundOut() != r {
		return fmt.Errorf("home %v: %w", r, syscall.EINVAL)
	}
	m, err := n.extents()
	if err != nil {
		return err
	}
	n.bare.remove(r)
	var moved []extent.Range
	m.in(r, func(e mapping) bool {
		if e.win.Seg != 0 {
			moved = append(moved, e.rng())
		}
		return true
	})
	eof := n.Attr.Size
	for _, p := range moved {
		m.update(p, func(e *mapping) { e.win = extent.Addr{} })
		if behind := p.Intersect(extent.Range{Off: extent.RoundUp(eof), End: extent.Inf}); !behind.Empty() {
			n.disown(behind)
		}
		if tail := p.Intersect(extent.Range{Off: eof, End: extent.RoundUp(eof)}); !tail.Empty() {
			if err := n.zero(tail); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteHome writes whole blocks to the device under their windows. They must be
// allocated, else ErrUnmapped, or holes that are isolated, which it leaves out. They
// are committed as written by the next Sync. What of p is behind the end of file it
// makes zeros: if a crash brings back a larger size, a holder's bytes there must not
// be content. It needs n exclusive.
func (n *Inode) WriteHome(p []byte, off int64) error {
	r := extent.Range{Off: off, End: off + int64(len(p))}
	if err := checkBlocks(r, 0); err != nil {
		return fmt.Errorf("write home %v: %w", r, err)
	}
	m, err := n.mutable()
	if err != nil {
		return err
	}
	for _, h := range m.holes(r) {
		if !n.bare.covered(h, func(mapping) bool { return true }) {
			return fmt.Errorf("write home %v: %w", r, ErrUnmapped)
		}
	}
	if eof := max(0, n.Attr.Size-off); eof < int64(len(p)) {
		clear(p[eof:])
	}
	if err := n.endCommit(r); err != nil {
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	before := n.cowParts(r)
	if err := n.fork(before, r, true); err != nil && !n.yields(err, r) {
		return fmt.Errorf("inode %d: write home %v: %w", n.Ino, r, err)
	}
	var fresh []extent.Range
	m.in(r, func(e mapping) bool {
		if e.state != extent.Written {
			fresh = append(fresh, e.rng())
		}
		e.win = extent.Addr{}
		err = n.store(e, p[e.off-off:e.end()-off], e.off)
		return err == nil
	})
	if err != nil {
		n.unfork(before)
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	for _, f := range fresh {
		n.written(f)
	}
	return nil
}

// checkBlocks wants whole blocks of a file at an address of whole blocks.
func checkBlocks(r extent.Range, addr int64) error {
	if r.Off < 0 || r.Empty() || r.RoundOut() != r || addr < 0 || addr%extent.BlockSize != 0 {
		return syscall.EINVAL
	}
	return nil
}
