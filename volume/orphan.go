package volume

import (
	"fmt"
	"math"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// defaultOrphaned is the part of a volume that may be orphaned: one in so many.
const defaultOrphaned = 10

// Orphan is a run of blocks that no file has any more, and a hold keeps. It is a record
// in the store, written before the batch that takes the blocks from their file, and
// counts as a reference to them.
type Orphan struct {
	Addr int64  `json:"address"`
	Len  int64  `json:"length"`
	UID  uint32 `json:"uid"` // for whom it counts
	// Unclaimed: a former server of this boot has left it, and nobody holds it now.
	Unclaimed bool `json:"unclaimed"`
}

func (o Orphan) rng() extent.Range { return extent.Range{Off: o.Addr, End: o.Addr + o.Len} }

// orphanTable is the orphans, one entry for each record. The zero value is empty.
type orphanTable struct {
	m     tree[orphan] // by end, disjoint
	bytes int64
}

type orphan struct {
	off       int64
	uid       uint32
	unclaimed bool
}

// orphanEdit is a change of records: that which ends at del goes, and put come.
type orphanEdit struct {
	del int64 // 0: none
	put []Orphan
}

func (t *orphanTable) put(o Orphan) {
	t.m.Set(o.Addr+o.Len, orphan{o.Addr, o.UID, o.Unclaimed})
	t.bytes += o.Len
}

// in calls fn for the parts of orphans in r, in order. fn must not alter the table.
func (t *orphanTable) in(r extent.Range, fn func(extent.Range, orphan)) {
	t.m.Ascend(r.Off+1, func(end int64, o orphan) bool {
		if o.off >= r.End {
			return false
		}
		fn(extent.Range{Off: o.off, End: end}.Intersect(r), o)
		return true
	})
}

// edit replaces the parts of orphans in r by what fn makes of them.
func (t *orphanTable) edit(r extent.Range, fn func(extent.Range, orphan) []Orphan) (edits []orphanEdit) {
	t.in(r, func(p extent.Range, o orphan) {
		e := orphanEdit{put: fn(p, o)}
		if len(e.put) == 1 && e.put[0] == (Orphan{p.Off, p.Len(), o.uid, o.unclaimed}) {
			return
		}
		whole := extent.Range{Off: o.off, End: p.End}
		t.m.Ascend(p.End, func(end int64, _ orphan) bool {
			whole.End = end
			return false
		})
		e.del = whole.End
		left, right := whole.Minus(p)
		for _, rest := range [...]extent.Range{left, right} {
			if !rest.Empty() {
				e.put = append(e.put, Orphan{rest.Off, rest.Len(), o.uid, o.unclaimed})
			}
		}
		edits = append(edits, e)
	})
	for _, e := range edits {
		o, _ := t.m.Get(e.del)
		t.m.Delete(e.del)
		t.bytes -= e.del - o.off
		for _, o := range e.put {
			t.put(o)
		}
	}
	return edits
}

// lacking calls fn for the parts of r that are no orphans.
func (t *orphanTable) lacking(r extent.Range, fn func(extent.Range)) {
	pos := r.Off
	t.in(r, func(p extent.Range, _ orphan) {
		if pos < p.Off {
			fn(extent.Range{Off: pos, End: p.Off})
		}
		pos = p.End
	})
	if pos < r.End {
		fn(extent.Range{Off: pos, End: r.End})
	}
}

// holding reports whether anything is held.
func (s *space) holding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held.byID) > 0
}

// heldOf returns the parts of runs that are held.
func (s *space) heldOf(runs []run) (out []run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		s.held.in(r.rng(), func(h extent.Range, _ []uint32) { out = append(out, run{h.Off, h.Len()}) })
	}
	return out
}

// keepRecords makes orphans of what ino is about to lose in r, in one batch or several.
// Whatever is left of that by a crash, the records are there first.
func (v *Volume) keepRecords(ino extent.Ino, r extent.Range) error {
	if !v.space.holding() {
		return nil
	}
	const step = 256
	var held []run
	for pos := r.Off; pos < r.End; {
		found, err := v.records(ino, extent.Range{Off: pos, End: r.End}, step)
		if err != nil {
			return err
		}
		var runs []run
		for _, e := range found {
			e = e.Slice(r)
			runs = append(runs, run{e.Addr.Off, e.Len})
		}
		held = append(held, v.space.heldOf(runs)...)
		if len(found) < step {
			break
		}
		pos = found[step-1].Range().End
	}
	return v.keepHeld(held)
}

// keepHeld makes orphans of what is held of runs, each of which is about to lose a
// reference, and has no other. The records come before the batch that takes it.
func (v *Volume) keepHeld(runs []run) error {
	if !v.space.holding() || len(v.space.heldOf(runs)) == 0 {
		return nil
	}
	v.orphanMu.Lock()
	defer v.orphanMu.Unlock()
	return v.editOrphans(v.space.keep(runs), nil)
}

func (s *space) keep(runs []run) (edits []orphanEdit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var losing spanMap[int] // one file may have a block several times
	for _, r := range runs {
		losing.alter(r.rng(), func(_ extent.Range, n int) int { return n + 1 })
	}
	losing.in(extent.Range{Off: 0, End: math.MaxInt64}, func(r extent.Range, n int) bool {
		s.held.in(r, func(h extent.Range, uids []uint32) {
			s.refs.live(h, func(p extent.Range, live int) {
				if live > n {
					return
				}
				s.orphans.lacking(p, func(p extent.Range) {
					s.refs.share(p)
					edits = append(edits, s.orphaned(p, uids[0]))
				})
			})
		})
		return true
	})
	return edits
}

// orphaned makes an orphan of p. It needs mu.
func (s *space) orphaned(p extent.Range, uid uint32) orphanEdit {
	o := Orphan{Addr: p.Off, Len: p.Len(), UID: uid}
	s.orphans.put(o)
	s.promised.remove(p)
	return orphanEdit{put: []Orphan{o}}
}

// editOrphans brings into the store what has become of the table, and gives up what
// nobody keeps any more. If that fails the volume has failed. It needs orphanMu, from
// before the table was altered.
func (v *Volume) editOrphans(edits []orphanEdit, gone []run) error {
	if len(edits) == 0 {
		return nil
	}
	b := v.batch()
	for _, e := range edits {
		for _, op := range e.ops() {
			if b.Ops() == store.MaxOps {
				if _, err := v.apply(b); err != nil {
					return v.fail(err)
				}
				b.Reset()
			}
			op(b)
		}
	}
	seq, err := v.apply(b)
	if err != nil {
		return v.fail(err)
	}
	v.space.retire(seq, gone)
	return nil
}

// ops returns what makes the edit, in an order that loses no block wherever it is cut:
// what goes, or is replaced under its key, goes last.
func (e orphanEdit) ops() (out []func(batcher)) {
	last := func(b batcher) { b.Delete(orphanedKey(e.del)) }
	if e.del == 0 {
		last = nil
	}
	for _, o := range e.put {
		end := o.Addr + o.Len
		put := func(b batcher) { b.Put(orphanedKey(end), encodeOrphan(o)) }
		if end == e.del {
			last = put
		} else {
			out = append(out, put)
		}
	}
	if last != nil {
		out = append(out, last)
	}
	return out
}

// retire puts on the busy list what batch seq takes references from. What is held, and
// was not seen to lose the last, becomes an orphan.
func (v *Volume) retire(seq uint64, runs []run) error { return v.adopt(v.space.retire(seq, runs)) }

// adopt makes orphans of runs that are held and in no file, and frees them if they are
// not held any more. They have one reference, which is nobody's.
func (v *Volume) adopt(runs []run) error {
	if len(runs) == 0 {
		return nil
	}
	v.orphanMu.Lock()
	defer v.orphanMu.Unlock()
	edits, gone := v.space.adopt(runs)
	if err := v.editOrphans(edits, nil); err != nil {
		return err
	}
	v.space.retire(v.applied.Load(), gone)
	return nil
}

func (s *space) adopt(runs []run) (edits []orphanEdit, gone []run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		pos := r.off
		s.held.in(r.rng(), func(h extent.Range, uids []uint32) {
			if pos < h.Off {
				gone = append(gone, run{pos, h.Off - pos})
			}
			edits = append(edits, s.orphaned(h, uids[0]))
			pos = h.End
		})
		if end := r.off + r.len; pos < end {
			gone = append(gone, run{pos, end - pos})
		}
	}
	return edits, gone
}

// Defer counts the blocks of r that hold keeps as orphans to be: the file is about to
// give them up. It returns ENOSPC, and has done nothing, if there would be more than
// Options.MaxOrphaned. It needs n shared.
func (n *Inode) Defer(hold uint64, r extent.Range) error {
	runs, err := n.homes(r)
	if err != nil {
		return fmt.Errorf("inode %d: defer %v: %w", n.Ino, r, err)
	}
	s := &n.v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	var fresh rangeSet
	for _, h := range s.held.byID[hold].runs {
		for _, r := range runs {
			if p := h.rng().Intersect(r.rng()); !p.Empty() {
				s.orphans.lacking(p, fresh.add)
			}
		}
	}
	for _, p := range s.promised.list() {
		fresh.remove(p)
	}
	limit := n.v.maxOrphaned
	if limit == 0 {
		limit = s.total / defaultOrphaned
	}
	if has := s.orphans.bytes + s.promised.bytes; has+fresh.bytes > limit {
		return fmt.Errorf("inode %d: %d bytes more of orphans would pass the limit of %d bytes (there are %d): %w",
			n.Ino, fresh.bytes, limit, has, syscall.ENOSPC)
	}
	for _, p := range fresh.list() {
		s.promised.add(p)
	}
	return nil
}

// forgetPromise notes that a hold on r has ended. It needs mu.
func (s *space) forgetPromise(r extent.Range) {
	var parts []extent.Range
	s.promised.in(r, func(p extent.Range) bool {
		parts = append(parts, p)
		return true
	})
	for _, p := range parts {
		s.promised.remove(p)
		s.held.in(p, func(h extent.Range, _ []uint32) { s.promised.add(h) })
	}
}

// Orphans lists the orphans by address.
func (v *Volume) Orphans() []Orphan {
	s := &v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Orphan
	s.orphans.m.Scan(func(end int64, o orphan) bool {
		out = append(out, Orphan{o.off, end - o.off, o.uid, o.unclaimed})
		return true
	})
	return out
}

// Held returns the blocks on the device that a hold keeps.
func (v *Volume) Held(hold uint64) (out []extent.Range) {
	s := &v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.held.byID[hold].runs {
		out = append(out, r.rng())
	}
	return out
}

// OrphanHolds returns the holds that keep orphans.
func (v *Volume) OrphanHolds() (out []uint64) {
	s := &v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.orphans.bytes == 0 {
		return nil
	}
	for id, h := range s.held.byID {
		keeps := false
		for _, r := range h.runs {
			s.orphans.in(r.rng(), func(extent.Range, orphan) { keeps = true })
		}
		if keeps {
			out = append(out, id)
		}
	}
	return out
}

// HoldOrphans is Hold for the orphans in runs of the device: who reclaims after a
// restart holds what he has, whoever else does.
func (v *Volume) HoldOrphans(runs []extent.Range, uid uint32) (uint64, error) {
	v.orphanMu.Lock()
	defer v.orphanMu.Unlock()
	id, edits := v.space.holdOrphans(runs, uid)
	return id, v.editOrphans(edits, nil)
}

func (s *space) holdOrphans(runs []extent.Range, uid uint32) (id uint64, edits []orphanEdit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := hold{uid: uid}
	for _, r := range runs {
		s.orphans.in(r, func(p extent.Range, _ orphan) { h.runs = append(h.runs, run{p.Off, p.Len()}) })
		edits = append(edits, s.orphans.edit(r, func(p extent.Range, o orphan) []Orphan {
			return []Orphan{{Addr: p.Off, Len: p.Len(), UID: o.uid}}
		})...)
	}
	return s.hold(h), edits
}

// ReleaseOrphans frees the unclaimed orphans that which selects; nil selects all. Their
// holders are known to be gone. It returns how many bytes that were.
func (v *Volume) ReleaseOrphans(which func(Orphan) bool) (int64, error) {
	v.orphanMu.Lock()
	defer v.orphanMu.Unlock()
	var gone []run
	var edits []orphanEdit
	bytes := int64(0)
	for _, o := range v.Orphans() {
		if !o.Unclaimed || which != nil && !which(o) {
			continue
		}
		bytes += o.Len
		gone = append(gone, run{o.Addr, o.Len})
		edits = append(edits, v.space.dropOrphan(o)...)
	}
	return bytes, v.editOrphans(edits, gone)
}

func (s *space) dropOrphan(o Orphan) []orphanEdit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orphans.edit(o.rng(), func(extent.Range, orphan) []Orphan { return nil })
}
