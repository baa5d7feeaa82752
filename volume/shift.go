package volume

import (
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// movesPerBatch is how many extents a batch moves: each has two records to take out
// and two to put in, and there is room for a rest, the intent and the inode.
const movesPerBatch = (store.MaxOps - 8) / 4

// Collapse takes r, whole blocks before the end of file, out of the file, so that what
// is behind it follows what is before it. It is durable when it returns, with all at home
// that was pending, and a crash leaves all of it or nothing. It needs n
// exclusive, and no window on [r.Off, ∞).
func (n *Inode) Collapse(r extent.Range) error {
	if err := n.CanCollapse(r); err != nil {
		return err
	}
	return n.shift(intent{kind: collapsing, r: r, at: r.Off, size: n.Attr.Size - r.Len()})
}

// Insert moves what begins at r.Off, before the end of file, up by the length of r,
// whole blocks, and leaves a hole there. The rest is as for Collapse.
func (n *Inode) Insert(r extent.Range) error {
	if err := n.CanInsert(r); err != nil {
		return err
	}
	return n.shift(intent{kind: inserting, r: r, at: extent.MaxSize, size: n.Attr.Size + r.Len()})
}

// CanCollapse says whether a Collapse of r makes sense. It needs n shared.
func (n *Inode) CanCollapse(r extent.Range) error {
	if r.Off < 0 || r.Empty() || r.RoundOut() != r || r.End >= n.Attr.Size {
		return fmt.Errorf("collapse %v of %d bytes: %w", r, n.Attr.Size, syscall.EINVAL)
	}
	return nil
}

// CanInsert says whether an Insert of r makes sense. It needs n shared.
func (n *Inode) CanInsert(r extent.Range) error {
	switch {
	case r.Off < 0 || r.Empty() || r.RoundOut() != r || r.Off >= n.Attr.Size:
		return fmt.Errorf("insert %v into %d bytes: %w", r, n.Attr.Size, syscall.EINVAL)
	case r.Len() > extent.MaxSize-n.Attr.Size:
		return fmt.Errorf("insert %v into %d bytes: %w", r, n.Attr.Size, syscall.EFBIG)
	}
	return nil
}

func (n *Inode) shift(i intent) error {
	m, err := n.mutable()
	if err != nil {
		return err
	}
	moved, by := extent.Range{Off: i.r.Off, End: extent.Inf}, i.r.Len()
	if i.kind == collapsing {
		moved, by = extent.Range{Off: i.r.End, End: extent.Inf}, -by
	}
	from := extent.Range{Off: i.r.Off, End: extent.Inf}
	windows, last := n.bare.overlaps(from), int64(0)
	m.in(from, func(e mapping) bool {
		windows, last = windows || e.win.Seg != 0, e.end()
		return true
	})
	switch {
	case windows || !n.inStore:
		return fmt.Errorf("inode %d: %v %v, parts of which are in use: %w", n.Ino, i.kind, i.r, syscall.EBUSY)
	case by > 0 && last > extent.MaxSize-by:
		return fmt.Errorf("inode %d: %v %v: %w", n.Ino, i.kind, i.r, syscall.EFBIG)
	}
	n.TrimPrealloc()
	if err := n.recordNow(); err != nil {
		return fmt.Errorf("inode %d: %w", n.Ino, err)
	}
	if err := n.v.shiftRecords(n.Ino, i); err != nil {
		return fmt.Errorf("inode %d: %v %v: %w", n.Ino, i.kind, i.r, n.v.fail(err))
	}
	if i.kind == collapsing {
		n.dropUnstored(m.remove(i.r))
	}
	for _, e := range m.remove(moved) {
		e.off += by
		m.insert(e)
	}
	n.Attr.Size, n.stored.Size, n.commitSize = i.size, i.size, i.size
	// Bytes that are now overwritten in place must not, after a crash, be found where
	// the blocks were before.
	return n.v.syncStore()
}

// shiftRecords carries out, or goes on with, a collapse or an insertion.
func (v *Volume) shiftRecords(ino extent.Ino, i intent) error {
	if i.kind == collapsing {
		return v.collapseRecords(ino, i)
	}
	return v.insertRecords(ino, i)
}

// collapseRecords goes up: what was in [i.r.End, i.at) has moved.
func (v *Volume) collapseRecords(ino extent.Ino, i intent) error {
	if err := v.keepRecords(ino, i.r); err != nil {
		return err
	}
	for {
		b := v.batch()
		var gone []run
		var err error
		end := false
		if i.at < i.r.End {
			gone, i.at, err = v.removeStep(b, ino, extent.Range{Off: i.at, End: i.r.End})
		} else {
			rest := extent.Range{Off: i.at, End: extent.Inf}
			i.at, err = v.moveStep(b, ino, rest, -i.r.Len())
			end = i.at == extent.Inf
		}
		if err == nil {
			err = v.shiftBatch(b, ino, i, end, gone)
		}
		if err != nil || end {
			return err
		}
	}
}

// insertRecords goes down: what was behind i.at has moved.
func (v *Volume) insertRecords(ino extent.Ino, i intent) error {
	cuts, err := v.cuts(ino, extent.Range{Off: i.r.Off, End: i.at})
	if err != nil {
		return err
	}
	for k := len(cuts) - 1; k >= 0; k-- {
		b := v.batch()
		if _, err := v.moveStep(b, ino, extent.Range{Off: cuts[k], End: i.at}, i.r.Len()); err != nil {
			return err
		}
		i.at = cuts[k]
		if err := v.shiftBatch(b, ino, i, k == 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// cuts returns where the steps through r begin: r.Off, and as many extents further
// on as fit a batch.
func (v *Volume) cuts(ino extent.Ino, r extent.Range) ([]int64, error) {
	cuts := []int64{r.Off}
	for pos := r.Off; ; {
		found, err := v.records(ino, extent.Range{Off: pos, End: r.End}, movesPerBatch)
		if err != nil || len(found) < movesPerBatch {
			return cuts, err
		}
		pos = found[movesPerBatch-1].Range().End
		cuts = append(cuts, pos)
	}
}

// moveStep adds to b that the first extents of r move by that much, and returns
// where to go on, r.End if that were all.
func (v *Volume) moveStep(b batcher, ino extent.Ino, r extent.Range, by int64) (int64, error) {
	found, err := v.records(ino, r, movesPerBatch)
	if err != nil {
		return 0, err
	}
	for _, e := range found {
		takeOut(b, ino, e, r)
	}
	for _, e := range found { // after all that is taken out: one may come where another was
		e = e.Slice(r)
		e.Off += by
		putExtent(b, ino, e)
	}
	if len(found) < movesPerBatch {
		return r.End, nil
	}
	return min(found[movesPerBatch-1].Range().End, r.End), nil
}

// shiftBatch applies a batch with the intent as it is after it.
func (v *Volume) shiftBatch(b batcher, ino extent.Ino, i intent, end bool, gone []run) error {
	if end {
		if err := v.putSize(b, ino, i.size); err != nil {
			return err
		}
		b.Delete(intentKey(ino))
	} else {
		b.Put(intentKey(ino), i.encode())
	}
	seq, err := v.apply(b)
	if err != nil {
		return err
	}
	return v.retire(seq, gone)
}
