package fs

import (
	"slices"

	"holdfast/extent"
)

// ranges is a set of bytes as sorted, disjoint, non-adjacent ranges.
type ranges []extent.Range

// everything is the set of all bytes of a file.
var everything = ranges{{Off: 0, End: extent.Inf}}

// add returns s with r.
func (s ranges) add(r extent.Range) ranges {
	if r.Empty() {
		return s
	}
	i, _ := slices.BinarySearchFunc(s, r.Off, func(e extent.Range, off int64) int { return compare(e.End, off) })
	j := i
	for ; j < len(s) && s[j].Off <= r.End; j++ {
		r = extent.Range{Off: min(r.Off, s[j].Off), End: max(r.End, s[j].End)}
	}
	return slices.Replace(s, i, j, r)
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// minus returns what of s is not in o.
func (s ranges) minus(o ranges) ranges {
	out := slices.Clone(s)
	for _, cut := range o {
		var rest ranges
		for _, r := range out {
			left, right := r.Minus(cut)
			for _, part := range [...]extent.Range{left, right} {
				if !part.Empty() {
					rest = append(rest, part)
				}
			}
		}
		out = rest
	}
	return out
}

// and returns what s and o share.
func (s ranges) and(o ranges) ranges {
	var out ranges
	for i, j := 0, 0; i < len(s) && j < len(o); {
		if x := s[i].Intersect(o[j]); !x.Empty() {
			out = append(out, x)
		}
		if s[i].End < o[j].End {
			i++
		} else {
			j++
		}
	}
	return out
}

// or returns what is in s or o.
func (s ranges) or(o ranges) ranges {
	out := slices.Clone(s)
	for _, r := range o {
		out = out.add(r)
	}
	return out
}

// bytes returns how much is in s.
func (s ranges) bytes() (n int64) {
	for _, r := range s {
		n += r.Len()
	}
	return n
}
