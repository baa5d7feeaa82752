package volume

import "holdfast/extent"

// refs counts the owner records of a block.
type refs struct {
	live int // those that the store has
	all  int // and those whose removal is not durable yet
}

// refTable counts the references to blocks. Only what has more than one is in it:
// any other block that a file has, or has just given up, has one. It is derived
// from the owner records when the volume is opened, and never stored.
type refTable struct {
	m     spanMap[refs]
	bytes int64 // of blocks in it
}

// alter applies fn to the counts of r.
func (t *refTable) alter(r extent.Range, fn func(extent.Range, *refs)) {
	t.m.alter(r, func(p extent.Range, c refs) refs {
		if c == (refs{}) {
			c = refs{1, 1}
		} else {
			t.bytes -= p.Len()
		}
		fn(p, &c)
		if c.all < 2 {
			return refs{}
		}
		t.bytes += p.Len()
		return c
	})
}

// share counts one more reference to r.
func (t *refTable) share(r extent.Range) {
	t.alter(r, func(_ extent.Range, c *refs) { c.live, c.all = c.live+1, c.all+1 })
}

// drop notes that the store has one reference to r less, and calls fn for what it
// has none of any more.
func (t *refTable) drop(r extent.Range, fn func(extent.Range)) {
	t.alter(r, func(p extent.Range, c *refs) {
		if c.live--; c.live <= 0 {
			fn(p)
		}
	})
}

// revive gives r, whose last reference drop has taken, another.
func (t *refTable) revive(r extent.Range) {
	t.alter(r, func(_ extent.Range, c *refs) { c.live, c.all = 1, c.all+1 })
}

// live calls fn for r by how many references the store has.
func (t *refTable) live(r extent.Range, fn func(r extent.Range, live int)) {
	pos := r.Off
	t.m.in(r, func(p extent.Range, c refs) bool {
		if pos < p.Off {
			fn(extent.Range{Off: pos, End: p.Off}, 1)
		}
		fn(p, c.live)
		pos = p.End
		return true
	})
	if pos < r.End {
		fn(extent.Range{Off: pos, End: r.End}, 1)
	}
}

// settle notes that the loss of a reference to r is durable, and calls fn for what
// nobody can come back to.
func (t *refTable) settle(r extent.Range, fn func(extent.Range)) {
	t.alter(r, func(p extent.Range, c *refs) {
		// One that is not in the table has lost its only one.
		if c.all--; c.all <= 0 {
			fn(p)
		}
	})
}

// shared calls fn for the parts of r that have more than one reference, or may
// have after a crash.
func (t *refTable) shared(r extent.Range, fn func(extent.Range)) {
	t.m.in(r, func(p extent.Range, _ refs) bool {
		fn(p)
		return true
	})
}

// coverage adds up how often blocks are used by owner records, which come in the
// order of their ends. A record is at most recordMax long, so that what lies
// further back is final and need not be kept.
type coverage[V comparable] struct {
	open spanMap[V]
	pos  int64 // what lies before it was passed to done
	done func(r extent.Range, v V)
}

// add accounts for a record of r: fn makes the new value from the one that was
// there.
func (c *coverage[V]) add(r extent.Range, fn func(extent.Range, V) V) {
	c.open.alter(r, fn)
	c.finish(r.End - recordMax)
}

// finish passes to done all before end, also what no record covers.
func (c *coverage[V]) finish(end int64) {
	if end <= c.pos {
		return
	}
	var none V
	pos := c.pos
	all := extent.Range{Off: pos, End: end}
	c.open.in(all, func(p extent.Range, v V) bool {
		if pos < p.Off {
			c.done(extent.Range{Off: pos, End: p.Off}, none)
		}
		c.done(p, v)
		pos = p.End
		return true
	})
	if pos < end {
		c.done(extent.Range{Off: pos, End: end}, none)
	}
	c.open.clear(all)
	c.pos = end
}
