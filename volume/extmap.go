package volume

import "holdfast/extent"

// mapping is a run of blocks of a file, as the inode in memory knows it.
type mapping struct {
	off, len int64
	home     int64       // address on the device
	win      extent.Addr // where the bytes are now, if isolated in a window; else Seg is 0
	state    extent.State
	// stored: the store knows that these blocks are the file's, so that they can
	// only be given up through it. The record's state may lag behind ours.
	stored bool
	// stale: the store has other blocks here, which the next commit gives up.
	stale bool
	// shared: the blocks may be another range's, too, and must not be altered.
	shared bool
}

func (e mapping) end() int64 { return e.off + e.len }

func (e mapping) rng() extent.Range { return extent.Range{Off: e.off, End: e.end()} }

// slice returns the part of e within r, which must overlap it.
func (e mapping) slice(r extent.Range) mapping {
	i := e.rng().Intersect(r)
	d := i.Off - e.off
	e.off, e.len, e.home = i.Off, i.End-i.Off, e.home+d
	if e.win.Seg != 0 {
		e.win.Off += d
	}
	return e
}

// joins reports whether o, which begins where e ends, continues it.
func (e mapping) joins(o mapping) bool {
	return e.home+e.len == o.home && e.state == o.state &&
		e.stored == o.stored && e.stale == o.stale && e.shared == o.shared &&
		e.win.Seg == o.win.Seg && (e.win.Seg == 0 || e.win.Off+e.len == o.win.Off)
}

// readable reports whether a read yields bytes from somewhere rather than zeros.
func (e mapping) readable() bool { return e.win.Seg != 0 || e.state == extent.Written }

// overwritable reports whether bytes can be replaced where they are. What is written
// to a window comes home some day, so that home counts as well.
func (e mapping) overwritable() bool { return e.readable() && !e.shared }

// inWindow is overwritable where what is on the device has checksums.
func (e mapping) inWindow() bool { return e.win.Seg != 0 && !e.shared }

// extent is the mapping as the outside sees it: the window is the address, and
// its content counts as written.
func (e mapping) extent() extent.Extent {
	if e.win.Seg != 0 {
		return extent.Extent{Off: e.off, Len: e.len, Addr: e.win, State: extent.Written, Shared: e.shared}
	}
	return e.homeExtent()
}

func (e mapping) homeExtent() extent.Extent {
	return extent.Extent{
		Off: e.off, Len: e.len, Addr: extent.Addr{Seg: extent.Device, Off: e.home}, State: e.state, Shared: e.shared,
	}
}

// extMap holds the mappings of a file, disjoint, joined where they can be. The
// zero value is empty.
type extMap struct {
	m     tree[mapping] // by end
	bytes int64
}

// in calls fn for the parts of mappings within r, in order, until it returns
// false. fn must not alter the map.
func (m *extMap) in(r extent.Range, fn func(mapping) bool) {
	m.m.Ascend(r.Off+1, func(_ int64, e mapping) bool {
		if e.off >= r.End {
			return false
		}
		return fn(e.slice(r))
	})
}

// at returns the mapping that covers off, or the first behind it.
func (m *extMap) at(off int64) (e mapping, ok bool) {
	m.m.Ascend(off+1, func(_ int64, f mapping) bool {
		e, ok = f, true
		return false
	})
	return e, ok
}

// before returns the mapping that ends at off.
func (m *extMap) before(off int64) (mapping, bool) { return m.m.Get(off) }

// overlaps reports whether anything in r is mapped.
func (m *extMap) overlaps(r extent.Range) bool {
	e, ok := m.at(r.Off)
	return ok && e.off < r.End
}

// covered reports whether all of r is mapped by mappings that satisfy ok.
func (m *extMap) covered(r extent.Range, ok func(mapping) bool) bool {
	pos := r.Off
	m.m.Ascend(r.Off+1, func(_ int64, e mapping) bool {
		if e.off > pos || !ok(e) {
			return false
		}
		pos = e.end()
		return pos < r.End
	})
	return pos >= r.End
}

// holes returns the parts of r that are not mapped.
func (m *extMap) holes(r extent.Range) []extent.Range {
	var out []extent.Range
	pos := r.Off
	m.in(r, func(e mapping) bool {
		if e.off > pos {
			out = append(out, extent.Range{Off: pos, End: e.off})
		}
		pos = e.end()
		return true
	})
	if pos < r.End {
		out = append(out, extent.Range{Off: pos, End: r.End})
	}
	return out
}

// insert adds e, whose range must not be mapped, and joins it with its
// neighbours.
func (m *extMap) insert(e mapping) {
	m.bytes += e.len
	if p, ok := m.m.Get(e.off); ok && p.joins(e) {
		m.m.Delete(e.off)
		p.len += e.len
		e = p
	}
	if s, ok := m.at(e.end()); ok && s.off == e.end() && e.joins(s) {
		e.len += s.len // s's end is the joined one's, so that the key stays
	}
	m.m.Set(e.end(), e)
}

// remove takes out what is mapped in r and returns it.
func (m *extMap) remove(r extent.Range) []mapping {
	var out []mapping
	for {
		e, ok := m.at(r.Off)
		if !ok || e.off >= r.End {
			return out
		}
		cut := e.slice(r)
		out = append(out, cut)
		m.bytes -= cut.len
		if e.end() > r.End {
			m.m.Set(e.end(), e.slice(extent.Range{Off: r.End, End: e.end()}))
		} else {
			m.m.Delete(e.end())
		}
		if e.off < r.Off {
			left := e.slice(extent.Range{Off: e.off, End: r.Off})
			m.m.Set(left.end(), left)
		}
	}
}

// update applies fn to all that is mapped in r.
func (m *extMap) update(r extent.Range, fn func(*mapping)) {
	if r.Empty() {
		return
	}
	for _, e := range m.remove(r) {
		fn(&e)
		m.insert(e)
	}
}
