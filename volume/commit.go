package volume

import (
	"context"
	"sync"
	"time"

	"holdfast/extent"
	"holdfast/store"
)

const (
	// recordMax bounds the length of an extent's record. A search for what overlaps an
	// address is so bounded, too.
	recordMax = 1 << 30
	// syncAtOnce is how many inodes SyncAll commits with one flush.
	syncAtOnce = 256
)

// Sync makes durable all that was written to n, its attributes, and the namespace,
// as of the call. mu is n's; the caller does not hold it.
func (v *Volume) Sync(ctx context.Context, n *Inode, mu *sync.RWMutex) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	called := n.started.Load()
	n.commitMu.Lock()
	defer n.commitMu.Unlock()
	if n.done > called {
		return nil // another commit began after we were called, and has succeeded
	}
	return v.commit([]target{{n, mu}})
}

// SyncAll is Sync for all inodes that each passes to its argument, none of them
// twice, with few flushes. It is over before each inode that was passed may go.
func (v *Volume) SyncAll(ctx context.Context, each func(func(n *Inode, mu *sync.RWMutex) error) error) error {
	var all []target
	err := each(func(n *Inode, mu *sync.RWMutex) error {
		all = append(all, target{n, mu})
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	v.syncAllMu.Lock()
	defer v.syncAllMu.Unlock()
	for len(all) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		some := all[:min(syncAtOnce, len(all))]
		all = all[len(some):]
		if err := v.syncSome(some); err != nil {
			return err
		}
	}
	if v.sums != nil {
		if err := v.sums.recordAll(); err != nil {
			return v.fail(err)
		}
	}
	return v.SyncStore(ctx)
}

func (v *Volume) syncSome(some []target) error {
	for _, t := range some {
		t.n.commitMu.Lock()
		defer t.n.commitMu.Unlock()
	}
	return v.commit(some)
}

// target is an inode with its mutex.
type target struct {
	n  *Inode
	mu *sync.RWMutex
}

// commit brings what is pending to the device and then to the store. It needs the
// commitMu of all.
func (v *Volume) commit(all []target) error {
	if err := v.writable(); err != nil {
		return err
	}
	if v.committed != nil {
		begun := time.Now()
		defer func() { v.committed(time.Since(begun)) }()
	}
	flush := false
	for _, t := range all {
		t.n.started.Add(1)
		if t.n.snapshot(t.mu) {
			flush = true
		}
	}
	if flush {
		if err := v.flush(); err != nil {
			return err
		}
	}
	for _, t := range all {
		if err := t.n.record(t.mu); err != nil {
			return v.fail(err) // memory and store are no longer in step
		}
	}
	if err := v.syncStore(); err != nil {
		return err
	}
	for _, t := range all {
		t.n.done = t.n.started.Load()
	}
	return nil
}

// snapshot notes what the commit will record and reports whether the device must
// be flushed for it. What is added from here on is left to the next commit.
func (n *Inode) snapshot(mu *sync.RWMutex) (flush bool) {
	mu.Lock()
	defer mu.Unlock()
	n.commitSize = n.Attr.Size
	n.committing, n.dirty = n.dirty, rangeSet{}
	n.flushing = n.unflushed.Swap(false)
	return n.flushing
}

// recordNow brings all that is pending of n to the device and into the store, for an
// operation that works on the records. A Sync makes it durable. It needs n
// exclusive; a commit that is under way finds nothing left to record.
func (n *Inode) recordNow() error {
	if n.unflushed.Swap(false) || n.flushing {
		if err := n.v.flush(); err != nil {
			return err
		}
	}
	for _, r := range n.dirty.list() {
		n.committing.add(r)
	}
	n.dirty.clear()
	n.commitSize = n.Attr.Size
	if err := n.recordPending(); err != nil {
		return n.v.fail(err)
	}
	return nil
}

// record writes the snapshot's extents to the store, in batches, and the inode's
// attributes with the last.
func (n *Inode) record(mu *sync.RWMutex) error {
	mu.Lock()
	defer mu.Unlock()
	n.flushing = false
	return n.recordPending()
}

// recordPending is record with n exclusive.
func (n *Inode) recordPending() error {
	todo := n.committing
	n.committing = rangeSet{}
	if n.deleted || !n.inStore {
		n.dirty = todo // for when it has a record
		return nil
	}
	for _, r := range n.dirty.list() {
		todo.remove(r) // changed since the snapshot, so not flushed
	}
	attr := n.Attr
	if attr.IsRegular() {
		attr.Size = n.commitSize
	}
	if todo.empty() && attr == n.stored {
		return nil
	}
	for _, r := range todo.list() {
		n.m.update(r, func(e *mapping) { e.stored, e.stale = true, false })
	}
	if n.v.sums != nil {
		if err := n.recordSums(&todo); err != nil {
			return err
		}
	}
	w := recorder{n: n, b: n.v.batch()}
	for _, r := range n.widen(&todo) {
		if err := w.replace(r); err != nil {
			return err
		}
	}
	if err := w.room(1); err != nil {
		return err
	}
	w.b.Put(inodeKey(n.Ino), encodeAttr(&attr))
	if err := w.apply(); err != nil {
		return err
	}
	n.stored = attr
	n.recorded = n.v.applied.Load()
	return nil
}

// widen extends the ranges to the whole mappings they are part of by now, so that
// a file that grows in small steps does not get a record for each.
func (n *Inode) widen(todo *rangeSet) []extent.Range {
	var wide rangeSet
	for _, r := range todo.list() {
		wide.add(r)
		around := extent.Range{Off: r.Off &^ (recordMax - 1), End: (r.End + recordMax - 1) &^ (recordMax - 1)}
		n.m.in(r, func(e mapping) bool {
			if whole, ok := n.m.at(e.off); ok {
				wide.add(whole.rng().Intersect(around))
			}
			return true
		})
	}
	// What changed since the snapshot may have joined what did not.
	for _, r := range n.dirty.list() {
		wide.remove(r)
	}
	return wide.list()
}

// recorder replaces the records of an inode's extents by what memory says.
type recorder struct {
	n *Inode
	b batcher
	// straddles: b has put a record that reaches behind what it replaces, which a
	// look into the store would not show.
	straddles bool
	gone      []run // what b takes references from
}

func (w *recorder) apply() error {
	w.straddles = false
	if w.b.Ops() == 0 {
		return nil
	}
	err := w.n.v.keepHeld(w.gone)
	if err != nil {
		return err
	}
	seq, err := w.n.v.apply(w.b)
	if err == nil {
		err = w.n.v.retire(seq, w.gone)
	}
	w.b.Reset()
	w.gone = nil
	return err
}

// room makes sure that n more operations fit.
func (w *recorder) room(n int) error {
	if w.b.Ops()+n > store.MaxOps {
		return w.apply()
	}
	return nil
}

// replace makes the records of r what memory says. Each step takes out old
// records and puts in new ones for the same bytes, so that both maps are whole
// after every batch.
func (w *recorder) replace(r extent.Range) error {
	for !r.Empty() {
		if w.straddles {
			if err := w.apply(); err != nil {
				return err
			}
		}
		next, err := w.step(r)
		if err != nil {
			return err
		}
		r.Off = next
	}
	return nil
}

// stepMax bounds the old and, apart from them, the new extents of a step: with two
// records for each and a rest on both sides, a step fits into a batch.
const stepMax = 24

// step replaces from the beginning of r, and returns where to go on.
func (w *recorder) step(r extent.Range) (int64, error) {
	olds, err := w.n.v.records(w.n.Ino, r, stepMax)
	if err != nil {
		return 0, err
	}
	news := w.news(r)
	if len(olds) == stepMax {
		r.End = min(r.End, olds[stepMax-1].Range().End)
	}
	if len(news) == stepMax {
		r.End = min(r.End, news[stepMax-1].Range().End)
	}
	if err := w.room(4*stepMax + 4); err != nil {
		return 0, err
	}
	for _, e := range olds {
		if !e.Range().Overlaps(r) {
			continue
		}
		if takeOut(w.b, w.n.Ino, e, r) {
			w.straddles = true
		}
		w.gone = append(w.gone, without(e.Slice(r), news)...)
	}
	for _, e := range news {
		if e.Range().Overlaps(r) {
			putExtent(w.b, w.n.Ino, e.Slice(r))
		}
	}
	return r.End, nil
}

// takeOut takes r out of the record e, and reports whether a part behind r is left.
func takeOut(b batcher, ino extent.Ino, e extent.Extent, r extent.Range) bool {
	delExtent(b, ino, e)
	left, right := e.Range().Minus(r)
	for _, rest := range [...]extent.Range{left, right} {
		if !rest.Empty() {
			putExtent(b, ino, e.Slice(rest))
		}
	}
	return !right.Empty()
}

// without returns the blocks of e that are not, for the same bytes, those of
// others, which are in order.
func without(e extent.Extent, others []extent.Extent) (out []run) {
	at := e.Addr.Off - e.Off
	pos := e.Off
	for _, o := range others {
		same := o.Range().Intersect(e.Range())
		if same.Empty() || o.Addr.Off-o.Off != at {
			continue
		}
		if pos < same.Off {
			out = append(out, run{at + pos, same.Off - pos})
		}
		pos = same.End
	}
	if end := e.Off + e.Len; pos < end {
		out = append(out, run{at + pos, end - pos})
	}
	return out
}

// news returns the first extents of r in memory, as records are cut.
func (w *recorder) news(r extent.Range) []extent.Extent {
	var out []extent.Extent
	w.n.m.in(r, func(e mapping) bool {
		for x := e.homeExtent(); x.Len > 0 && len(out) < stepMax; {
			cut := min(x.Off+x.Len, x.Off&^(recordMax-1)+recordMax)
			out = append(out, x.Slice(extent.Range{Off: x.Off, End: cut}))
			d := cut - x.Off
			x.Off, x.Len, x.Addr.Off = cut, x.Len-d, x.Addr.Off+d
		}
		return len(out) < stepMax
	})
	return out
}
