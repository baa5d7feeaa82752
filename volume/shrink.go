package volume

import (
	"fmt"
	"syscall"

	"holdfast/extent"
)

// Withhold keeps what is free at and behind size, and what becomes free there, from being
// given to files, until Grow or Shrink, or Withhold of a size that is not smaller than the
// volume.
func (v *Volume) Withhold(size int64) error {
	v.growMu.Lock()
	defer v.growMu.Unlock()
	size = extent.RoundDown(size)
	if size < MinSize {
		return fmt.Errorf("volume of %d bytes: %w", size, syscall.EINVAL)
	}
	v.space.dropAllAhead()
	v.space.withhold(size, v.id.size)
	return nil
}

func (s *space) withhold(limit, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.away.list() {
		s.free.give(run{r.Off, r.Len()})
	}
	s.away.clear()
	s.limit = 0
	if limit >= size {
		return
	}
	s.limit = limit
	for pos := limit; pos < size; {
		f, ok := s.free.byAddr.first(pos + 1)
		if !ok {
			return
		}
		p := f.Intersect(extent.Range{Off: pos, End: size})
		s.free.cut(f, p.Off, p.Len())
		s.away.add(p)
		pos = p.End
	}
}

// putFree frees r. It needs mu.
func (s *space) putFree(r run) {
	if s.limit > 0 && r.off+r.len > s.limit {
		at := max(r.off, s.limit)
		s.away.add(extent.Range{Off: at, End: r.off + r.len})
		if r.len = at - r.off; r.len == 0 {
			return
		}
	}
	s.free.give(r)
}

// Shrink makes the volume size bytes long, rounded down to whole blocks. All behind that
// was withheld and is free, else EBUSY, and nothing has changed. When it returns no crash
// brings the old size back. The device keeps its length, and may be cut then.
func (v *Volume) Shrink(size int64) error {
	v.growMu.Lock()
	defer v.growMu.Unlock()
	if err := v.shrink(extent.RoundDown(size)); err != nil {
		return fmt.Errorf("shrink volume: %w", err)
	}
	return nil
}

// shrink needs growMu.
func (v *Volume) shrink(size int64) error {
	if err := v.writable(); err != nil {
		return err
	}
	if err := v.syncStore(); err != nil { // what was moved away is free only then
		return err
	}
	old := v.id.size
	if size < MinSize || size > old {
		return fmt.Errorf("%d bytes of %d: %w", size, old, syscall.EINVAL)
	}
	end := extent.Range{Off: size, End: old}
	if !v.space.empty(end) {
		return fmt.Errorf("blocks behind %d are in use: %w", size, syscall.EBUSY)
	}
	if v.sums != nil {
		if err := v.sums.cutOff(size); err != nil {
			return err
		}
	}
	next := v.id
	next.size = size
	b := v.batch()
	b.Put(superKey, next.encode())
	if _, err := v.apply(b); err != nil {
		return err
	}
	if err := v.syncStore(); err != nil { // the store first, as Grow
		return err
	}
	if err := writeDeviceSuper(v.dev, &next); err != nil {
		return v.fail(err)
	}
	v.id.size = size
	v.size.Store(size)
	v.space.cutOff(end)
	v.discard(end)
	v.log.Info("volume has shrunk", "volume", v.id.uuid, "from", old, "to", size)
	return nil
}

// empty reports whether all of r is withheld.
func (s *space) empty(r extent.Range) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.Empty() || s.limit == r.Off && s.away.contains(r)
}

// cutOff takes r, which is withheld, out of the volume.
func (s *space) cutOff(r extent.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away.clear()
	s.limit = 0
	s.total -= r.Len()
}
