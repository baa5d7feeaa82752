package volume

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"holdfast/extent"
)

const (
	// aheadMin and aheadMax bound what a file that grows is given ahead: as much as
	// it has, so that a file written in one stream consists of few extents.
	aheadMin = 64 << 10
	aheadMax = 64 << 20
)

// bounce holds buffers in which a write is brought to whole blocks.
var bounce = sync.Pool{New: func() any { return new([len(zeros)]byte) }}

// Write writes p, allocates what is missing and lets the file grow. If there is no
// space it returns ENOSPC and has written nothing. It needs n exclusive.
func (n *Inode) Write(p []byte, off int64) error {
	if off < 0 {
		return fmt.Errorf("write at %d: %w", off, syscall.EINVAL)
	}
	if int64(len(p)) > extent.MaxSize-off {
		return fmt.Errorf("write %d bytes at %d: %w", len(p), off, syscall.EFBIG)
	}
	if len(p) == 0 {
		return nil
	}
	m, err := n.mutable()
	if err != nil {
		return err
	}
	r := extent.Range{Off: off, End: off + int64(len(p))}
	before, err := n.claim(r, n.aheadFor(r), n.writeParts)
	if err != nil {
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	var fresh []extent.Range
	m.in(r, func(e mapping) bool {
		if e.readable() {
			err = n.store(e, p[e.off-off:e.end()-off], e.off)
		} else {
			err = n.storeFresh(e, p[e.off-off:e.end()-off])
			fresh = append(fresh, e.rng().RoundOut())
		}
		return err == nil
	})
	if err != nil {
		n.unfork(before)
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	for _, f := range fresh {
		n.written(f)
	}
	n.Attr.Size = max(n.Attr.Size, r.End)
	return nil
}

// claim makes sure that all of r has blocks, and that they are the file's alone, or
// changes nothing. What of them holds nothing that must stay is unwritten. which says
// what must not be altered for that. It returns what unfork takes.
func (n *Inode) claim(r extent.Range, ahead int64, which func(extent.Range) []mapping) ([]mapping, error) {
	if err := n.endCommit(r.RoundOut()); err != nil {
		return nil, err
	}
	filled, err := n.fillHoles(r.RoundOut(), ahead)
	if err != nil {
		return nil, err
	}
	before := which(r)
	if err := n.fork(before, r.RoundIn(), false); err != nil {
		for _, h := range filled {
			n.dropUnstored(n.m.remove(h))
		}
		return nil, err
	}
	n.house(filled)
	return before, nil
}

// aheadFor is how much more than r a file that grows by r should get.
func (n *Inode) aheadFor(r extent.Range) int64 {
	if r.End <= n.Attr.Size || n.Attr.Size == 0 {
		return 0
	}
	return extent.RoundUp(min(max(n.Attr.Size, aheadMin), aheadMax))
}

// storeFresh writes p to the unwritten blocks of e, which is not cut to whole
// blocks, with zeros around it.
func (n *Inode) storeFresh(e mapping, p []byte) error {
	if n.v.sums != nil {
		return n.storeFreshSummed(e, p)
	}
	whole := e.rng().RoundOut()
	head, tail := e.off-whole.Off, whole.End-e.end()
	at := e.home - head
	var err error
	switch total := whole.End - whole.Off; {
	case head == 0 && tail == 0:
		err = n.v.write(p, at)
	case total <= int64(len(zeros)):
		b := bounce.Get().(*[len(zeros)]byte)
		clear(b[:head])
		copy(b[head:], p)
		clear(b[total-tail : total])
		err = n.v.write(b[:total], at)
		bounce.Put(b)
	default:
		if head > 0 {
			err = n.v.write(zeros[:head], at)
		}
		if err == nil {
			err = n.v.write(p, e.home)
		}
		if err == nil && tail > 0 {
			err = n.v.write(zeros[:tail], e.home+e.len)
		}
	}
	if err == nil {
		n.wrote()
	}
	return err
}

// written marks the blocks of r as written, from the next commit on in the store.
func (n *Inode) written(r extent.Range) {
	n.m.update(r, func(e *mapping) { e.state = extent.Written })
	n.dirty.add(r)
}

// fill allocates the holes of r, which is whole blocks, and returns them. They are
// unwritten, and the store need not know them: a crash forgets them. Where a window
// is over them, it is their address from now on.
func (n *Inode) fill(r extent.Range, ahead int64) ([]extent.Range, error) {
	holes, err := n.fillHoles(r, ahead)
	if err == nil {
		n.house(holes)
	}
	return holes, err
}

// fillHoles is fill, but for the windows.
func (n *Inode) fillHoles(r extent.Range, ahead int64) ([]extent.Range, error) {
	holes := n.m.holes(r)
	if err := n.zeroBare(holes); err != nil {
		return nil, err
	}
	for i, h := range holes {
		if err := n.fillHole(h, ahead); err != nil {
			for _, h := range holes[:i] {
				n.dropUnstored(n.m.remove(h))
			}
			return nil, err
		}
	}
	return holes, nil
}

func (n *Inode) fillHole(h extent.Range, ahead int64) error {
	goal := int64(0)
	if p, ok := n.m.before(h.Off); ok {
		goal = p.home + p.len
	}
	if _, more := n.m.at(h.End); more {
		ahead = 0 // there is no room to grow into
	}
	runs, err := n.v.allocate(n, h.End-h.Off, ahead, goal, h.End)
	if err != nil {
		return err
	}
	for _, r := range runs {
		n.m.insert(mapping{off: h.Off, len: r.len, home: r.off, state: extent.Unwritten})
		h.Off += r.len
	}
	return nil
}

// dropUnstored frees the blocks of what was removed and the store does not know.
func (n *Inode) dropUnstored(removed []mapping) {
	var runs []run
	for _, e := range removed {
		if !e.stored {
			runs = append(runs, run{e.home, e.len})
		}
	}
	if err := n.v.adopt(n.v.space.give(runs)); err != nil {
		n.v.log.Error("orphans will not outlive the server", "inode", n.Ino, "err", err)
	}
}

// Allocate makes sure that all of r has blocks, or returns ENOSPC and changes
// nothing. The file grows to the end of r unless keepSize. It needs n exclusive.
func (n *Inode) Allocate(r extent.Range, keepSize bool) error {
	switch {
	case r.Off < 0 || r.Empty():
		return fmt.Errorf("allocate %v: %w", r, syscall.EINVAL)
	case r.End > extent.MaxSize:
		return fmt.Errorf("allocate %v: %w", r, syscall.EFBIG)
	}
	if _, err := n.mutable(); err != nil {
		return err
	}
	filled, err := n.fill(r.RoundOut(), 0)
	if err != nil {
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	for _, h := range filled {
		n.dirty.add(h)
	}
	if !keepSize {
		n.Attr.Size = max(n.Attr.Size, r.End)
	}
	return nil
}

// ZeroRange makes r read as zeros and makes sure that all of it has blocks, or returns
// ENOSPC and changes nothing. Whole blocks become unwritten, as by a write: from the
// next commit on in the store. What others reach directly is overwritten where it is.
// The file grows to the end of r unless keepSize. It needs n exclusive.
func (n *Inode) ZeroRange(r extent.Range, keepSize bool) error {
	switch {
	case r.Off < 0 || r.Empty():
		return fmt.Errorf("zero %v: %w", r, syscall.EINVAL)
	case r.End > extent.MaxSize:
		return fmt.Errorf("zero %v: %w", r, syscall.EFBIG)
	}
	m, err := n.mutable()
	if err != nil {
		return err
	}
	if _, err := n.claim(r, 0, n.zeroParts); err != nil {
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	rest := []extent.Range{r}
	if in := r.RoundIn(); !in.Empty() {
		rest = []extent.Range{{Off: r.Off, End: in.Off}, {Off: in.End, End: r.End}}
		pos := in.Off
		for _, e := range n.reached(in) {
			rest = append(rest, e.rng())
			m.update(extent.Range{Off: pos, End: e.off}, unwritten)
			pos = e.end()
		}
		m.update(extent.Range{Off: pos, End: in.End}, unwritten)
	}
	if err := n.zero(rest...); err != nil {
		return err
	}
	n.dirty.add(r.RoundOut())
	if !keepSize {
		n.Attr.Size = max(n.Attr.Size, r.End)
	}
	return nil
}

func unwritten(e *mapping) { e.state = extent.Unwritten }

// Punch makes r read as zeros and frees its whole blocks. It needs n exclusive,
// and no window on what it frees.
func (n *Inode) Punch(r extent.Range) error {
	if r.Off < 0 || r.Empty() {
		return fmt.Errorf("punch %v: %w", r, syscall.EINVAL)
	}
	if _, err := n.mutable(); err != nil {
		return err
	}
	in := r.RoundIn()
	if in.Empty() {
		return n.zero(r)
	}
	if err := n.zero(extent.Range{Off: r.Off, End: in.Off}, extent.Range{Off: in.End, End: r.End}); err != nil {
		return err
	}
	return n.free(in, n.stored.Size)
}

// Truncate sets the size. What lies behind a smaller one is freed, and the rest of
// its last block zeroed. It needs n exclusive, and no window on what it frees.
func (n *Inode) Truncate(size int64) error {
	switch {
	case size < 0:
		return fmt.Errorf("truncate to %d: %w", size, syscall.EINVAL)
	case size > extent.MaxSize:
		return fmt.Errorf("truncate to %d: %w", size, syscall.EFBIG)
	}
	if _, err := n.mutable(); err != nil {
		return err
	}
	if size < n.Attr.Size {
		n.TrimPrealloc()
		if err := n.zero(extent.Range{Off: size, End: extent.RoundUp(size)}); err != nil {
			return err
		}
		rest := extent.Range{Off: extent.RoundUp(size), End: extent.Inf}
		if err := n.free(rest, min(n.stored.Size, size)); err != nil {
			return err
		}
		n.commitSize = min(n.commitSize, size)
	}
	n.Attr.Size = size
	return nil
}

// TrimPrealloc gives back blocks that were kept for the file's growth. It needs n
// exclusive.
func (n *Inode) TrimPrealloc() {
	s := &n.v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropAhead(n)
}

// zero writes zeros over what is mapped and written in parts, both in windows and at
// home. Blocks that must not be altered and do not hold zeros there are replaced first;
// if there is no space for shared ones, nothing has changed.
func (n *Inode) zero(parts ...extent.Range) error {
	for _, r := range parts {
		err := n.endCommit(r)
		if err == nil {
			err = n.forkNonZero(r)
		}
		if err != nil {
			return fmt.Errorf("inode %d: zero %v: %w", n.Ino, r, err)
		}
	}
	for _, r := range parts {
		if r.Empty() {
			continue
		}
		var err error
		n.m.in(r, func(e mapping) bool {
			err = n.zeroMapping(e)
			return err == nil
		})
		if err != nil {
			return fmt.Errorf("inode %d: zero %v: %w", n.Ino, r, err)
		}
	}
	return nil
}

// forkNonZero replaces the blocks that must not be altered and hold something in r,
// which is a part of a block.
func (n *Inode) forkNonZero(r extent.Range) error {
	if r.Empty() {
		return nil
	}
	for _, e := range n.cowParts(r) {
		if e.state != extent.Written {
			continue
		}
		blank, err := n.blank(e.slice(r))
		if err != nil {
			return err
		}
		if blank {
			continue
		}
		if err := n.fork([]mapping{e}, extent.Range{}, false); err != nil && !n.yields(err, e.rng()) {
			return err
		}
	}
	return nil
}

// blank reports whether the device holds zeros in e.
func (n *Inode) blank(e mapping) (bool, error) {
	b := make([]byte, e.len)
	_, err := n.v.dev.ReadAt(b, e.home)
	return isZero(b), err
}

func (n *Inode) zeroMapping(e mapping) (err error) {
	for pos := e.off; pos < e.end() && err == nil; {
		z := zeros[:min(int64(len(zeros)), e.end()-pos)]
		err = n.zeroPiece(e, z, pos)
		pos += int64(len(z))
	}
	return err
}

func (n *Inode) zeroPiece(e mapping, z []byte, off int64) error {
	var errWin, errHome error
	if e.win.Seg != 0 {
		errWin = n.store(e, z, off)
	}
	if e.state == extent.Written && !e.shared {
		e.win = extent.Addr{}
		errHome = n.zeroHome(e, z, off)
	}
	return errors.Join(errWin, errHome)
}

func (n *Inode) zeroHome(e mapping, z []byte, off int64) error {
	if n.v.sums != nil && n.settled(e) {
		// Most often it holds zeros; else it could not be replaced.
		blank, err := n.blank(e.slice(extent.Range{Off: off, End: off + int64(len(z))}))
		if blank || err != nil {
			return err
		}
	}
	return n.store(e, z, off)
}

// free takes the blocks of r, which is whole blocks, from the file, in the store
// at once. The inode's record gets the size.
func (n *Inode) free(r extent.Range, size int64) error {
	if n.inStore && (size != n.stored.Size || n.anyStored(r)) {
		attr := n.stored
		attr.Size = size
		err := n.v.removeExtents(removal{
			ino: n.Ino, r: r, intent: intentKey(n.Ino), value: intent{kind: freeing, r: r}.encode(),
			first: func(b batcher) { b.Put(inodeKey(n.Ino), encodeAttr(&attr)) },
			last:  func(b batcher) { b.Delete(intentKey(n.Ino)) },
		})
		if err != nil {
			return fmt.Errorf("inode %d: free %v: %w", n.Ino, r, err)
		}
		n.stored = attr
	}
	n.dropUnstored(n.m.remove(r))
	n.dirty.remove(r)
	n.committing.remove(r)
	return nil
}

// anyStored reports whether the store knows blocks of the file in r, be it those that
// memory knows.
func (n *Inode) anyStored(r extent.Range) bool {
	found := false
	n.m.in(r, func(e mapping) bool {
		found = e.stored || e.stale
		return !found
	})
	return found
}
