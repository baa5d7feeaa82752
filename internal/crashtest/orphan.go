package crashtest

import (
	"context"
	"fmt"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"
	"holdfast/volume"
)

// Kept is blocks of a file that somebody reaches directly, until End. It is none if a
// fault was in the way.
type Kept struct {
	w      *World
	f      *fileModel
	r      extent.Range
	hold   uint64
	runs   []extent.Range // of the device
	synced bool           // a crash cannot take them from the file
	from   span
	to     span // once it has ended
	ended  bool
}

// Hold keeps the blocks of a range, whatever becomes of the file.
func (w *World) Hold(p string, off, n int64) *Kept {
	w.t.Helper()
	k := &Kept{w: w, f: w.file(p), r: within(off, n)}
	if k.f == nil {
		return k
	}
	if c := len(k.f.changes) - 1; c >= 0 {
		k.synced = k.f.changes[c].what == synced
	}
	k.from, _ = w.do("hold "+p, func() (err error) {
		k.hold, err = w.fs.Storage().Hold(k.f.ino, k.r, 7)
		return err
	})
	k.runs = w.vol.Held(k.hold)
	w.kept = append(w.kept, k)
	return k
}

// Defer lets the file give up what is kept.
func (k *Kept) Defer() {
	k.w.t.Helper()
	if k.hold != 0 {
		_, _ = k.w.do("defer", func() error { return k.w.fs.Storage().Orphan(k.f.ino, k.hold, k.r) })
	}
}

// End lets go of the blocks.
func (k *Kept) End() {
	k.w.t.Helper()
	if k.hold == 0 {
		return
	}
	var err error
	k.to, err = k.w.do("end of a hold", func() error {
		k.w.fs.Storage().Unhold(k.hold)
		return k.w.vol.FailReason()
	})
	k.ended = err == nil
}

// verifyKept: what was kept is a file's still or nobody's, and what no one keeps any more
// is not kept.
func (l *left) verifyKept(cut int) error {
	orphaned := make(map[int64]bool)
	for _, o := range l.vol.Orphans() {
		for off := o.Addr; off < o.Addr+o.Len; off += extent.BlockSize {
			if l.used[off] > 0 {
				return fmt.Errorf("the block at %d is a file's and an orphan: %w", off, ErrForeign)
			}
			orphaned[off] = true
		}
	}
	for _, k := range l.r.kept {
		lives := k.synced && k.from.over(cut) && !(k.ended && k.to.began(cut))
		over := k.ended && l.r.names.durableAfter(k.to.end, cut)
		for _, r := range k.runs {
			for off := r.Off; off < r.End; off += extent.BlockSize {
				switch {
				case lives && l.used[off] == 0 && !orphaned[off]:
					return fmt.Errorf("the block at %d is free: %w", off, ErrReleased)
				case over && orphaned[off] && !l.r.keeps(off, k):
					return fmt.Errorf("the block at %d is kept for nobody: %w", off, ErrLeaked)
				}
			}
		}
	}
	return nil
}

// keeps reports whether others than k may have kept a block to the end.
func (r *Recording) keeps(off int64, but *Kept) bool {
	for _, k := range r.kept {
		for _, run := range k.runs {
			if k != but && run.ContainsOff(off) {
				return true
			}
		}
	}
	return false
}

// durableAfter reports whether something became durable that began at or behind pos and
// was over at cut.
func (n *names) durableAfter(pos, cut int) bool {
	for _, s := range n.syncs {
		if s.begin >= pos && s.end > s.begin && s.over(cut) {
			return true
		}
	}
	return false
}

// verifyBoot: when the machine was started anew, nothing is kept.
func (l *left) verifyBoot(ctx context.Context, dev device.Device, st store.Store, used int64) error {
	if len(l.r.kept) == 0 {
		return nil
	}
	vol, err := volume.Open(ctx, dev, st, volume.Options{Boot: "another"})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if i := vol.Info(); i.Orphaned != 0 || i.Free+used != i.Total {
		return fmt.Errorf("after another boot %d bytes are orphaned, %d of %d free: %w", i.Orphaned, i.Free, i.Total, ErrLeaked)
	}
	return nil
}

// defers punches and truncates a file that is held, while others take what is free.
func defers(w *World) {
	w.Create("/f")
	w.Create("/g")
	w.Write("/f", 0, 12*block)
	w.Fsync("/f")
	a, b := w.Hold("/f", 2*block, 6*block), w.Hold("/f", 4*block, 6*block)
	a.Defer()
	w.Punch("/f", block, 4*block)
	w.Write("/g", 0, 20*block)
	w.Fsync("/g")
	b.Defer()
	w.Truncate("/f", 0)
	w.Write("/f", 0, 20*block)
	w.Fsync("/f")
	a.End()
	w.Write("/g", 20*block, 8*block)
	w.Fsync("/g")
	b.End()
	w.FsyncDir("/")
	w.Write("/g", 28*block, 8*block)
	w.Fsync("/g")
}

// defersShared gives up blocks that two files have, by writing and by freeing.
func defersShared(w *World) {
	w.Create("/f")
	w.Create("/g")
	w.Write("/f", 0, 8*block)
	w.Fsync("/f")
	w.Clone("/f", 0, "/g", 0, 8*block)
	w.Fsync("/g")
	w.Fsync("/f")
	k := w.Hold("/f", 0, 8*block)
	k.Defer()
	w.Write("/f", 2*block, 4*block)
	w.Fsync("/f")
	w.Truncate("/g", 0)
	w.FsyncDir("/")
	w.Truncate("/f", block)
	w.Fsync("/f")
	late := w.Hold("/f", 0, block)
	k.End()
	w.Truncate("/f", 0)
	w.Fsync("/f")
	late.End()
	w.FsyncDir("/")
}

// defersMany gives up more than fits a batch.
func defersMany(w *World) {
	many(w, func() {
		k := w.Hold("/f", 0, 1<<20)
		k.Defer()
		w.Truncate("/f", 5*block+100)
		w.Fsync("/f")
		k.End()
		w.FsyncDir("/")
	})
}
