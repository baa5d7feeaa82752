package volume

import (
	"cmp"
	"slices"
	"sync"

	"holdfast/extent"

	"github.com/tidwall/btree"
)

const (
	// hugeBlock is the alignment that large requests get, so that they can be
	// mapped in pages of that size.
	hugeBlock = 2 << 20
	// goalMin is the least that is worth taking next to what a file has, when the
	// rest must come from elsewhere.
	goalMin = 1 << 20
	// alignTries bounds the search for a snug run that is aligned.
	alignTries = 8
)

// run is a run of blocks of the device.
type run struct{ off, len int64 }

func (r run) rng() extent.Range { return extent.Range{Off: r.off, End: r.off + r.len} }

func bySize(a, b run) bool {
	if a.len != b.len {
		return a.len < b.len
	}
	return a.off < b.off
}

// freeMap holds the free blocks of the device, by address and by size. All that it
// does takes time with the logarithm of the number of free runs.
type freeMap struct {
	byAddr rangeSet
	bySize *btree.BTreeG[run]
}

func newFreeMap() *freeMap {
	return &freeMap{bySize: btree.NewBTreeGOptions(bySize, btree.Options{NoLocks: true})}
}

// loadFreeMap makes the map of runs that come in the order of their addresses and
// may touch. It uses up runs.
func loadFreeMap(runs []run) *freeMap {
	f := newFreeMap()
	runs = joined(runs)
	sorted := slices.Clone(runs)
	var wg sync.WaitGroup
	wg.Go(func() {
		slices.SortFunc(sorted, func(a, b run) int { return cmp.Or(cmp.Compare(a.len, b.len), cmp.Compare(a.off, b.off)) })
		for _, r := range sorted {
			f.bySize.Load(r)
		}
	})
	for _, r := range runs {
		f.byAddr.m.Load(r.off+r.len, r.off)
		f.byAddr.bytes += r.len
	}
	wg.Wait()
	return f
}

// joined makes one of runs that touch, in place.
func joined(runs []run) []run {
	out := runs[:0]
	for _, r := range runs {
		if k := len(out); k > 0 && out[k-1].off+out[k-1].len == r.off {
			out[k-1].len += r.len
		} else {
			out = append(out, r)
		}
	}
	return out
}

func (f *freeMap) bytes() int64 { return f.byAddr.bytes }

// give adds r, which is not free yet, and joins it with its neighbours.
func (f *freeMap) give(r run) {
	n := r.rng()
	for {
		o, ok := f.byAddr.first(n.Off)
		if !ok || o.Off > n.End {
			break
		}
		f.drop(o)
		n.Off, n.End = min(n.Off, o.Off), max(n.End, o.End)
	}
	f.put(n)
}

// take returns up to want bytes, next to goal if that is free (0: anywhere). It
// returns less only if there is no run as long.
func (f *freeMap) take(want, goal int64) (run, bool) {
	if goal > 0 {
		if o, ok := f.byAddr.first(goal + 1); ok && o.ContainsOff(goal) && o.End-goal >= min(want, goalMin) {
			return f.cut(o, goal, min(want, o.End-goal)), true
		}
	}
	if want >= hugeBlock {
		if r, ok := f.takeAligned(want); ok {
			return r, true
		}
	}
	var found run
	f.bySize.Ascend(run{len: want}, func(r run) bool {
		found = r
		return false
	})
	if found.len == 0 {
		var ok bool
		if found, ok = f.bySize.Max(); !ok {
			return run{}, false
		}
	}
	return f.cut(found.rng(), found.off, min(want, found.len)), true
}

func (f *freeMap) takeAligned(want int64) (run, bool) {
	var in run
	var at int64
	fits := func(r run) bool {
		at = (r.off + hugeBlock - 1) &^ (hugeBlock - 1)
		if at+want > r.off+r.len {
			return false
		}
		in = r
		return true
	}
	tries := 0
	f.bySize.Ascend(run{len: want}, func(r run) bool {
		tries++
		return !fits(r) && tries < alignTries
	})
	if in.len == 0 { // what is longer by the alignment always fits
		f.bySize.Ascend(run{len: want + hugeBlock}, func(r run) bool { return !fits(r) })
	}
	if in.len == 0 {
		return run{}, false
	}
	return f.cut(in.rng(), at, want), true
}

// cut takes [off, off+n) out of the free run o.
func (f *freeMap) cut(o extent.Range, off, n int64) run {
	f.drop(o)
	f.put(extent.Range{Off: o.Off, End: off})
	f.put(extent.Range{Off: off + n, End: o.End})
	return run{off, n}
}

func (f *freeMap) put(r extent.Range) {
	if !r.Empty() {
		f.byAddr.put(r)
		f.bySize.Set(run{r.Off, r.End - r.Off})
	}
}

func (f *freeMap) drop(r extent.Range) {
	f.byAddr.drop(r)
	f.bySize.Delete(run{r.Off, r.End - r.Off})
}
