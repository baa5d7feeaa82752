package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"holdfast/extent"
	"holdfast/volume"
	"holdfast/window"
)

// orphans are what holds keep that files have given up: blocks, and the parts of windows
// through which they were reached.
type orphans struct {
	mu     sync.Mutex
	byHold map[uint64]*orphan
	gone   chan struct{} // closed when a hold ends; nil if nobody waits
}

// orphan is what one hold keeps.
type orphan struct {
	ino   extent.Ino
	path  string // when the file gave it up
	parts map[*mapping]ranges
}

// Orphan lets the file give up what a hold keeps of r. Windows over r are written home and
// leave the file: it is read and written at home, nothing of them is written back, and
// the hold has their memory until it ends. ENOSPC says that too much is orphaned already;
// then nothing has changed.
func (s *storage) Orphan(file extent.Ino, hold uint64, r extent.Range) error {
	f := s.fs()
	err := f.withInode(file, func(i *inode) error {
		i.winMu.Lock()
		defer i.winMu.Unlock()
		i.mu.RLock()
		err := i.n.Defer(hold, r)
		i.mu.RUnlock()
		if err != nil {
			return err
		}
		return f.orphan(i, hold, r.RoundOut())
	})
	f.invalidated(file)
	return err
}

// orphan gives a hold the windows over r, whole blocks. It needs winMu.
func (f *FS) orphan(i *inode, hold uint64, r extent.Range) error {
	f.orphans.join(hold, i.ino, f.Path(i.ino), r)
	f.unexposeAll(i, r)
	for _, m := range slices.Clone(i.windows) {
		err := f.each(m.live.and(ranges{r}), func(p extent.Range, buf []byte) error {
			i.lock()
			defer i.mu.Unlock()
			for _, d := range i.dirtyParts(m, m.dirty.Load()).and(ranges{p}) {
				if err := f.copyHome(i, m, d, buf[:d.Len()]); err != nil && !errors.Is(err, window.ErrDamaged) {
					return err
				}
			}
			if err := i.n.Home(p); err != nil {
				return err
			}
			m.live = m.live.minus(ranges{p})
			f.orphans.keep(hold, m, p)
			return nil
		})
		if err != nil {
			return fmt.Errorf("orphan %v of inode %d: %w", r, i.ino, err)
		}
		f.release(i, m)
	}
	for lease := range i.users {
		f.unuse(i, lease, ranges{r})
	}
	return nil
}

// join gives a hold what others keep of the windows over the same range: they are
// orphans of the same change, or of one before it, and his as well.
func (o *orphans) join(hold uint64, ino extent.Ino, path string, r extent.Range) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byHold == nil {
		o.byHold = make(map[uint64]*orphan)
	}
	mine := o.byHold[hold]
	if mine == nil {
		mine = &orphan{ino: ino, path: path, parts: make(map[*mapping]ranges)}
		o.byHold[hold] = mine
	}
	for id, other := range o.byHold {
		if id == hold || other.ino != ino {
			continue
		}
		for m, parts := range other.parts {
			if p := parts.and(ranges{r}); len(p) > 0 {
				mine.parts[m] = mine.parts[m].or(p)
			}
		}
	}
}

func (o *orphans) keep(hold uint64, m *mapping, p extent.Range) {
	o.mu.Lock()
	defer o.mu.Unlock()
	mine := o.byHold[hold]
	mine.parts[m] = mine.parts[m].add(p)
}

// kept returns what holds keep of a window. It needs mu.
func (o *orphans) kept(m *mapping) (out ranges) {
	for _, h := range o.byHold {
		out = out.or(h.parts[m])
	}
	return out
}

// leave notes that a file has no part in a window any more, and returns what of it holds
// still keep. If that is nothing the window is the caller's to end.
func (o *orphans) leave(m *mapping) ranges {
	o.mu.Lock()
	defer o.mu.Unlock()
	m.left = true
	return o.kept(m)
}

// drop takes out what a hold kept. It returns the parts of windows that nobody keeps any
// more, and whether that was the last of them.
func (o *orphans) drop(hold uint64) (freed map[*mapping]ranges, ended []*mapping) {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.byHold[hold]
	if h == nil {
		return nil, nil
	}
	delete(o.byHold, hold)
	freed = make(map[*mapping]ranges)
	for m, parts := range h.parts {
		rest := o.kept(m)
		if freed[m] = parts.minus(rest); m.left && len(rest) == 0 {
			ended = append(ended, m)
		}
	}
	return freed, ended
}

// dropOrphan ends what a hold kept of windows: before its blocks can be another file's.
func (f *FS) dropOrphan(hold uint64) {
	freed, ended := f.orphans.drop(hold)
	for m, parts := range freed {
		for _, p := range parts {
			if err := m.w.DetachRange(m.addr(p.Off).Off, p.Len()); err != nil {
				f.log.Warn("pages stay with a holder who sealed them", "range", p.String(), "err", err)
			}
		}
	}
	for _, m := range ended {
		f.endWindow(m)
	}
}

// endWindow takes all memory from a window.
func (f *FS) endWindow(m *mapping) {
	if err := m.w.Detach(); err != nil {
		f.log.Warn("pages stay with a holder who sealed them", "range", m.r.String(), "err", err)
	}
	f.vol.DetachSegment(m.w.Segment())
	f.windowBytes.Add(-m.r.Len())
}

// dropOrphans ends all that holds keep of windows.
func (f *FS) dropOrphans() {
	f.orphans.mu.Lock()
	var holds []uint64
	for id := range f.orphans.byHold {
		holds = append(holds, id)
	}
	f.orphans.mu.Unlock()
	for _, id := range holds {
		f.dropOrphan(id)
	}
}

// Orphan describes blocks that no file has any more.
type Orphan struct {
	volume.Orphan
	Holds []uint64   `json:"holds,omitempty"` // that keep them
	File  extent.Ino `json:"file,omitempty"`  // that had them; 0 if a former server knew
	Path  string     `json:"path,omitempty"`  // of the file then
}

// Orphans lists the blocks that their files have given up and holds keep, by address.
func (f *FS) Orphans() []Orphan {
	out := []Orphan{}
	for _, o := range f.vol.Orphans() {
		out = append(out, Orphan{Orphan: o})
	}
	for _, id := range f.vol.OrphanHolds() {
		for _, r := range f.vol.Held(id) {
			first, _ := slices.BinarySearchFunc(out, r.Off+1, func(o Orphan, off int64) int { return compare(o.Addr+o.Len, off) })
			for k := first; k < len(out) && out[k].Addr < r.End; k++ {
				out[k].Holds = append(out[k].Holds, id)
			}
		}
	}
	f.orphans.mu.Lock()
	defer f.orphans.mu.Unlock()
	for k := range out {
		slices.Sort(out[k].Holds)
		for _, id := range out[k].Holds {
			if h := f.orphans.byHold[id]; h != nil {
				out[k].File, out[k].Path = h.ino, h.path
			}
		}
	}
	return out
}

// withSpace does op. If it finds no space, those who keep orphans are asked to let go of
// them, and it is done again each time that one has, until SpaceWait is over. op has
// changed nothing when it returns ENOSPC, and is called with no lock held.
func (f *FS) withSpace(ctx context.Context, op func() error) error {
	err := op()
	if !errors.Is(err, syscall.ENOSPC) || f.onSpace == nil {
		return err
	}
	holds := f.vol.OrphanHolds()
	if len(holds) == 0 {
		return err
	}
	limit := time.NewTimer(f.spaceWait)
	defer limit.Stop()
	gone := f.orphans.next()
	f.onSpace(holds)
	for errors.Is(err, syscall.ENOSPC) {
		select {
		case <-gone:
		case <-limit.C:
			return err
		case <-ctx.Done():
			return err
		}
		gone = f.orphans.next()
		err = op()
	}
	return err
}

// next returns what is closed when a hold ends.
func (o *orphans) next() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone == nil {
		o.gone = make(chan struct{})
	}
	return o.gone
}

// wake tells those who wait for space that a hold has ended.
func (o *orphans) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone != nil {
		close(o.gone)
		o.gone = nil
	}
}
