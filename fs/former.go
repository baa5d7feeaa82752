package fs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
	"holdfast/window"
)

// former is what of an inode is in memory that a former server handed out and that was
// not given back since. Until it is, the device is the address of these parts.
type former struct {
	parts map[layout.LeaseID][]volume.Exposure // guarded by winMu
	open  atomic.Bool                          // there are any

	mu    sync.Mutex
	wrote ranges // through the mount since; guarded by mu
}

// soil notes a write through the mount: it is later than what is in the memory.
func (o *former) soil(r extent.Range) {
	if !o.open.Load() {
		return
	}
	o.mu.Lock()
	o.wrote = o.wrote.add(r)
	o.mu.Unlock()
}

func (o *former) wroteIn(r extent.Range) ranges {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wrote.and(ranges{r})
}

// Restore takes up what a former server had exposed, before anything else is served: of
// another boot of the machine nothing is left; the rest waits for its holders, and is
// protected like all that is held.
func (f *FS) Restore(ctx context.Context) error {
	leases, end, err := f.readFormer(ctx)
	if err != nil {
		return fmt.Errorf("exposures: %w", err)
	}
	order := slices.Sorted(maps.Keys(leases))
	for _, lease := range order {
		l := leases[lease]
		if err := f.restore(ctx, l); err != nil {
			f.log.Warn("what a lease of the former server had in memory is lost", "lease", lease, "inode", l.holder.File, "err", err)
			for _, e := range l.parts {
				end = append(end, e.Key())
			}
		}
	}
	f.arb.EndRestore()
	if err := f.vol.Expose(nil, end); err != nil {
		return err
	}
	if len(order)+len(end) > 0 {
		f.log.Info("took up what the former server had exposed", "leases", len(order), "parts_over", len(end))
	}
	return f.vol.SyncStore(ctx)
}

// formerLease is what the store knows of a lease.
type formerLease struct {
	holder formerHolder
	parts  []volume.Exposure
}

// readFormer reads who had what on this boot of the machine, and what is over.
func (f *FS) readFormer(ctx context.Context) (leases map[uint64]*formerLease, end []volume.ExposureKey, err error) {
	leases = make(map[uint64]*formerLease)
	err = f.vol.Exposures(func(e volume.Exposure) error {
		l := leases[e.Lease]
		// The records of a lease say the same, as they are written together.
		if l == nil || !bytes.Equal(l.parts[0].Holder, e.Holder) {
			var h formerHolder
			if json.Unmarshal(e.Holder, &h) != nil || h.Boot != f.boot || uint64(h.Lease) != e.Lease || h.File != e.File {
				end = append(end, e.Key())
				return ctx.Err()
			}
			if l == nil {
				l = &formerLease{holder: h}
				leases[e.Lease] = l
			}
		}
		l.parts = append(l.parts, e)
		return ctx.Err()
	})
	return leases, end, err
}

// restore takes up one lease. What was allocated for it may not have been recorded:
// now there is still room for that.
func (f *FS) restore(ctx context.Context, l *formerLease) error {
	h, all := &l.holder, l.parts
	return f.withInode(h.File, func(i *inode) error {
		parts := make([]extent.Range, len(all))
		for k, e := range all {
			parts[k] = e.Range
			if h.Access != layout.Write {
				continue
			}
			if err := f.unshareFor(ctx, i, e.Range); err != nil {
				return err
			}
			if err := f.fill(i, e.Range); err != nil {
				return err
			}
		}
		if err := f.arb.Restore(&h.Exposed, parts); err != nil {
			return err
		}
		i.winMu.Lock()
		defer i.winMu.Unlock()
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.former == nil {
			i.former = &former{parts: make(map[layout.LeaseID][]volume.Exposure)}
		}
		i.former.parts[h.Lease] = all
		i.former.open.Store(true)
		return nil
	})
}

// formerLeases lists who has not given back what he had from the former server. It
// needs winMu.
func (i *inode) formerLeases() (leases []layout.LeaseID) {
	if i.former == nil {
		return nil
	}
	for id := range i.former.parts {
		leases = append(leases, id)
	}
	slices.Sort(leases)
	return leases
}

// cutFormer ends what a lease had of r from the former server, whose memory is not the
// file's any more. It needs winMu.
func (f *FS) cutFormer(i *inode, lease layout.LeaseID, r extent.Range) {
	if i.former == nil {
		return
	}
	var put, stay []volume.Exposure
	var end []volume.ExposureKey
	for _, e := range i.former.parts[lease] {
		rest := ranges{e.Range}.minus(ranges{r})
		if len(rest) == 1 && rest[0] == e.Range {
			stay = append(stay, e)
			continue
		}
		if len(rest) == 0 || rest[0].Off != e.Range.Off {
			end = append(end, e.Key())
		}
		for _, p := range rest {
			e.Range = p
			put, stay = append(put, e), append(stay, e)
		}
	}
	if err := f.vol.Expose(put, end); err != nil && f.vol.FailReason() == nil {
		f.log.Error("the end of an exposure is not recorded", "inode", i.ino, "lease", lease, "err", err)
	}
	i.former.keep(lease, stay)
}

// keep sets what is left of a lease's parts. It needs winMu.
func (o *former) keep(lease layout.LeaseID, stay []volume.Exposure) {
	if len(stay) > 0 {
		o.parts[lease] = stay
		return
	}
	delete(o.parts, lease)
	o.open.Store(len(o.parts) > 0)
}

// checkFormer refuses to make other memory of r while somebody may still give back what he
// stored there. It needs winMu.
func (i *inode) checkFormer(r extent.Range) error {
	for _, lease := range i.formerLeases() {
		for _, e := range i.former.parts[lease] {
			if e.Range.Overlaps(r) {
				return fmt.Errorf("map %v: lease %d has it in memory since before the server was started, and has not claimed it yet: %w", r, lease, syscall.EAGAIN)
			}
		}
	}
	return nil
}

// Adopt makes the memory that a holder gives back, of one window, what it was under the
// former server: the place of what the lease has of it, with all that was stored there.
// ENOENT: it was cut meanwhile; EINVAL: it is not that memory.
func (f *FS) Adopt(ctx context.Context, lease layout.LeaseID, ino extent.Ino, seg extent.Segment, memory int) error {
	err := f.withInode(ino, func(i *inode) error {
		i.winMu.Lock()
		defer i.winMu.Unlock()
		if i.former == nil {
			return errNotFormer
		}
		var mine, stay []volume.Exposure
		for _, e := range i.former.parts[lease] {
			if e.Segment == seg {
				mine = append(mine, e)
			} else {
				stay = append(stay, e)
			}
		}
		if len(mine) == 0 {
			return errNotFormer
		}
		if err := f.adoptWindow(ctx, i, lease, mine, memory); err != nil {
			return err
		}
		i.noteExposed(lease, mine, nil)
		i.former.keep(lease, stay)
		return nil
	})
	if err == nil {
		f.invalidated(ino)
		f.dropped(ino)
	}
	return err
}

// adoptWindow isolates parts in the memory. It needs winMu.
func (f *FS) adoptWindow(ctx context.Context, i *inode, lease layout.LeaseID, parts []volume.Exposure, memory int) error {
	info, err := f.arb.Lease(lease)
	if err != nil {
		return err
	}
	m, err := f.adoptMapping(i, &parts[0], memory)
	if err != nil {
		return err
	}
	before, write := m.live, info.Access == layout.Write
	for _, e := range parts {
		if err := f.adoptPart(ctx, i, m, e.Range, write); err != nil {
			return errors.Join(err, f.disown(i, m, m.live.minus(before)))
		}
	}
	for _, e := range parts {
		f.arb.AdoptWindows(info.UID, ranges{e.Range}.minus(i.users.charged(info.UID, ranges{e.Range}, 0)).bytes())
		i.use(lease, info.UID, e.Range, write)
	}
	// Whoever had it for writing may have gone since: what is in it is written home, whoever it was.
	m.writable = m.live
	m.dirty.Store(true)
	f.changed(i)
	return nil
}

// disown undoes adoptPart, and lets the memory be as it is: it can be given back once more.
// It needs winMu.
func (f *FS) disown(i *inode, m *mapping, parts ranges) error {
	i.lock()
	defer i.mu.Unlock()
	for _, p := range parts {
		if err := i.n.Home(p); err != nil {
			return err
		}
	}
	if m.live = m.live.minus(parts); len(m.live) > 0 {
		return nil
	}
	i.windows = slices.DeleteFunc(slices.Clone(i.windows), func(o *mapping) bool { return o == m })
	f.vol.DetachSegment(m.w.Segment())
	f.windowBytes.Add(-m.r.Len())
	return m.w.Forget()
}

// adoptMapping returns the window that the memory is, which another lease may have brought.
func (f *FS) adoptMapping(i *inode, e *volume.Exposure, memory int) (*mapping, error) {
	id := window.ID{Dev: e.Window.Dev, Ino: e.Window.Ino}
	w, err := window.Adopt(e.Segment, fmt.Sprintf("%d+%d", i.ino, e.Window.Off), e.Window.Size, id, memory)
	if err != nil {
		return nil, err
	}
	for _, m := range i.windows {
		if m.w.Segment() == e.Segment {
			return m, w.Forget()
		}
	}
	if err := f.vol.AttachSegment(e.Segment, w); err != nil {
		return nil, errors.Join(err, w.Forget())
	}
	f.windowBytes.Add(e.Window.Size) // it is there, whatever the limit
	m := &mapping{w: w, r: extent.Range{Off: e.Window.Off, End: e.Window.Off + e.Window.Size}}
	i.mu.Lock()
	i.windows = append(i.windows, m)
	i.mu.Unlock()
	return m, nil
}

// adoptPart makes the window the address of r, as far as it is not yet.
func (f *FS) adoptPart(ctx context.Context, i *inode, m *mapping, r extent.Range, write bool) error {
	gaps := ranges{r}.minus(m.live)
	if len(gaps.and(i.live())) > 0 {
		return fmt.Errorf("%v is in another window by now: %w", r, syscall.ESTALE)
	}
	if write {
		if err := f.unshareFor(ctx, i, r); err != nil {
			return err
		}
		if err := f.fill(i, r); err != nil {
			return err
		}
	}
	return f.each(gaps, func(p extent.Range, buf []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		i.lock()
		defer i.mu.Unlock()
		for _, w := range i.former.wroteIn(p) {
			n, err := i.n.ReadAt(buf[:w.Len()], w.Off)
			if err == nil && n > 0 {
				_, err = m.w.WriteAt(buf[:n], m.addr(w.Off).Off)
			}
			if err != nil {
				return err
			}
		}
		if err := i.n.Isolate(p, m.addr(p.Off)); err != nil {
			return err
		}
		m.live = m.live.add(p)
		return nil
	})
}
