package volume

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

	"holdfast/extent"
)

// sweepParts is how many parts of the device each processor gets to sweep, so that
// none of them has all that is full.
const sweepParts = 4

// sweep finds what is free and what is shared in a part of the device, from the
// owner records that end in it. They come in the order of their ends, and none is
// longer than recordMax: what lies further back is final.
type sweep struct {
	start, end int64
	pos        int64          // before it all is in free and shared
	last       []owned        // what is used behind pos, disjoint, in order, not final yet
	head       int            // of last: what is before it is in free and shared
	before     []extent.Range // what records of this part cover of the one before
	free       []run
	shared     []owned
}

// owned says that blocks have n owners.
type owned struct {
	off, end int64
	n        int
}

// add accounts for a record.
func (s *sweep) add(r extent.Range) {
	if r.Off < s.start {
		s.before = append(s.before, extent.Range{Off: r.Off, End: s.start})
		r.Off = s.start
	}
	if k := len(s.last); k == s.head || s.last[k-1].end <= r.Off {
		s.push(owned{r.Off, r.End, 1})
	} else {
		s.overlap(r)
	}
	s.settle(r.End - recordMax)
}

// push appends to last, whose end u is not before.
func (s *sweep) push(u owned) {
	if u.off >= u.end {
		return
	}
	if k := len(s.last); k > s.head && s.last[k-1].end == u.off && s.last[k-1].n == u.n {
		s.last[k-1].end = u.end
		return
	}
	s.last = append(s.last, u)
}

// overlap adds r, which nothing in last ends behind.
func (s *sweep) overlap(r extent.Range) {
	i := len(s.last)
	for i > s.head && s.last[i-1].end > r.Off {
		i--
	}
	tail := slices.Clone(s.last[i:])
	s.last = s.last[:i]
	pos := r.Off
	for _, t := range tail {
		if t.off < pos {
			s.push(owned{t.off, pos, t.n})
			t.off = pos
		}
		s.push(owned{pos, t.off, 1})
		s.push(owned{t.off, t.end, t.n + 1})
		pos = t.end
	}
	s.push(owned{pos, r.End, 1})
}

// settle passes on what ends before end, and is final.
func (s *sweep) settle(end int64) {
	for ; s.head < len(s.last) && s.last[s.head].end <= end; s.head++ {
		u := s.last[s.head]
		s.gap(u.off)
		if u.n > 1 {
			s.shared = append(s.shared, u)
		}
		s.pos = u.end
	}
	if s.head > len(s.last)/2 {
		s.last = append(s.last[:0], s.last[s.head:]...)
		s.head = 0
	}
}

// gap notes that nobody has what lies from pos to end.
func (s *sweep) gap(end int64) {
	if s.pos < end {
		s.free = append(s.free, run{s.pos, end - s.pos})
	}
}

// finish passes on all that is left. next is the part behind, whose records may begin
// in this one.
func (s *sweep) finish(next *sweep) {
	if next != nil {
		for _, r := range next.before {
			s.add(r)
		}
	}
	s.settle(s.end)
	s.gap(s.end)
}

// scan sweeps the part.
func (s *sweep) scan(v *Volume) error {
	lower := key(prefixOwner, uint64(extent.Device), uint64(s.start)+1)
	upper := key(prefixOwner, uint64(extent.Device), uint64(s.end)+1)
	if s.start == dataStart {
		lower = key(prefixOwner, uint64(extent.Device))
	}
	if s.end == v.id.size {
		upper = after(prefixOwner, uint64(extent.Device))
	}
	return v.st.Scan(lower, upper, func(k, b []byte) (bool, error) {
		o, err := decodeOwner(k, b)
		if err != nil {
			return false, err
		}
		r := extent.Range{Off: o.addr.Off, End: o.addr.Off + o.len}
		if r.Off < dataStart || r.End > v.id.size {
			return false, fmt.Errorf("inode %d owns %v, outside of the volume: %w", o.ino, r, ErrCorrupt)
		}
		s.add(r)
		return true, nil
	})
}

// sweeps divides the device into parts, none shorter than a record can be.
func (v *Volume) sweeps() []*sweep {
	length := extent.RoundUp(max(recordMax, v.id.size/int64(sweepParts*runtime.GOMAXPROCS(0))))
	var parts []*sweep
	for start := int64(dataStart); start < v.id.size; {
		end := start + length
		if end+recordMax > v.id.size {
			end = v.id.size
		}
		parts = append(parts, &sweep{start: start, end: end, pos: start})
		start = end
	}
	return parts
}

// derive computes from the records what is not stored, so that it cannot be stored
// wrongly: what nobody owns is free, what has several owners is shared, and how
// many files there are.
func (v *Volume) derive() error {
	parts := v.sweeps()
	jobs := []func() error{v.countFiles}
	for _, p := range parts {
		jobs = append(jobs, func() error { return p.scan(v) })
	}
	workers := runtime.GOMAXPROCS(0)
	if len(parts) == 1 {
		workers = 1 // not worth it
	}
	if err := parallel(workers, jobs); err != nil {
		return err
	}
	s := &v.space
	s.busy, s.busyLen, s.refs = nil, 0, refTable{} // what recovery left there
	s.ahead = make(map[*Inode]struct{})
	s.total = v.id.size - dataStart
	var free []run
	for i, p := range parts {
		var next *sweep
		if i+1 < len(parts) {
			next = parts[i+1]
		}
		p.finish(next)
		free = append(free, p.free...)
		for _, u := range p.shared {
			s.refs.m.put(extent.Range{Off: u.off, End: u.end}, refs{u.n, u.n})
			s.refs.bytes += u.end - u.off
		}
		parts[i] = nil
	}
	s.free = loadFreeMap(free)
	return nil
}

// parallel runs all jobs, some at a time, and returns the first error in their order.
func parallel(workers int, jobs []func() error) error {
	errs := make([]error, len(jobs))
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				errs[i] = jobs[i]()
			}
		})
	}
	for i := range jobs {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
