package volume

import (
	"sync"

	"holdfast/extent"
)

// space says of every block that no file has who keeps it: nobody (free), a batch
// that is not durable yet (busy), a hold (orphans), or an inode that is expected
// to grow (ahead).
type space struct {
	mu      sync.Mutex
	total   int64
	free    *freeMap
	busy    []busyRun // in order of seq
	busyLen int64
	refs    refTable
	held    holdTable
	orphans orphanTable
	// promised are held blocks that a file is about to give up, and has not yet.
	promised rangeSet
	// limit, if it is not 0, is from where on nothing is given to files: what is free there
	// is in away.
	limit  int64
	away   rangeSet
	ahead  map[*Inode]struct{} // who has blocks in Inode.ahead
	aheadN int64
}

// busyRun has lost a reference, for good once all batches up to seq are durable. If
// that was the last one, it is free then.
type busyRun struct {
	run
	seq uint64
}

// extend adds blocks that are new.
func (s *space) extend(r run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.away.list() { // it is not to shrink any more
		s.free.give(run{r.Off, r.Len()})
	}
	s.away.clear()
	s.limit = 0
	s.total += r.len
	s.putFree(r)
}

// retire puts on the busy list what batch seq takes references from. It returns what
// has none any more but is held: that has got one, which is to become an orphan's.
func (s *space) retire(seq uint64, runs []run) (held []run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		s.busy = append(s.busy, busyRun{r, seq})
		first := len(held)
		s.refs.drop(r.rng(), func(last extent.Range) {
			s.busyLen += last.Len()
			s.held.in(last, func(h extent.Range, _ []uint32) {
				s.busyLen -= h.Len()
				held = append(held, run{h.Off, h.Len()})
			})
		})
		for _, h := range held[first:] {
			s.refs.revive(h.rng())
		}
	}
	return held
}

// share notes that a batch has given runs, which files have already, one more
// reference.
func (s *space) share(runs []run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		s.refs.share(r.rng())
	}
}

// shared returns the parts of r that are not one file's alone.
func (s *space) shared(r run) (out []extent.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs.shared(r.rng(), func(p extent.Range) { out = append(out, p) })
	return out
}

// give frees blocks that the store does not know. It returns what is held of them,
// which becomes orphans.
func (s *space) give(runs []run) (held []run) {
	if len(runs) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		pos := r.off
		s.held.in(r.rng(), func(h extent.Range, _ []uint32) {
			if pos < h.Off {
				s.putFree(run{pos, h.Off - pos})
			}
			held = append(held, run{h.Off, h.Len()})
			pos = h.End
		})
		if end := r.off + r.len; pos < end {
			s.putFree(run{pos, end - pos})
		}
	}
	return held
}

// settled takes from the busy list what batches up to seq freed: what may be
// reused. The caller gives the result to free, until when it still counts as busy.
func (s *space) settled(seq uint64) []extent.Range {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ready rangeSet
	n := 0
	for ; n < len(s.busy) && s.busy[n].seq <= seq; n++ {
		s.refs.settle(s.busy[n].rng(), ready.add)
	}
	if n == len(s.busy) {
		s.busy = nil
	} else {
		s.busy = s.busy[n:]
	}
	return ready.list()
}

// reuse frees what settled returned.
func (s *space) reuse(ready []extent.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range ready {
		s.busyLen -= r.End - r.Off
		s.putFree(run{r.Off, r.End - r.Off})
	}
}

// take returns runs of want bytes together, or none. What is taken beyond want,
// up to ahead, stays with n for its growth at offset next.
func (s *space) take(n *Inode, want, ahead, goal, next int64) ([]run, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []run
	for want > 0 {
		if r, ok := s.takeAhead(n, next-want, want); ok {
			out, want, goal = append(out, r), want-r.len, r.off+r.len
			continue
		}
		r, ok := s.free.take(want+ahead, goal)
		if !ok {
			for _, r := range out {
				s.putFree(r)
			}
			return nil, false
		}
		if r.len > want {
			s.setAhead(n, run{r.off + want, r.len - want}, next)
			r.len = want
		}
		out, want, goal = append(out, r), want-r.len, r.off+r.len
	}
	return out, true
}

// takeAhead takes from what n has been given for its growth at off. It needs mu.
func (s *space) takeAhead(n *Inode, off, want int64) (run, bool) {
	if n.ahead.len == 0 || n.aheadOff != off {
		return run{}, false
	}
	r := run{n.ahead.off, min(want, n.ahead.len)}
	left := run{r.off + r.len, n.ahead.len - r.len}
	s.clearAhead(n)
	if left.len > 0 {
		s.setAhead(n, left, off+r.len)
	}
	return r, true
}

// setAhead needs mu.
func (s *space) setAhead(n *Inode, r run, off int64) {
	s.dropAhead(n)
	n.ahead, n.aheadOff = r, off
	s.ahead[n] = struct{}{}
	s.aheadN += r.len
}

// clearAhead forgets what n has ahead, without freeing it. It needs mu.
func (s *space) clearAhead(n *Inode) {
	s.aheadN -= n.ahead.len
	n.ahead, n.aheadOff = run{}, 0
	delete(s.ahead, n)
}

// dropAhead frees what n has ahead. It needs mu.
func (s *space) dropAhead(n *Inode) {
	if n.ahead.len > 0 {
		s.putFree(n.ahead)
		s.clearAhead(n)
	}
}

// dropAllAhead frees what inodes have ahead, and reports whether there was any.
func (s *space) dropAllAhead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	any := len(s.ahead) > 0
	for n := range s.ahead {
		s.dropAhead(n)
	}
	return any
}
