package crashtest

import (
	"bytes"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/fs"
)

// Clone makes n bytes of one file, from off on, those of another at `at`, too: whole
// blocks, or all up to the end of both files.
func (w *World) Clone(from string, off int64, to string, at, n int64) {
	w.t.Helper()
	src, dst := w.file(from), w.file(to)
	if src == nil || dst == nil || w.o.Fault != nil && src.size < off+n {
		return // what was to be cloned is not there after a fault
	}
	cloned := bytes.Clone(src.content(len(src.changes))[off : off+n])
	s, err := w.do(fmt.Sprintf("clone %s %v to %s %d", from, within(off, n), to, at), func() error {
		k, err := w.fs.CopyRange(w.ctx, fs.Caller{}, src.ino, off, dst.ino, at, n)
		if err == nil && k != n {
			err = fmt.Errorf("%d bytes were cloned", k)
		}
		return err
	})
	w.edited(dst, s, err, max(dst.size, at+n), func(b []byte) []byte {
		b = resize(bytes.Clone(b), max(int64(len(b)), at+n))
		copy(b[at:], cloned)
		return b
	})
}

// Collapse takes whole blocks out of a file. It is durable when it returns.
func (w *World) Collapse(p string, off, n int64) {
	w.t.Helper()
	w.shift(p, unix.FALLOC_FL_COLLAPSE_RANGE, within(off, n), -n, func(b []byte) []byte {
		size := int64(len(b))
		return slices.Delete(bytes.Clone(b), int(min(off, size)), int(min(off+n, size)))
	})
}

// Insert puts whole blocks of zeros into a file. It is durable when it returns.
func (w *World) Insert(p string, off, n int64) {
	w.t.Helper()
	w.shift(p, unix.FALLOC_FL_INSERT_RANGE, within(off, n), n, func(b []byte) []byte {
		return slices.Insert(bytes.Clone(b), int(min(off, int64(len(b)))), make([]byte, n)...)
	})
}

func (w *World) shift(p string, mode uint32, r extent.Range, by int64, edit func([]byte) []byte) {
	w.t.Helper()
	f := w.file(p)
	if f == nil || w.o.Fault != nil && f.size <= max(r.Off, r.Off-by) {
		return // what was to be moved is not there after a fault
	}
	s, err := w.do(fmt.Sprintf("shift %s %v by %d", p, r, by), func() error {
		return w.fs.Fallocate(w.ctx, fs.Caller{}, f.ino, mode, r.Off, r.Len())
	})
	w.edited(f, s, err, f.size+by, edit)
	w.durable(s, err, f)
}

// Zero makes a range zeros that keeps its blocks, if there is space for them. It may be half done
// until it is durable, as a write.
func (w *World) Zero(p string, off, n int64) {
	w.t.Helper()
	f := w.file(p)
	if f == nil {
		return
	}
	r := within(off, n)
	s, full, err := w.doUnlessFull(fmt.Sprintf("zero %s %v", p, r), func() error {
		return w.fs.Fallocate(w.ctx, fs.Caller{}, f.ino, unix.FALLOC_FL_ZERO_RANGE, off, n)
	})
	if full {
		return
	}
	w.changed(f, s, err, change{what: zeroed, r: r, size: max(f.size, off+n)})
}

// edited notes a change of one step. What it works on is all there with it.
func (w *World) edited(f *fileModel, s span, err error, size int64, edit func([]byte) []byte) {
	w.changed(f, s, err, change{what: edited, edit: edit, size: size})
}
