package volume

import (
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// Use is a range of a file that has blocks of the device.
type Use struct {
	Ino    extent.Ino
	Range  extent.Range
	Device extent.Range
}

// Uses returns what files have of the blocks in r of the device, as the store knows, in
// the order of where that ends on the device; at most limit.
func (v *Volume) Uses(r extent.Range, limit int) (out []Use, err error) {
	lower := key(prefixOwner, uint64(extent.Device), uint64(r.Off)+1)
	upper := key(prefixOwner, uint64(extent.Device), uint64(min(r.End, extent.Inf-recordMax))+recordMax)
	err = v.st.Scan(lower, upper, func(k, b []byte) (bool, error) {
		o, err := decodeOwner(k, b)
		if err != nil {
			return false, err
		}
		p := extent.Range{Off: o.addr.Off, End: o.addr.Off + o.len}.Intersect(r)
		if p.Empty() {
			return true, nil
		}
		off := o.end - o.len + p.Off - o.addr.Off
		out = append(out, Use{o.ino, extent.Range{Off: off, End: off + p.Len()}, p})
		return len(out) < limit, nil
	})
	return out, err
}

// maxSharers bounds for how many files at once Move turns a block.
const maxSharers = 4096

// Move gives all files that have blocks in rs of the device others, with the same content,
// in the order of rs: with together, one run or nothing. EBUSY says that some are reached
// directly, and ErrOwners that a file has them which is not among inodes; nothing has
// changed then. A crash leaves each file with the old blocks or the new. It needs all
// inodes exclusive.
func (v *Volume) Move(rs []extent.Range, inodes []*Inode, together bool) error {
	m, err := v.begin(inodes)
	if err != nil {
		return err
	}
	from, err := m.find(rs)
	if err != nil || len(from) == 0 {
		return err
	}
	return m.run(from, together)
}

// begin prepares for moving blocks of files.
func (v *Volume) begin(inodes []*Inode) (*move, error) {
	m := &move{v: v, inodes: make(map[extent.Ino]*Inode), b: v.batch(), last: make(map[extent.Ino]bool)}
	for _, n := range inodes {
		if _, err := n.mutable(); err != nil {
			return nil, err
		}
		if err := n.recordNow(); err != nil {
			return nil, fmt.Errorf("inode %d: %w", n.Ino, err)
		}
		m.inodes[n.Ino] = n
	}
	return m, nil
}

// run moves from, of which uses tells who has it.
func (m *move) run(from []extent.Range, together bool) error {
	if err := m.check(); err != nil {
		return err
	}
	parts, err := m.allocate(from, together)
	if err != nil {
		return fmt.Errorf("move %v of the device: %w", from, err)
	}
	if err := m.copy(parts); err != nil {
		m.v.space.give(movedRuns(parts))
		return err
	}
	if err := m.turn(parts); err != nil {
		return m.v.fail(err)
	}
	return nil
}

// move is a Move under way.
type move struct {
	v      *Volume
	inodes map[extent.Ino]*Inode
	uses   []Use
	shared bool // with a file that keeps the blocks, and may be held there

	b     *batch
	lost  []run               // what b takes references from
	later []func()            // what memory is told when b is in the store
	last  map[extent.Ino]bool // of which files b has records
	won   rangeSet            // new blocks that somebody has
}

// moved is a run of blocks, and where it comes to.
type moved struct {
	from extent.Range
	to   int64
}

func movedRuns(parts []moved) (out []run) {
	for _, p := range parts {
		out = append(out, run{p.to, p.from.Len()})
	}
	return out
}

// find returns what of rs is used, each block once, and notes by whom.
func (m *move) find(rs []extent.Range) (from []extent.Range, err error) {
	var seen rangeSet
	for _, r := range rs {
		uses, err := m.v.Uses(r, maxSharers)
		if err != nil {
			return nil, err
		}
		if len(uses) == maxSharers {
			return nil, fmt.Errorf("blocks at %v have too many owners: %w", r, syscall.EBUSY)
		}
		if seen.overlaps(r) {
			continue // a file that has a block twice
		}
		seen.add(r)
		var used rangeSet
		for _, u := range uses {
			used.add(u.Device)
		}
		m.uses = append(m.uses, uses...)
		from = append(from, used.list()...)
	}
	return from, nil
}

// check finds who must not be moved.
func (m *move) check() error {
	s := &m.v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range m.uses {
		n := m.inodes[u.Ino]
		if n == nil {
			return fmt.Errorf("inode %d at %v: %w", u.Ino, u.Device, ErrOwners)
		}
		busy := !n.m.covered(u.Range, func(e mapping) bool { return e.win.Seg == 0 && e.stored })
		n.m.in(u.Range, func(e mapping) bool {
			busy = busy || e.home-e.off != u.Device.Off-u.Range.Off
			return !busy
		})
		s.held.in(u.Device, func(extent.Range, []uint32) { busy = busy || !m.shared })
		if busy {
			return fmt.Errorf("inode %d: %v is reached directly: %w", u.Ino, u.Range, syscall.EBUSY)
		}
	}
	return nil
}

// allocate takes blocks for from.
func (m *move) allocate(from []extent.Range, together bool) (parts []moved, err error) {
	total := int64(0)
	for _, p := range from {
		total += p.Len()
	}
	runs, err := m.v.allocate(m.inodes[m.uses[0].Ino], total, 0, 0, 0)
	if err != nil {
		return nil, err
	}
	if together && len(runs) > 1 {
		m.v.space.give(runs)
		return nil, fmt.Errorf("no run of %d bytes: %w", total, syscall.ENOSPC)
	}
	for _, p := range from {
		for !p.Empty() {
			to := &runs[0]
			n := min(to.len, p.Len())
			parts = append(parts, moved{extent.Range{Off: p.Off, End: p.Off + n}, to.off})
			p.Off += n
			if to.off, to.len = to.off+n, to.len-n; to.len == 0 {
				runs = runs[1:]
			}
		}
	}
	return parts, nil
}

// copy brings the content to its new place, durably.
func (m *move) copy(parts []moved) error {
	var written rangeSet
	for _, u := range m.uses {
		m.inodes[u.Ino].m.in(u.Range, func(e mapping) bool {
			if e.state == extent.Written {
				written.add(extent.Range{Off: e.home, End: e.home + e.len})
			}
			return true
		})
	}
	var summed []extent.Range
	for _, p := range parts {
		for _, w := range written.list() {
			c := w.Intersect(p.from)
			if c.Empty() {
				continue
			}
			to := p.to + c.Off - p.from.Off
			if err := m.v.copyBlocks(to, c.Off, c.Len()); err != nil {
				return err
			}
			summed = append(summed, extent.Range{Off: to, End: to + c.Len()})
		}
	}
	if err := m.v.flush(); err != nil || m.v.sums == nil {
		return err
	}
	return m.v.sums.record(summed)
}

// opsOfTurn bounds the operations for one use: a record and its owner go, and up to three
// come.
const opsOfTurn = 8

// turn makes the new blocks the files': for all who share them in one batch, where that
// holds it.
func (m *move) turn(parts []moved) error {
	for _, p := range parts {
		for _, u := range m.uses {
			c := u.Device.Intersect(p.from)
			if c.Empty() {
				continue
			}
			if m.b.Ops()+opsOfTurn > store.MaxOps {
				if err := m.apply(); err != nil {
					return err
				}
			}
			if err := m.turnOne(u, c, p.to+c.Off-p.from.Off); err != nil {
				return err
			}
		}
		if err := m.apply(); err != nil {
			return err
		}
	}
	return nil
}

// turnOne adds to the batch that u has c of the device at to.
func (m *move) turnOne(u Use, c extent.Range, to int64) error {
	n := m.inodes[u.Ino]
	r := extent.Range{Off: u.Range.Off + c.Off - u.Device.Off}
	r.End = r.Off + c.Len()
	if m.last[u.Ino] { // a part of the record that this one may be of is in the batch
		if err := m.apply(); err != nil {
			return err
		}
	}
	m.last[u.Ino] = true
	olds, err := m.v.records(u.Ino, r, 1)
	if err != nil {
		return err
	}
	if len(olds) != 1 || !olds[0].Range().Contains(r) || olds[0].Addr.Off+r.Off-olds[0].Off != c.Off {
		return fmt.Errorf("inode %d: %v is not at %v: %w", u.Ino, r, c, ErrCorrupt)
	}
	takeOut(m.b, u.Ino, olds[0], r)
	e := olds[0].Slice(r)
	e.Addr.Off = to
	putExtent(m.b, u.Ino, e)
	m.lost = append(m.lost, run{c.Off, c.Len()})
	m.own(extent.Range{Off: to, End: to + c.Len()})
	m.later = append(m.later, func() {
		n.m.update(r, func(e *mapping) { e.home += to - c.Off })
		n.recorded = m.v.applied.Load()
	})
	return nil
}

// own notes that one more file has new blocks.
func (m *move) own(r extent.Range) {
	var again []run
	m.won.in(r, func(p extent.Range) bool {
		again = append(again, run{p.Off, p.Len()})
		return true
	})
	m.v.space.share(again)
	m.won.add(r)
}

func (m *move) apply() error {
	if m.b.Ops() == 0 {
		return nil
	}
	seq, err := m.v.apply(m.b)
	if err != nil {
		return err
	}
	for _, fn := range m.later {
		fn()
	}
	err = m.v.retire(seq, m.lost)
	m.b.Reset()
	clear(m.last)
	m.lost, m.later = nil, nil
	return err
}
