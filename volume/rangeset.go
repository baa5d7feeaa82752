package volume

import "holdfast/extent"

// rangeSet is a set of bytes, kept as disjoint ranges that do not touch. The zero
// value is empty.
type rangeSet struct {
	m     tree[int64] // end → offset
	bytes int64
}

func (s *rangeSet) empty() bool { return s.bytes == 0 }

func (s *rangeSet) add(r extent.Range) {
	if r.Empty() {
		return
	}
	for {
		o, ok := s.first(r.Off) // touching counts
		if !ok || o.Off > r.End {
			break
		}
		s.drop(o)
		r.Off, r.End = min(r.Off, o.Off), max(r.End, o.End)
	}
	s.put(r)
}

func (s *rangeSet) remove(r extent.Range) {
	for {
		o, ok := s.first(r.Off + 1)
		if !ok || o.Off >= r.End {
			return
		}
		s.drop(o)
		left, right := o.Minus(r)
		s.put(left)
		s.put(right)
	}
}

// first returns the first range that ends at or behind end.
func (s *rangeSet) first(end int64) (r extent.Range, ok bool) {
	s.m.Ascend(end, func(e, off int64) bool {
		r, ok = extent.Range{Off: off, End: e}, true
		return false
	})
	return r, ok
}

// in calls fn for what the set and r share, in order, until it returns false. fn
// must not alter the set.
func (s *rangeSet) in(r extent.Range, fn func(extent.Range) bool) {
	s.m.Ascend(r.Off+1, func(end, off int64) bool {
		if off >= r.End {
			return false
		}
		return fn(extent.Range{Off: off, End: end}.Intersect(r))
	})
}

// contains reports whether all of r is in the set.
func (s *rangeSet) contains(r extent.Range) bool {
	o, ok := s.first(r.Off + 1)
	return ok && o.Contains(r)
}

// overlaps reports whether the set and r share anything.
func (s *rangeSet) overlaps(r extent.Range) bool {
	o, ok := s.first(r.Off + 1)
	return ok && o.Off < r.End
}

// list returns the ranges in order.
func (s *rangeSet) list() []extent.Range {
	out := make([]extent.Range, 0, s.m.Len())
	s.m.Scan(func(end, off int64) bool {
		out = append(out, extent.Range{Off: off, End: end})
		return true
	})
	return out
}

func (s *rangeSet) clear() { *s = rangeSet{} }

func (s *rangeSet) put(r extent.Range) {
	if !r.Empty() {
		s.m.Set(r.End, r.Off)
		s.bytes += r.End - r.Off
	}
}

func (s *rangeSet) drop(r extent.Range) {
	s.m.Delete(r.End)
	s.bytes -= r.End - r.Off
}
