package volume

import (
	"fmt"
	"syscall"

	"holdfast/extent"

	"github.com/tidwall/btree"
)

// holdTable counts the holds on blocks. The zero value is empty.
type holdTable struct {
	m    btree.Map[int64, heldRun] // by end, disjoint
	byID map[uint64][]run
	last uint64
}

type heldRun struct {
	off   int64
	count int
}

// in calls fn for the parts of r that are held, in order. fn must not alter the
// table.
func (t *holdTable) in(r extent.Range, fn func(extent.Range)) {
	t.m.Ascend(r.Off+1, func(end int64, h heldRun) bool {
		if h.off >= r.End {
			return false
		}
		fn(extent.Range{Off: h.off, End: end}.Intersect(r))
		return true
	})
}

// add counts one more hold on r.
func (t *holdTable) add(r extent.Range) {
	pos := r.Off
	for _, h := range t.cut(r) {
		if pos < h.rng.Off {
			t.m.Set(h.rng.Off, heldRun{pos, 1})
		}
		t.m.Set(h.rng.End, heldRun{h.rng.Off, h.count + 1})
		pos = h.rng.End
	}
	if pos < r.End {
		t.m.Set(r.End, heldRun{pos, 1})
	}
}

// sub counts one hold less on r and returns what is not held any more.
func (t *holdTable) sub(r extent.Range) (gone []extent.Range) {
	for _, h := range t.cut(r) {
		if h.count > 1 {
			t.m.Set(h.rng.End, heldRun{h.rng.Off, h.count - 1})
		} else {
			gone = append(gone, h.rng)
		}
	}
	return gone
}

type countedRange struct {
	rng   extent.Range
	count int
}

// cut takes out what is held in r and returns it.
func (t *holdTable) cut(r extent.Range) []countedRange {
	var out []countedRange
	t.m.Ascend(r.Off+1, func(end int64, h heldRun) bool {
		if h.off >= r.End {
			return false
		}
		out = append(out, countedRange{extent.Range{Off: h.off, End: end}, h.count})
		return true
	})
	for i, h := range out {
		t.m.Delete(h.rng.End)
		left, right := h.rng.Minus(r)
		for _, rest := range [...]extent.Range{left, right} {
			if !rest.Empty() {
				t.m.Set(rest.End, heldRun{rest.Off, h.count})
			}
		}
		out[i].rng = h.rng.Intersect(r)
	}
	return out
}

// Hold keeps the blocks that are mapped in r now from being given to anyone else,
// whatever becomes of the file, until Unhold. Blocks that their file gives up
// meanwhile are orphans. It needs n shared.
func (n *Inode) Hold(r extent.Range) (uint64, error) {
	if r.Off < 0 || r.Empty() {
		return 0, fmt.Errorf("hold %v: %w", r, syscall.EINVAL)
	}
	m, err := n.extents()
	if err != nil {
		return 0, err
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
	s := &n.v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		s.held.add(r.rng())
	}
	if s.held.byID == nil {
		s.held.byID = make(map[uint64][]run)
	}
	s.held.last++
	s.held.byID[s.held.last] = runs
	return s.held.last, nil
}

// Unhold ends a hold. Orphans that nobody holds any more become free. An id that
// is not in use does nothing.
func (v *Volume) Unhold(id uint64) {
	s := &v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	runs := s.held.byID[id]
	delete(s.held.byID, id)
	for _, r := range runs {
		for _, gone := range s.held.sub(r.rng()) {
			s.adopt(gone)
		}
	}
}

// adopt frees the orphans in r, which nobody holds any more. It needs mu.
func (s *space) adopt(r extent.Range) {
	var found []extent.Range
	s.orphans.in(r, func(o extent.Range) bool {
		found = append(found, o)
		return true
	})
	for _, o := range found {
		s.orphans.remove(o)
		s.free.give(run{o.Off, o.End - o.Off})
	}
}
