package crashtest

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/fs"
	"holdfast/layout"
)

func within(off, n int64) extent.Range { return extent.Range{Off: off, End: off + n} }

// doUnlessFull is do for an operation that may find no space, which is no failure.
func (w *World) doUnlessFull(what string, op func() error) (s span, full bool, err error) {
	w.t.Helper()
	s, err = w.do(what, func() error {
		err := op()
		if full = errors.Is(err, syscall.ENOSPC); full {
			return nil
		}
		return err
	})
	return s, full, err
}

// Write writes n bytes at off, or as many as there is room for. It returns false if there was no
// space for any.
func (w *World) Write(p string, off, n int64) bool {
	w.t.Helper()
	f := w.file(p)
	if f == nil {
		return false
	}
	w.gen++
	gen, r := w.gen, within(off, n)
	s, full, err := w.doUnlessFull(fmt.Sprintf("write %s %v", p, r), func() error {
		k, err := w.fs.Write(w.ctx, fs.Caller{}, f.ino, stamped(f.id, gen, r), off, false, false)
		if err == nil {
			r = within(off, int64(k))
		}
		return err
	})
	if full {
		return false
	}
	w.changed(f, s, err, change{what: wrote, r: r, gen: gen, size: max(f.size, r.End)})
	return err == nil
}

// Append writes n bytes at the end of file.
func (w *World) Append(p string, n int64) bool {
	w.t.Helper()
	return w.Write(p, w.Size(p), n)
}

// Truncate sets the size, if there is space for the edge of a shared block. Of a smaller one the
// whole blocks behind it go at once.
func (w *World) Truncate(p string, size int64) {
	w.t.Helper()
	f := w.file(p)
	if f == nil {
		return
	}
	s, full, err := w.doUnlessFull(fmt.Sprintf("truncate %s %d", p, size), func() error {
		_, err := w.fs.SetAttr(w.ctx, fs.Caller{}, f.ino, fs.SetAttr{Valid: fs.SetSize, Size: size})
		return err
	})
	if full {
		return
	}
	c := change{what: resized, size: size}
	if size < f.size {
		c.what, c.r = zeroed, extent.Range{Off: size, End: extent.Inf}
		c.once = extent.Range{Off: extent.RoundUp(size), End: extent.Inf}
	}
	w.changed(f, s, err, c)
}

// Punch makes a hole, if there is space for the edges of shared blocks. Its whole blocks go at once.
func (w *World) Punch(p string, off, n int64) {
	w.t.Helper()
	f := w.file(p)
	if f == nil {
		return
	}
	r := within(off, n)
	s, full, err := w.doUnlessFull(fmt.Sprintf("punch %s %v", p, r), func() error {
		return w.fs.Fallocate(w.ctx, fs.Caller{}, f.ino, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if full {
		return
	}
	w.changed(f, s, err, change{what: zeroed, r: r, once: r.RoundIn(), size: f.size})
}

// Allocate gives a range blocks. It returns false if there was no space.
func (w *World) Allocate(p string, off, n int64) bool {
	w.t.Helper()
	f := w.file(p)
	if f == nil {
		return false
	}
	s, full, err := w.doUnlessFull(fmt.Sprintf("allocate %s %v", p, within(off, n)), func() error {
		return w.fs.Fallocate(w.ctx, fs.Caller{}, f.ino, 0, off, n)
	})
	if full {
		return false
	}
	w.changed(f, s, err, change{what: resized, size: max(f.size, off+n)})
	return err == nil
}

// Window is a window over a range of a file, under a write lease. It is none if a
// fault was in the way.
type Window struct {
	w      *World
	f      *fileModel
	r      extent.Range
	lease  layout.LeaseID
	pieces []fs.Piece
	behind []change // what was stored behind the end of file
}

type nobody struct{}

func (nobody) Notify(arbiter.Event) {}

// Window leases and maps a range.
func (w *World) Window(p string, off, n int64) *Window {
	w.t.Helper()
	v := &Window{w: w, f: w.file(p), r: within(off, n)}
	if v.f == nil {
		return v
	}
	_, _ = w.do("map "+p, func() error {
		id, err := w.arb.OpenSession(arbiter.SessionInfo{Kind: "test", PID: 4711})
		if err != nil {
			return err
		}
		l, err := w.arb.Acquire(w.ctx, id, arbiter.AcquireRequest{File: v.f.ino, Range: v.r, Access: layout.Write}, nobody{})
		if err != nil {
			return err
		}
		v.lease = l.ID
		v.pieces, err = w.fs.Map(w.ctx, l.ID, v.f.ino, v.r, true)
		return err
	})
	return v
}

// Store writes n bytes at off of the file directly, past the filesystem.
func (v *Window) Store(off, n int64) {
	w := v.w
	w.t.Helper()
	if v.pieces == nil {
		return
	}
	w.gen++
	gen, r := w.gen, within(off, n)
	p := stamped(v.f.id, gen, r)
	s, err := w.do("store", func() error {
		for _, piece := range v.pieces {
			part := within(piece.FileOff, piece.Len).Intersect(r)
			if part.Empty() {
				continue
			}
			if _, err := piece.Window.WriteAt(p[part.Off-r.Off:part.End-r.Off], piece.Off+part.Off-piece.FileOff); err != nil {
				return err
			}
		}
		return nil
	})
	eof := v.f.size
	if end := r.Intersect(extent.Range{Off: eof, End: extent.Inf}); !end.Empty() {
		v.behind = append(v.behind, change{what: wrote, r: end, gen: gen})
	}
	w.changed(v.f, s, err, change{what: wrote, r: r.Intersect(extent.Range{Off: 0, End: eof}), gen: gen, size: eof})
}

// Commit makes durable what was stored; the file grows to size, unless that is -1,
// and then has what was stored there.
func (v *Window) Commit(size int64) {
	w := v.w
	w.t.Helper()
	if v.pieces == nil {
		return
	}
	s, err := w.do("commit", func() error { return w.fs.Commit(w.ctx, v.lease, v.f.ino, v.r, size) })
	if err != nil {
		v.pieces = nil // nobody knows what the size is now
	}
	if size > v.f.size {
		w.changed(v.f, s, err, change{what: resized, size: size})
		for _, c := range v.behind {
			c.r, c.size = c.r.Intersect(extent.Range{Off: 0, End: size}), size
			w.changed(v.f, s, err, c)
		}
		v.behind = nil
	}
	w.durable(s, err, v.f)
}

// Release gives the lease back.
func (v *Window) Release() {
	v.w.t.Helper()
	if v.pieces == nil {
		return
	}
	s, err := v.w.do("release", func() error { return v.w.arb.CloseLease(v.w.ctx, v.lease) })
	v.w.durable(s, err, v.f)
}
