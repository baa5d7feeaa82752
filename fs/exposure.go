package fs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"syscall"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
)

// exposed says what the store knows of the memory that the leases of an inode have: by lease,
// the parts of windows and what is recorded of each.
type exposed map[layout.LeaseID]map[volume.ExposureKey]string

// formerHolder is what is kept of who has memory.
type formerHolder struct {
	Boot string `json:"boot"` // of the machine, whose end is that of all memory
	arbiter.Exposed
}

// exposures returns what a lease has in windows, but for what it gives back now, as the
// store is to know it. It needs winMu.
func (f *FS) exposures(i *inode, lease layout.LeaseID, without ranges) (map[volume.ExposureKey]volume.Exposure, error) {
	u := i.users[lease]
	if u == nil {
		return nil, nil
	}
	parts := u.parts.minus(without)
	if len(parts) == 0 {
		return nil, nil
	}
	e, ok := f.arb.Exposed(lease)
	if !ok {
		return nil, nil
	}
	text, err := json.Marshal(formerHolder{f.boot, e})
	if err != nil {
		return nil, fmt.Errorf("holder of lease %d: %w", lease, err)
	}
	out := make(map[volume.ExposureKey]volume.Exposure)
	for _, m := range i.windows {
		id := m.w.ID()
		for _, p := range m.live.and(parts) {
			e := volume.Exposure{
				Segment: m.w.Segment(), Lease: uint64(lease), File: i.ino, Range: p, Holder: text,
				Window: volume.WindowID{Off: m.r.Off, Size: m.r.Len(), Dev: id.Dev, Ino: id.Ino},
			}
			out[e.Key()] = e
		}
	}
	return out, nil
}

// expose brings what the store knows of a lease's memory up to date: without what is
// given back now. It reports whether that is not durable yet. It needs winMu.
func (f *FS) expose(i *inode, lease layout.LeaseID, without ranges) (changed bool, err error) {
	want, err := f.exposures(i, lease, without)
	if err != nil {
		return false, err
	}
	have := i.exposed[lease]
	var put []volume.Exposure
	var end []volume.ExposureKey
	for k, e := range want {
		if have[k] != recorded(&e) {
			put = append(put, e)
		}
	}
	for k := range have {
		if _, ok := want[k]; !ok {
			end = append(end, k)
		}
	}
	if len(put)+len(end) == 0 {
		return false, nil
	}
	if err := f.vol.Expose(put, end); err != nil {
		return false, err
	}
	i.noteExposed(lease, put, end)
	return true, nil
}

func recorded(e *volume.Exposure) string { return fmt.Sprint(e.Range.End, " ") + string(e.Holder) }

func (i *inode) noteExposed(lease layout.LeaseID, put []volume.Exposure, end []volume.ExposureKey) {
	if i.exposed == nil {
		i.exposed = make(exposed)
	}
	of := i.exposed[lease]
	if of == nil {
		of = make(map[volume.ExposureKey]string)
		i.exposed[lease] = of
	}
	for _, e := range put {
		of[e.Key()] = recorded(&e)
	}
	for _, k := range end {
		delete(of, k)
	}
	if len(of) == 0 {
		delete(i.exposed, lease)
	}
}

// unexpose is expose before a lease gives parts back. Where a part of a window is taken
// back and another stays, the store must know before: nobody could tell by the memory
// alone. It needs winMu. What fails is only logged: the memory has to go.
func (f *FS) unexpose(i *inode, lease layout.LeaseID, parts ranges) {
	if len(i.exposed[lease]) == 0 {
		return
	}
	changed, err := f.expose(i, lease, parts)
	if err == nil && changed && i.leavesPart(parts) {
		err = f.vol.SyncStore(context.Background())
	}
	if err != nil && f.vol.FailReason() == nil {
		f.log.Error("the end of an exposure is not recorded", "inode", i.ino, "lease", lease, "err", err)
	}
}

// leavesPart reports whether a window that loses some of parts keeps anything.
func (i *inode) leavesPart(parts ranges) bool {
	for _, m := range i.windows {
		if goes := m.live.and(parts); len(goes) > 0 && goes.bytes() < m.live.bytes() {
			return true
		}
	}
	return false
}

// unexposeAll is unexpose for whoever has r. It needs winMu.
func (f *FS) unexposeAll(i *inode, r extent.Range) {
	for lease := range maps.Clone(i.exposed) {
		f.unexpose(i, lease, ranges{r})
	}
	for _, lease := range i.formerLeases() {
		f.cutFormer(i, lease, r)
	}
}

// exposeNow makes durable who has what, after winMu was released and before anybody is told.
func (f *FS) exposeNow(ctx context.Context, changed bool) error {
	if !changed {
		return nil
	}
	return f.vol.SyncStore(ctx)
}

var _ arbiter.Exposer = (*storage)(nil)

// Pinned implements arbiter.Exposer.
func (s *storage) Pinned(ctx context.Context, file extent.Ino, lease layout.LeaseID) error {
	f := s.fs()
	return f.withInode(file, func(i *inode) error {
		i.winMu.Lock()
		changed, err := f.expose(i, lease, nil)
		i.winMu.Unlock()
		if err != nil {
			return err
		}
		return f.exposeNow(ctx, changed)
	})
}

// exposable reports whether an error of expose can be passed over: on a volume that has failed
// what is read from stays readable, and there is nothing in it to lose.
func (f *FS) exposable(err error, write bool) error {
	if err != nil && !write && f.vol.FailReason() != nil {
		return nil
	}
	return err
}

// errNotFormer is what a claim gets that nobody has to make.
var errNotFormer = fmt.Errorf("nothing of that window was exposed under that lease, or it was cut since: %w", syscall.ENOENT)
