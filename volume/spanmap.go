package volume

import (
	"holdfast/extent"

	"github.com/tidwall/btree"
)

// spanMap gives values to ranges, and keeps neighbours of one value as one. What
// has the zero value is not in it. The zero spanMap is empty.
type spanMap[V comparable] struct {
	m btree.Map[int64, span[V]] // by end, disjoint
}

type span[V comparable] struct {
	off int64
	val V
}

// in calls fn for what has a value in r, in order, until it returns false. fn must
// not alter the map.
func (s *spanMap[V]) in(r extent.Range, fn func(extent.Range, V) bool) {
	s.m.Ascend(r.Off+1, func(end int64, p span[V]) bool {
		if p.off >= r.End {
			return false
		}
		return fn(extent.Range{Off: p.off, End: end}.Intersect(r), p.val)
	})
}

// alter replaces the values in all of r by what fn makes of them.
func (s *spanMap[V]) alter(r extent.Range, fn func(extent.Range, V) V) {
	type part struct {
		rng extent.Range
		val V
	}
	var parts []part
	var none V
	pos := r.Off
	s.in(r, func(p extent.Range, v V) bool {
		if pos < p.Off {
			parts = append(parts, part{extent.Range{Off: pos, End: p.Off}, none})
		}
		parts = append(parts, part{p, v})
		pos = p.End
		return true
	})
	if pos < r.End {
		parts = append(parts, part{extent.Range{Off: pos, End: r.End}, none})
	}
	s.clear(r)
	for _, p := range parts {
		s.put(p.rng, fn(p.rng, p.val))
	}
}

// clear takes out all values in r.
func (s *spanMap[V]) clear(r extent.Range) {
	for {
		var found extent.Range
		var val V
		s.m.Ascend(r.Off+1, func(end int64, p span[V]) bool {
			found, val = extent.Range{Off: p.off, End: end}, p.val
			return false
		})
		if found.Empty() || found.Off >= r.End {
			return
		}
		s.m.Delete(found.End)
		left, right := found.Minus(r)
		for _, rest := range [...]extent.Range{left, right} {
			if !rest.Empty() {
				s.m.Set(rest.End, span[V]{rest.Off, val})
			}
		}
	}
}

// put gives r, which has none, a value.
func (s *spanMap[V]) put(r extent.Range, v V) {
	var none V
	if v == none {
		return
	}
	if p, ok := s.m.Get(r.Off); ok && p.val == v {
		s.m.Delete(r.Off)
		r.Off = p.off
	}
	s.m.Ascend(r.End+1, func(end int64, p span[V]) bool {
		if p.off == r.End && p.val == v {
			r.End = end
		}
		return false
	})
	s.m.Set(r.End, span[V]{r.Off, v})
}
