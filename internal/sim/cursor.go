package sim

// Cursor goes through the log of a disk, to make what a crash at a position may
// leave. Going forward is cheap. It is for one goroutine; the disk is not written to
// any more.
type Cursor struct {
	d       *Disk
	at      int
	safe    *image   // what is there for sure
	pending []*event // the rest, in order
}

// Cursor returns a cursor at the beginning of the log.
func (d *Disk) Cursor() *Cursor {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Cursor{d: d, safe: d.base.clone()}
	c.safe.next = d.now.next
	return c
}

// Seek goes to a position: all events before it have happened.
func (c *Cursor) Seek(pos int) {
	if pos < c.at {
		*c = *c.d.Cursor()
	}
	for ; c.at < pos; c.at++ {
		switch e := &c.d.log[c.at]; e.kind {
		case evWrite, evName, evSize:
			c.pending = append(c.pending, e)
		case evFlush:
			c.flush(e.obj)
		case evFailed:
			c.doubt(e.obj)
		}
	}
}

// flush makes durable what is pending of an object.
func (c *Cursor) flush(obj int) {
	var rest []*event
	for _, e := range c.pending {
		if e.obj == obj {
			c.safe.apply(e)
		} else {
			rest = append(rest, e)
		}
	}
	c.pending = rest
}

// inDoubt is added to the object's number where a flush has failed: no later flush
// makes that durable.
const inDoubt = 1 << 30

func (c *Cursor) doubt(obj int) {
	for i, e := range c.pending {
		if e.obj == obj {
			lost := *e
			lost.obj |= inDoubt
			c.pending[i] = &lost
		}
	}
}

// place is a sector.
type place struct {
	obj    int
	sector int64
}

// sectors calls fn for the parts of a write that lie in one sector each.
func (e *event) sectors(fn func(at place, off int64, p []byte)) {
	for off, p := e.off, e.data; len(p) > 0; {
		n := min(len(p), int(Sector-off%Sector))
		fn(place{e.obj &^ inDoubt, off / Sector}, off, p[:n])
		off, p = off+int64(n), p[n:]
	}
}

// counts returns how often each sector was written, the sectors in order, and how
// many changes of names there are.
func (c *Cursor) counts() (times map[place]int, order []place, names int) {
	times = make(map[place]int)
	for _, e := range c.pending {
		if e.kind == evName {
			names++
			continue
		}
		e.sectors(func(at place, _ int64, _ []byte) {
			if times[at]++; times[at] == 1 {
				order = append(order, at)
			}
		})
	}
	return times, order, names
}

// Atoms is how many sectors of the device, sectors of the store and names are in
// doubt at this position.
func (c *Cursor) Atoms() (device, store, names int) {
	_, order, names := c.counts()
	for _, at := range order {
		if at.obj == deviceObj {
			device++
		}
	}
	return device, len(order) - device, names
}

// Crash returns the disk as a power cut at this position leaves it.
func (c *Cursor) Crash(ch Choice) *Disk {
	times, order, names := c.counts()
	by := ch.decide(len(order) + names)
	for _, at := range order {
		times[at] = by.versions(at.obj == deviceObj, times[at])
	}
	left, removals := by.names(names)
	ahead := by.sizesAhead()
	img := c.safe.clone()
	name := 0
	for _, e := range c.pending {
		if e.kind == evName {
			if left(name) {
				named := *e
				named.obj &^= inDoubt
				img.name(&named, removals)
			}
			name++
			continue
		}
		f := img.files[e.obj&^inDoubt]
		if ahead {
			f.grow(e.size)
		}
		e.sectors(func(at place, off int64, p []byte) {
			if times[at] > 0 {
				times[at]--
				f.write(p, off)
			}
		})
	}
	return onImage(img)
}

// Trace describes the events around a position, for people.
func (d *Disk) Trace(pos, around int) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for i := max(0, pos-around); i < min(len(d.log), pos+around); i++ {
		out = append(out, d.log[i].describe(i))
	}
	return out
}

// Shape tells whether two logs are of the same operations: it is the events
// without the bytes.
func (d *Disk) Shape() []string { return d.Trace(0, d.Pos()) }
