package volume

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// Clone makes what dst has at off the bytes of r in src, without copying them: both
// have the same blocks until one of them writes there. r is whole blocks, or ends at
// the end of src, in which case it must reach the end of dst, too. dst grows if need
// be; what is unwritten in src becomes a hole. src and dst may be one file if the
// ranges do not overlap.
//
// A crash leaves all of it or nothing. What of src is in windows is taken as it is
// at home, and is copied, as are blocks under holds: who reaches them directly must
// not reach another file.
//
// It needs src and dst exclusive, and no window on what it replaces in dst.
func (v *Volume) Clone(src *Inode, r extent.Range, dst *Inode, off int64) error {
	if err := checkClone(src, r, dst, off); err != nil {
		return fmt.Errorf("clone %v to %d: %w", r, off, err)
	}
	for _, n := range [...]*Inode{src, dst} {
		if _, err := n.mutable(); err != nil {
			return err
		}
		if !n.inStore {
			return fmt.Errorf("inode %d: clone of what has no record: %w", n.Ino, syscall.EINVAL)
		}
	}
	for _, n := range [...]*Inode{src, dst} {
		if err := n.recordNow(); err != nil {
			return fmt.Errorf("inode %d: %w", n.Ino, err)
		}
	}
	dst.TrimPrealloc()
	c := clone{v: v, src: src, dst: dst, r: r.RoundOut(), by: off - r.Off}
	if err := c.copyReached(); err != nil {
		return fmt.Errorf("inode %d: clone: %w", src.Ino, err)
	}
	i := intent{kind: cloning, r: c.r, src: src.Ino, at: off, size: max(dst.Attr.Size, off+r.Len())}
	if err := c.record(i); err != nil {
		return fmt.Errorf("inode %d: clone to inode %d: %w", src.Ino, dst.Ino, v.fail(err))
	}
	c.remember()
	dst.Attr.Size = i.size
	dst.stored.Size = i.size
	dst.commitSize = i.size
	return nil
}

func checkClone(src *Inode, r extent.Range, dst *Inode, off int64) error {
	whole := extent.RoundDown(r.End) == r.End
	switch {
	case r.Off < 0 || r.Empty() || r.End > src.Attr.Size || off < 0 || extent.RoundDown(r.Off|off) != r.Off|off:
		return syscall.EINVAL
	case r.Len() > extent.MaxSize-off:
		return syscall.EFBIG
	case !whole && (r.End != src.Attr.Size || off+r.Len() < dst.Attr.Size):
		return syscall.EINVAL
	case src == dst && r.RoundOut().Overlaps(extent.Range{Off: off, End: extent.RoundUp(off + r.Len())}):
		return syscall.EINVAL
	}
	return nil
}

// clone is a Clone under way.
type clone struct {
	v        *Volume
	src, dst *Inode
	r        extent.Range // of src, whole blocks
	by       int64        // from an offset in src to that in dst
	copies   extMap       // what dst gets that is not shared, by offset in src
}

// reached returns what of r others reach directly: what is in windows or held. It
// needs n shared.
func (n *Inode) reached(r extent.Range) (out []mapping) {
	s := &n.v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	n.m.in(r, func(e mapping) bool {
		if e.win.Seg != 0 {
			out = append(out, e)
			return true
		}
		s.held.in(extent.Range{Off: e.home, End: e.home + e.len}, func(h extent.Range, _ []uint32) {
			out = append(out, e.slice(extent.Range{Off: e.off + h.Off - e.home, End: e.off + h.End - e.home}))
		})
		return true
	})
	return out
}

// copyReached gives dst blocks of its own for what others reach directly.
func (c *clone) copyReached() error {
	reached := slices.DeleteFunc(c.src.reached(c.r), func(e mapping) bool { return e.state != extent.Written })
	if len(reached) == 0 {
		return nil
	}
	parts, err := c.dst.allocateForks(reached, extent.Range{})
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := c.v.copyBlocks(p.to, p.home, p.len); err != nil {
			c.v.space.give(forkedRuns(parts))
			return c.src.locate(err, p.mapping)
		}
		c.copies.insert(mapping{off: p.off, len: p.len, home: p.to, state: extent.Written, stored: true})
	}
	if err := c.v.flush(); err != nil || c.v.sums == nil {
		return err
	}
	var blocks []extent.Range
	for _, p := range parts {
		blocks = append(blocks, extent.Range{Off: p.to, End: p.to + p.len})
	}
	if err := c.v.sums.record(blocks); err != nil {
		return c.v.fail(err)
	}
	return nil
}

// record brings it into the store. First the extents of src are marked as shared,
// which does no harm if a crash leaves only that.
func (c *clone) record(i intent) error {
	if err := c.v.markShared(c.src.Ino, c.r); err != nil {
		return err
	}
	return c.v.cloneRecords(c.dst.Ino, i, &c.copies)
}

func (v *Volume) markShared(ino extent.Ino, r extent.Range) error {
	const step = 100
	for r.Off < r.End {
		found, err := v.records(ino, r, step)
		if err != nil {
			return err
		}
		b := v.batch()
		for _, e := range found {
			if e.State == extent.Written && !e.Shared {
				e.Shared = true
				b.Put(extentKey(ino, e.Off+e.Len), encodeExtent(e))
			}
		}
		if b.Ops() > 0 {
			if _, err := v.apply(b); err != nil {
				return err
			}
		}
		if len(found) < step {
			return nil
		}
		r.Off = found[step-1].Off + found[step-1].Len
	}
	return nil
}

// remember makes memory what the store says.
func (c *clone) remember() {
	to := extent.Range{Off: c.r.Off + c.by, End: c.r.End + c.by}
	c.dst.dropUnstored(c.dst.m.remove(to))
	const step = 4096 // bounds the memory it takes
	for pos := c.r.Off; pos < c.r.End; {
		var some []mapping
		c.src.m.in(extent.Range{Off: pos, End: c.r.End}, func(e mapping) bool {
			some = append(some, e)
			return len(some) < step
		})
		pos = c.r.End
		if len(some) == step {
			pos = some[step-1].end()
		}
		for _, e := range some {
			if e.state == extent.Written {
				c.rememberOne(e)
			}
		}
	}
}

func (c *clone) rememberOne(e mapping) {
	put := func(p mapping) {
		p.off += c.by
		c.dst.m.insert(p)
	}
	for _, h := range c.copies.holes(e.rng()) {
		c.src.m.update(h, func(e *mapping) { e.shared = true })
		p := e.slice(h)
		p.win, p.shared = extent.Addr{}, true
		put(p)
	}
	c.copies.in(e.rng(), func(p mapping) bool {
		put(p)
		return true
	})
}

// cloneRecords makes the extents of i.r in i.src those of dst at i.at, too, apart
// from copies, and sets the size of dst. It may begin again at any time: the source
// stays as it is until it is done.
func (v *Volume) cloneRecords(dst extent.Ino, i intent, copies *extMap) error {
	if copies == nil {
		copies = new(extMap)
	}
	by := i.at - i.r.Off
	if err := v.keepRecords(dst, extent.Range{Off: i.at, End: i.r.End + by}); err != nil {
		return err
	}
	for pos, first := i.r.Off, true; pos < i.r.End; first = false {
		rest := extent.Range{Off: pos, End: i.r.End}
		news, next, err := v.cloned(i.src, rest, by, copies)
		if err != nil {
			return err
		}
		olds, err := v.records(dst, extent.Range{Off: pos + by, End: next + by}, stepMax)
		if err != nil {
			return err
		}
		if len(olds) == stepMax {
			next = min(next, olds[stepMax-1].Range().End-by)
		}
		b := v.batch()
		switch {
		case next == i.r.End:
			if err := v.putSize(b, dst, i.size); err != nil {
				return err
			}
			b.Delete(intentKey(dst))
		case first:
			b.Put(intentKey(dst), i.encode())
		}
		if err := v.replaceRecords(b, dst, extent.Range{Off: pos + by, End: next + by}, olds, news); err != nil {
			return err
		}
		pos = next
	}
	return nil
}

// cloned returns the first extents that what is in r of src has by further on, at
// most stepMax, and how far in src they reach.
func (v *Volume) cloned(src extent.Ino, r extent.Range, by int64, copies *extMap) ([]extent.Extent, int64, error) {
	found, err := v.records(src, r, stepMax)
	if err != nil {
		return nil, 0, err
	}
	next := r.End
	if len(found) == stepMax {
		next = min(next, found[stepMax-1].Range().End)
	}
	var out []extent.Extent
	for _, e := range found {
		if e.State != extent.Written {
			continue
		}
		e = e.Slice(r)
		e.Shared = true
		for _, h := range copies.holes(e.Range()) {
			out = append(out, e.Slice(h))
		}
		copies.in(e.Range(), func(p mapping) bool {
			out = append(out, p.homeExtent())
			return true
		})
	}
	slices.SortFunc(out, func(a, b extent.Extent) int { return cmp.Compare(a.Off, b.Off) })
	if len(out) > stepMax {
		out = out[:stepMax]
		next = out[stepMax-1].Range().End
	}
	for k := range out {
		out[k].Off += by
	}
	return out, next, nil
}

// putSize adds the record of ino with another size to b.
func (v *Volume) putSize(b batcher, ino extent.Ino, size int64) error {
	raw, err := v.st.Get(inodeKey(ino))
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("unfinished work on inode %d, which is not there: %w", ino, ErrCorrupt)
	}
	if err != nil {
		return err
	}
	a, err := decodeAttr(raw)
	if err != nil {
		return err
	}
	a.Size = size
	b.Put(inodeKey(ino), encodeAttr(&a))
	return nil
}

// replaceRecords adds to b that news, cut to r, take the place of olds there, and
// applies it.
func (v *Volume) replaceRecords(b batcher, ino extent.Ino, r extent.Range, olds, news []extent.Extent) error {
	var lost, won []run
	var kept []extent.Extent
	for _, e := range olds {
		if e.Range().Overlaps(r) {
			takeOut(b, ino, e, r)
			kept = append(kept, e.Slice(r))
			lost = append(lost, without(e.Slice(r), news)...)
		}
	}
	for _, e := range news {
		if e.Range().Overlaps(r) {
			e = e.Slice(r)
			putExtent(b, ino, e)
			if e.Shared {
				won = append(won, without(e, kept)...)
			}
		}
	}
	seq, err := v.apply(b)
	if err != nil {
		return err
	}
	v.space.share(won)
	return v.retire(seq, lost)
}
