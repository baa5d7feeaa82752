package volume

import (
	"fmt"
	"syscall"

	"holdfast/extent"
)

// sharedParts returns what of r has blocks that are not the file's alone. What only
// seemed so does not any more. It needs n exclusive.
func (n *Inode) sharedParts(r extent.Range) (out []mapping) {
	var alone []extent.Range
	n.m.in(r, func(e mapping) bool {
		if !e.shared {
			return true
		}
		pos := e.off
		for _, p := range n.v.space.shared(run{e.home, e.len}) {
			at := extent.Range{Off: e.off + p.Off - e.home, End: e.off + p.End - e.home}
			if pos < at.Off {
				alone = append(alone, extent.Range{Off: pos, End: at.Off})
			}
			if k := len(out) - 1; k >= 0 && out[k].end() == at.Off && out[k].joins(e.slice(at)) {
				out[k].len += at.Len()
			} else {
				out = append(out, e.slice(at))
			}
			pos = at.End
		}
		if pos < e.end() {
			alone = append(alone, extent.Range{Off: pos, End: e.end()})
		}
		return true
	})
	for _, a := range alone {
		n.m.update(a, func(e *mapping) { e.shared = false })
	}
	return out
}

// Shared reports whether r has blocks that are not the file's alone, so that
// writing there would give it others. It needs n shared.
func (n *Inode) Shared(r extent.Range) (shared bool, err error) {
	m, err := n.extents()
	if err != nil {
		return false, err
	}
	m.in(r.RoundOut(), func(e mapping) bool {
		shared = e.shared && len(n.v.space.shared(run{e.home, e.len})) > 0
		return !shared
	})
	return shared, nil
}

// Unshare gives the file blocks of its own wherever in r it has them together with
// others. The content stays. On ENOSPC nothing has changed. It needs n exclusive.
func (n *Inode) Unshare(r extent.Range) error {
	if r.Off < 0 || r.Empty() {
		return fmt.Errorf("unshare %v: %w", r, syscall.EINVAL)
	}
	if _, err := n.mutable(); err != nil {
		return err
	}
	if err := n.fork(n.sharedParts(r.RoundOut()), extent.Range{}, false); err != nil {
		return fmt.Errorf("inode %d: unshare %v: %w", n.Ino, r, err)
	}
	return nil
}

// forked is a part of a file, and the blocks that it gets instead of shared ones.
type forked struct {
	mapping
	to int64
}

// fork gives the file other blocks, which are its own, with the same content for before,
// whole blocks that must not be altered. Of fresh, whole blocks that are about to be written,
// only what windows cover is copied, and the rest becomes unwritten; if home is set, it is
// written to the device, and nothing of it is copied. On ENOSPC nothing has changed.
//
// The store keeps the old blocks until the next commit gives them up, so that a
// crash finds them with the old content.
func (n *Inode) fork(before []mapping, fresh extent.Range, home bool) error {
	parts, err := n.allocateForks(before, fresh)
	if err != nil || len(parts) == 0 {
		return err
	}
	for k := range parts {
		p := &parts[k]
		if p.state != extent.Written || (home || p.win.Seg == 0) && fresh.Contains(p.rng()) {
			p.state = extent.Unwritten
			continue
		}
		if err := n.v.copyBlocks(p.to, p.home, p.len); err != nil {
			n.v.space.give(forkedRuns(parts))
			return n.locate(err, p.mapping)
		}
		n.wrote()
	}
	for _, p := range parts {
		n.dropUnstored(n.m.remove(p.rng()))
		p.stale, p.stored = p.stale || p.stored, false
		p.home, p.shared = p.to, false
		n.m.insert(p.mapping)
		n.dirty.add(p.rng())
	}
	return nil
}

// unfork gives the file the blocks back that it had before a fork, after a write that
// failed: in the new ones there may be neither the old bytes nor the new.
func (n *Inode) unfork(before []mapping) {
	for _, e := range before {
		n.dropUnstored(n.m.remove(e.rng()))
		n.m.insert(e)
	}
}

// allocateForks takes blocks for all, which are cut at the borders of fresh, or
// none.
func (n *Inode) allocateForks(all []mapping, fresh extent.Range) ([]forked, error) {
	var out []forked
	for _, e := range all {
		left, right := e.rng().Minus(fresh)
		for _, p := range [...]extent.Range{left, e.rng().Intersect(fresh), right} {
			if p.Empty() {
				continue
			}
			goal := int64(0)
			if k := len(out) - 1; k >= 0 && out[k].end() == p.Off {
				goal = out[k].to + out[k].len
			}
			runs, err := n.v.allocate(n, p.Len(), 0, goal, p.End)
			if err != nil {
				n.v.space.give(forkedRuns(out))
				return nil, err
			}
			for _, to := range runs {
				out = append(out, forked{e.slice(extent.Range{Off: p.Off, End: p.Off + to.len}), to.off})
				p.Off += to.len
			}
		}
	}
	return out, nil
}

func forkedRuns(parts []forked) (out []run) {
	for _, p := range parts {
		out = append(out, run{p.to, p.len})
	}
	return out
}

// copyBlocks copies n bytes on the device.
func (v *Volume) copyBlocks(to, from, n int64) error {
	b := bounce.Get().(*[len(zeros)]byte)
	defer bounce.Put(b)
	for n > 0 {
		p := b[:min(n, int64(len(b)))]
		if err := v.copyPiece(p, to, from); err != nil {
			return err
		}
		k := int64(len(p))
		to, from, n = to+k, from+k, n-k
	}
	return nil
}

func (v *Volume) copyPiece(p []byte, to, from int64) error {
	if v.sums != nil {
		if err := v.sums.read(p, from); err != nil {
			return err
		}
		return v.sums.writeBlocks(p, to)
	}
	if _, err := v.dev.ReadAt(p, from); err != nil {
		return err
	}
	return v.write(p, to)
}
