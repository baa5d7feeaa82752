package volume

import (
	"fmt"

	"holdfast/extent"
)

// extentsPerBatch is how many extents a batch takes out or puts in. Each has two
// records, and there is room for what goes with the first and last batch.
const extentsPerBatch = 48

// batcher is what the steps of an operation write to.
type batcher = *batch

// removal takes the extents of ino within r out of the store. If that takes more
// than one batch, the first leaves the record intent, by which recovery knows that
// the rest is to follow. The last batch must remove it.
type removal struct {
	ino           extent.Ino
	r             extent.Range
	intent, value []byte
	first, last   func(batcher)
}

// removeExtents carries out a removal. The blocks go to the busy list, or become orphans.
func (v *Volume) removeExtents(o removal) error {
	if err := v.writable(); err != nil {
		return err
	}
	if err := v.keepRecords(o.ino, o.r); err != nil {
		return err
	}
	if err := v.removeBatches(o); err != nil {
		return v.fail(err) // memory and store are no longer in step
	}
	return nil
}

func (v *Volume) removeBatches(o removal) error {
	b := v.batch()
	if o.first != nil {
		o.first(b)
	}
	pending := false
	for pos := o.r.Off; ; {
		runs, next, err := v.removeStep(b, o.ino, extent.Range{Off: pos, End: o.r.End})
		if err != nil {
			return err
		}
		more := next < o.r.End
		switch {
		case !more && o.last != nil:
			o.last(b)
		case more && !pending:
			b.Put(o.intent, o.value)
			pending = true
		}
		seq, err := v.apply(b)
		if err != nil {
			return err
		}
		if err := v.retire(seq, runs); err != nil {
			return err
		}
		if !more {
			return nil
		}
		pos = next
		b.Reset()
	}
}

// removeStep adds to b the removal of the first extents of ino within r. It
// returns the blocks and where to go on: r.End if all are done.
func (v *Volume) removeStep(b batcher, ino extent.Ino, r extent.Range) ([]run, int64, error) {
	olds, err := v.records(ino, r, extentsPerBatch)
	if err != nil {
		return nil, 0, err
	}
	var runs []run
	for _, e := range olds {
		takeOut(b, ino, e, r)
		gone := e.Slice(r)
		runs = append(runs, run{gone.Addr.Off, gone.Len})
	}
	if len(olds) < extentsPerBatch {
		return runs, r.End, nil
	}
	return runs, min(olds[len(olds)-1].Range().End, r.End), nil
}

// records returns the extents that the store has of ino and that overlap r, at
// most limit, in order.
func (v *Volume) records(ino extent.Ino, r extent.Range, limit int) ([]extent.Extent, error) {
	var out []extent.Extent
	err := v.st.Scan(extentKey(ino, r.Off+1), after(prefixExtent, uint64(ino)), func(k, b []byte) (bool, error) {
		_, e, err := decodeExtent(k, b)
		if err != nil || e.Off >= r.End {
			return false, err
		}
		out = append(out, e)
		return len(out) < limit, nil
	})
	if err != nil {
		return nil, fmt.Errorf("inode %d: records in %v: %w", ino, r, err)
	}
	return out, nil
}

func putExtent(b batcher, ino extent.Ino, e extent.Extent) {
	end := e.Off + e.Len
	b.Put(extentKey(ino, end), encodeExtent(e))
	b.Put(ownerKey(e.Addr, e.Len, ino, end), encodeNumber(uint64(e.Len)))
}

func delExtent(b batcher, ino extent.Ino, e extent.Extent) {
	end := e.Off + e.Len
	b.Delete(extentKey(ino, end))
	b.Delete(ownerKey(e.Addr, e.Len, ino, end))
}

// Delete frees all that n has and removes it. Its last name is gone and nobody
// uses it any more. It needs n exclusive.
func (v *Volume) Delete(n *Inode) error {
	if n.deleted {
		return nil
	}
	if err := v.writable(); err != nil {
		return err
	}
	if n.inStore {
		if err := v.deleteRecords(n.Ino, n.stored.Xattrs > 0); err != nil {
			return fmt.Errorf("delete inode %d: %w", n.Ino, err)
		}
		v.files.Add(-1)
	}
	n.TrimPrealloc()
	all := extent.Range{Off: 0, End: extent.Inf}
	n.dropUnstored(n.m.remove(all))
	n.dirty.clear()
	n.committing.clear()
	n.deleted = true
	return nil
}

// deleteRecords removes an inode from the store, with its extended attributes if
// it may have any. The orphan record serves as the intent.
func (v *Volume) deleteRecords(ino extent.Ino, xattrs bool) error {
	if xattrs {
		if err := v.deleteXattrs(ino); err != nil {
			return v.fail(err) // the inode's count of them is not true any more
		}
	}
	return v.removeExtents(removal{
		ino: ino, r: extent.Range{Off: 0, End: extent.Inf}, intent: orphanKey(ino), value: []byte{},
		last: func(b batcher) {
			b.Delete(inodeKey(ino))
			b.Delete(orphanKey(ino))
		},
	})
}
