package crashtest

import (
	"context"
	"fmt"
	"maps"
	"path"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/fs"
)

// Workload is something done with a filesystem.
type Workload struct {
	Name string
	Size int64 // of the volume's space; 0 means 1 MiB
	Run  func(w *World)
}

// World is where a workload runs: it does its operations and keeps what they
// promise. Paths begin with a slash.
type World struct {
	*stack
	t   testing.TB
	ctx context.Context
	o   Options

	names  names
	tree   tree // now
	files  map[extent.Ino]*fileModel
	sizes  []growth
	shrunk []growth
	tried  []growth // to grow, and failed
	kept   []*Kept
	last   extent.Ino // that was given out
	gen    uint32
	first  int     // position of Begin
	failed []error // of operations, where faults are made
	reads  bool    // the fault is one of a read, after which an operation has changed nothing
}

// do runs one operation and returns when it was. An error is the end of the test,
// unless faults are made.
func (w *World) do(what string, op func() error) (span, error) {
	w.t.Helper()
	s := span{begin: w.disk.Pos()}
	err := op()
	if w.o.After != nil {
		w.o.After(w.vol)
	}
	s.end = w.disk.Pos()
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		if w.o.Fault == nil {
			w.t.Fatal(err)
		}
		w.failed = append(w.failed, err)
	}
	return s, err
}

// Begin says that what was done so far only prepares: the power does not fail there.
func (w *World) Begin() { w.first = w.disk.Pos() }

func (w *World) at(p string) node {
	w.t.Helper()
	n, ok := w.tree[p]
	if !ok && w.o.Fault == nil {
		w.t.Fatalf("workload: no %s", p)
	}
	return n
}

func (w *World) file(p string) *fileModel { return w.files[w.at(p).ino] }

// Size returns the size of a file.
func (w *World) Size(p string) int64 {
	if f := w.file(p); f != nil {
		return f.size
	}
	return 0
}

// split returns the directory and the name of a path.
func (w *World) split(p string) (extent.Ino, string) {
	dir, name := path.Split(p)
	if dir == "/" {
		return extent.RootIno, name
	}
	return w.at(strings.TrimSuffix(dir, "/")).ino, name
}

// growth is a volume that became larger.
type growth struct {
	span
	size int64
}

// Grow makes the volume larger, by n bytes.
func (w *World) Grow(n int64) {
	w.t.Helper()
	size := w.vol.Info().Size + n
	s, err := w.do(fmt.Sprintf("grow to %d", size), func() error {
		_, err := w.fs.Grow(w.ctx, size)
		return err
	})
	if err == nil {
		w.sizes = append(w.sizes, growth{s, size})
	} else {
		w.tried = append(w.tried, growth{s, size})
	}
}

// changed notes what an operation did to the content of a file, which may also be
// a part of it if it failed.
func (w *World) changed(f *fileModel, s span, err error, c change) {
	if err != nil && w.reads && w.vol.FailReason() == nil {
		return
	}
	w.gen++
	if c.gen == 0 {
		c.gen = w.gen
	}
	c.span = s
	if err != nil {
		c.once = extent.Range{}
	} else {
		f.size = c.size
	}
	f.changes = append(f.changes, c)
}

// rename notes what an operation did to the names.
func (w *World) rename(s span, err error, edit func(tree)) {
	next := maps.Clone(w.tree)
	edit(next)
	w.names.moments = append(w.names.moments, moment{s, next.String()})
	if err == nil {
		w.tree = next
	}
}

// durable notes that the content of a file and all names are durable when s is over.
func (w *World) durable(s span, err error, files ...*fileModel) {
	if err != nil {
		return
	}
	w.names.syncs = append(w.names.syncs, nameSync{s, len(w.names.moments) - 1})
	for _, f := range files {
		f.changes = append(f.changes, change{span: s, what: synced, size: f.size})
	}
}

// Create makes an empty file.
func (w *World) Create(p string) { w.make(p, syscall.S_IFREG, "") }

// Mkdir makes a directory.
func (w *World) Mkdir(p string) { w.make(p, syscall.S_IFDIR, "") }

// Symlink makes a symbolic link.
func (w *World) Symlink(target, p string) { w.make(p, syscall.S_IFLNK, target) }

func (w *World) make(p string, typ uint32, target string) {
	w.t.Helper()
	dir, name := w.split(p)
	var a fs.Attr
	s, err := w.do("create "+p, func() (err error) {
		switch typ {
		case syscall.S_IFDIR:
			a, err = w.fs.Mkdir(w.ctx, fs.Caller{}, dir, name, 0o755)
		case syscall.S_IFLNK:
			a, err = w.fs.Symlink(w.ctx, fs.Caller{}, dir, name, target)
		default:
			a, err = w.fs.Mknod(w.ctx, fs.Caller{}, dir, name, typ|0o644, 0)
		}
		if err == nil {
			w.fs.Forget(a.Ino, 1)
		}
		return err
	})
	if err != nil {
		a.Ino = w.last + 1 // if it is there after all
	}
	w.last = max(w.last, a.Ino)
	if typ == syscall.S_IFREG {
		f := &fileModel{id: uint32(len(w.files) + 1), ino: a.Ino, memo: map[int][]byte{0: nil}}
		w.files[a.Ino] = f
	}
	w.rename(s, err, func(t tree) { t[p] = node{a.Ino, typ, target} })
}

// Link gives a file another name.
func (w *World) Link(from, to string) {
	w.t.Helper()
	dir, name := w.split(to)
	n := w.at(from)
	s, err := w.do("link "+to, func() error {
		_, err := w.fs.Link(w.ctx, fs.Caller{}, n.ino, dir, name)
		if err == nil {
			w.fs.Forget(n.ino, 1)
		}
		return err
	})
	w.rename(s, err, func(t tree) { t[to] = n })
}

// Rename moves a name, over another one if it exists.
func (w *World) Rename(from, to string) {
	w.t.Helper()
	w.move("rename", from, to, 0, func(t tree) { moveTree(t, from, to) })
}

// Exchange swaps what two names lead to.
func (w *World) Exchange(a, b string) {
	w.t.Helper()
	w.move("exchange", a, b, unix.RENAME_EXCHANGE, func(t tree) {
		moveTree(t, a, "/\x00")
		moveTree(t, b, a)
		moveTree(t, "/\x00", b)
	})
}

func (w *World) move(what, from, to string, flags uint32, edit func(tree)) {
	w.t.Helper()
	dir, name := w.split(from)
	newDir, newName := w.split(to)
	s, err := w.do(fmt.Sprintf("%s %s %s", what, from, to), func() error {
		return w.fs.Rename(w.ctx, fs.Caller{}, dir, name, newDir, newName, flags)
	})
	w.rename(s, err, edit)
}

// moveTree moves a path and all below it.
func moveTree(t tree, from, to string) {
	for p, n := range maps.Clone(t) {
		if rest, ok := strings.CutPrefix(p, from); ok && (rest == "" || rest[0] == '/') {
			delete(t, p)
			t[to+rest] = n
		}
	}
}

// Unlink removes a name of a file.
func (w *World) Unlink(p string) {
	w.t.Helper()
	dir, name := w.split(p)
	s, err := w.do("unlink "+p, func() error { return w.fs.Unlink(w.ctx, fs.Caller{}, dir, name) })
	w.rename(s, err, func(t tree) { delete(t, p) })
}

// Rmdir removes an empty directory.
func (w *World) Rmdir(p string) {
	w.t.Helper()
	dir, name := w.split(p)
	s, err := w.do("rmdir "+p, func() error { return w.fs.Rmdir(w.ctx, fs.Caller{}, dir, name) })
	w.rename(s, err, func(t tree) { delete(t, p) })
}

// Open keeps a file open, also without a name, until the returned function is
// called.
func (w *World) Open(p string) (release func()) {
	w.t.Helper()
	n := w.at(p)
	if _, err := w.do("open "+p, func() error { return w.fs.Open(w.ctx, fs.Caller{}, n.ino, 0) }); err != nil {
		return func() {}
	}
	return func() { w.do("release "+p, func() error { w.fs.Release(n.ino); return nil }) }
}

// Fsync makes a file durable.
func (w *World) Fsync(p string) {
	w.t.Helper()
	f := w.file(p)
	s, err := w.do("fsync "+p, func() error { return w.fs.Fsync(w.ctx, w.at(p).ino, false) })
	if f != nil {
		w.durable(s, err, f)
	}
}

// FsyncDir makes the names of a directory durable.
func (w *World) FsyncDir(p string) {
	w.t.Helper()
	ino := extent.Ino(extent.RootIno)
	if p != "/" {
		ino = w.at(p).ino
	}
	s, err := w.do("fsync "+p, func() error { return w.fs.FsyncDir(w.ctx, ino) })
	w.durable(s, err)
}

// Sync makes everything durable, as syncfs does.
func (w *World) Sync() {
	w.t.Helper()
	var all []*fileModel
	for _, f := range w.files {
		all = append(all, f)
	}
	s, err := w.do("sync", func() error { return w.fs.Sync(w.ctx) })
	w.durable(s, err, all...)
}
