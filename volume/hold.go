package volume

import (
	"fmt"
	"slices"
	"syscall"

	"holdfast/extent"

	"github.com/tidwall/btree"
)

// holdTable says who holds which blocks. The zero value is empty.
type holdTable struct {
	m    btree.Map[int64, heldRun] // by end, disjoint
	byID map[uint64]hold
	last uint64
}

type hold struct {
	uid  uint32
	runs []run
}

type heldRun struct {
	off  int64
	uids []uint32 // of all holds, the oldest first; never altered
}

// in calls fn for the parts of r that are held, in order, with the accounts. fn must
// not alter the table.
func (t *holdTable) in(r extent.Range, fn func(r extent.Range, uids []uint32)) {
	t.m.Ascend(r.Off+1, func(end int64, h heldRun) bool {
		if h.off >= r.End {
			return false
		}
		fn(extent.Range{Off: h.off, End: end}.Intersect(r), h.uids)
		return true
	})
}

// add notes one more hold on r.
func (t *holdTable) add(r extent.Range, uid uint32) {
	pos := r.Off
	for _, h := range t.cut(r) {
		if pos < h.rng.Off {
			t.m.Set(h.rng.Off, heldRun{pos, []uint32{uid}})
		}
		t.m.Set(h.rng.End, heldRun{h.rng.Off, append(slices.Clip(h.uids), uid)})
		pos = h.rng.End
	}
	if pos < r.End {
		t.m.Set(r.End, heldRun{pos, []uint32{uid}})
	}
}

// sub notes one hold less on r.
func (t *holdTable) sub(r extent.Range, uid uint32) {
	for _, h := range t.cut(r) {
		k := slices.Index(h.uids, uid)
		if rest := slices.Delete(slices.Clone(h.uids), k, k+1); len(rest) > 0 {
			t.m.Set(h.rng.End, heldRun{h.rng.Off, rest})
		}
	}
}

type heldPart struct {
	rng  extent.Range
	uids []uint32
}

// cut takes out what is held in r and returns it.
func (t *holdTable) cut(r extent.Range) []heldPart {
	var out []heldPart
	t.m.Ascend(r.Off+1, func(end int64, h heldRun) bool {
		if h.off >= r.End {
			return false
		}
		out = append(out, heldPart{extent.Range{Off: h.off, End: end}, h.uids})
		return true
	})
	for i, h := range out {
		t.m.Delete(h.rng.End)
		left, right := h.rng.Minus(r)
		for _, rest := range [...]extent.Range{left, right} {
			if !rest.Empty() {
				t.m.Set(rest.End, heldRun{rest.Off, h.uids})
			}
		}
		out[i].rng = h.rng.Intersect(r)
	}
	return out
}

// Hold keeps the blocks that are mapped in r now from being given to anyone else,
// whatever becomes of the file, until Unhold. Blocks that their file gives up
// meanwhile are orphans, and count for uid. It needs n shared.
func (n *Inode) Hold(r extent.Range, uid uint32) (uint64, error) {
	runs, err := n.homes(r)
	if err != nil {
		return 0, fmt.Errorf("hold %v: %w", r, err)
	}
	s := &n.v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hold(hold{uid, runs}), nil
}

// hold notes a hold and returns its name. It needs mu.
func (s *space) hold(h hold) uint64 {
	for _, r := range h.runs {
		s.held.add(r.rng(), h.uid)
	}
	if s.held.byID == nil {
		s.held.byID = make(map[uint64]hold)
	}
	s.held.last++
	s.held.byID[s.held.last] = h
	return s.held.last
}

// homes returns the blocks on the device that r has. It needs n shared.
func (n *Inode) homes(r extent.Range) ([]run, error) {
	if r.Off < 0 || r.Empty() {
		return nil, syscall.EINVAL
	}
	m, err := n.extents()
	if err != nil {
		return nil, err
	}
	var runs []run
	m.in(r.RoundOut(), func(e mapping) bool {
		if k := len(runs) - 1; k >= 0 && runs[k].off+runs[k].len == e.home {
			runs[k].len += e.len
		} else {
			runs = append(runs, run{e.home, e.len})
		}
		return true
	})
	return runs, nil
}

// Unhold ends a hold. Orphans that nobody holds any more become free. An id that
// is not in use does nothing.
func (v *Volume) Unhold(id uint64) {
	if v.space.unholdEasy(id) {
		return
	}
	v.orphanMu.Lock()
	defer v.orphanMu.Unlock()
	edits, gone := v.space.unhold(id)
	if err := v.editOrphans(edits, gone); err != nil {
		v.log.Error("orphans of a hold that has ended stay until the next start", "err", err)
	}
}

// unholdEasy ends a hold if there are no orphans.
func (s *space) unholdEasy(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.orphans.bytes > 0 {
		return false
	}
	s.endHold(id)
	return true
}

// endHold takes a hold out of the table and returns its blocks. It needs mu.
func (s *space) endHold(id uint64) []run {
	h := s.held.byID[id]
	delete(s.held.byID, id)
	for _, r := range h.runs {
		s.held.sub(r.rng(), h.uid)
		s.forgetPromise(r.rng())
	}
	return h.runs
}

// unhold ends a hold. It returns what is to become of the records of orphans, and the
// blocks that nobody keeps any more.
func (s *space) unhold(id uint64) (edits []orphanEdit, gone []run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.endHold(id) {
		e := s.orphans.edit(r.rng(), func(p extent.Range, o orphan) []Orphan {
			return s.stillHeld(p, o, &gone)
		})
		edits = append(edits, e...)
	}
	return edits, gone
}

// stillHeld returns what is left of an orphan now that a hold has ended. It needs mu.
func (s *space) stillHeld(p extent.Range, o orphan, gone *[]run) (left []Orphan) {
	pos := p.Off
	s.held.in(p, func(h extent.Range, uids []uint32) {
		if pos < h.Off {
			*gone = append(*gone, run{pos, h.Off - pos})
		}
		left = append(left, Orphan{Addr: h.Off, Len: h.Len(), UID: uids[0]})
		pos = h.End
	})
	if pos < p.End {
		*gone = append(*gone, run{pos, p.End - pos})
	}
	return left
}
