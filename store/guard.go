package store

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guardFS makes the first failed write or sync the last: from then on no file is
// altered any more. Trying again could seem to succeed though the host has dropped
// what was written before.
//
// Pebble does not survive an error of its log or of a directory's sync: it panics,
// and in one place with a lock given up that it gives up again, which nothing can
// recover. So it is told that these went well. Nobody is deceived: the store is
// marked as failed first, and looks at that mark after each call of Pebble. An
// error of another file it takes well, but it tries again at once and for ever, so
// that a new file then waits until the store is closed. While it is being opened there
// is nobody to close it: then Pebble is told of these files, too, that all went well.
type guardFS struct {
	vfs.FS
	s *Pebble
}

func isLog(name string) bool { return strings.HasSuffix(name, logSuffix) }

// guard runs one operation that alters files.
func (g *guardFS) guard(f func() error) error {
	if err := g.s.failure(); err != nil {
		return err
	}
	err := f()
	// Absence and presence are answers, not failures.
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		g.s.fail(err)
	}
	return err
}

// survive is guard for what Pebble survives the error of, but not while it opens.
func (g *guardFS) survive(f func() error) error {
	err := g.guard(f)
	if g.s.failure() != nil && !g.s.running.Load() {
		return nil
	}
	return err
}

func (g *guardFS) open(name string, f func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	err := g.guard(func() (err error) {
		file, err = f()
		return err
	})
	switch {
	case err == nil:
		return &guardFile{File: file, fs: g, survives: !isLog(name)}, nil
	case g.s.failure() == nil:
		return nil, err
	case isLog(name), !g.s.running.Load():
		// A file that could not be made is one in memory, which nothing is written to.
		file, err = vfs.NewMem().Create("lost", vfs.WriteCategoryUnspecified)
		return &guardFile{File: file, fs: g}, err
	}
	g.s.park()
	return nil, err
}

func (g *guardFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return g.open(name, func() (vfs.File, error) { return g.FS.Create(name, c) })
}

func (g *guardFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return g.open(name, func() (vfs.File, error) { return g.FS.OpenReadWrite(name, c, o...) })
}

func (g *guardFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return g.open(to, func() (vfs.File, error) {
		if err := retire(g.FS, from); err != nil {
			return nil, err
		}
		return g.FS.ReuseForWrite(from, to, c)
	})
}

// OpenDir gives the handle by which a directory is synced.
func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardFile{File: f, fs: g}, nil
}

func (g *guardFS) Link(from, to string) error {
	return g.survive(func() error { return g.FS.Link(from, to) })
}

func (g *guardFS) Remove(name string) error {
	return g.survive(func() error {
		if err := retire(g.FS, name); err != nil {
			return err
		}
		return g.FS.Remove(name)
	})
}

func (g *guardFS) RemoveAll(name string) error {
	return g.survive(func() error { return g.FS.RemoveAll(name) })
}

func (g *guardFS) Rename(from, to string) error {
	return g.survive(func() error { return g.FS.Rename(from, to) })
}

func (g *guardFS) MkdirAll(dir string, perm fs.FileMode) error {
	return g.survive(func() error { return g.FS.MkdirAll(dir, perm) })
}

func (g *guardFS) Unwrap() vfs.FS { return g.FS }

// guardFile is a file opened for writing, or a directory.
type guardFile struct {
	vfs.File
	fs       *guardFS
	survives bool // Pebble survives an error of this file
}

// guard is guardFS.guard, with the error kept from Pebble where it must not see it.
func (f *guardFile) guard(op func() error) error {
	if err := f.fs.guard(op); f.survives && f.fs.s.running.Load() {
		return err
	}
	return nil
}

func (f *guardFile) Write(p []byte) (int, error) {
	return len(p), f.guard(func() error { _, err := f.File.Write(p); return err })
}

func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.guard(func() error { _, err := f.File.WriteAt(p, off); return err })
}

func (f *guardFile) Sync() error { return f.guard(f.File.Sync) }

func (f *guardFile) SyncData() error { return f.guard(f.File.SyncData) }

func (f *guardFile) SyncTo(n int64) (full bool, err error) {
	err = f.guard(func() (err error) { full, err = f.File.SyncTo(n); return err })
	return full, err
}

// Preallocate is a help, not a promise: that it fails is no failure.
func (f *guardFile) Preallocate(off, n int64) error {
	if f.fs.s.failure() != nil {
		return nil
	}
	return f.File.Preallocate(off, n)
}

// Close closes the file also after a failure.
func (f *guardFile) Close() error {
	err := f.File.Close()
	return f.guard(func() error { return err })
}
