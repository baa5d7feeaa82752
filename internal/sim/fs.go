package sim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// files is the disk as a filesystem.
type files struct{ d *Disk }

// FS returns the disk's filesystem, for a store.
func (d *Disk) FS() vfs.FS { return files{d} }

var errLocked = errors.New("locked by this process")

// find returns what a path leads to, and its directory, which is 0 if that is not
// there. It needs mu.
func (d *Disk) find(name string) (dir int, base string, obj int) {
	obj = rootObj
	for _, part := range strings.Split(path.Clean("/"+name), "/") {
		if part == "" {
			continue
		}
		dir, base = 0, part
		if entries, ok := d.now.dirs[obj]; ok {
			dir = obj
			obj = entries[part]
		} else {
			obj = 0
		}
	}
	return dir, base, obj
}

func missing(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// link gives name, in a directory that is there, to obj, or to something new.
// It needs mu.
func (d *Disk) link(name string, obj int, isDir bool) (int, error) {
	dir, base, _ := d.find(name)
	if dir == 0 {
		return 0, missing("create", name)
	}
	if obj == 0 {
		obj = d.now.next
		d.now.next++
		for _, i := range [...]*image{d.base, d.now} { // what has no name does no harm
			if isDir {
				i.dirs[obj] = make(map[string]int)
			} else {
				i.files[obj] = newContent(0, 0)
			}
		}
	}
	d.add(event{kind: evName, obj: dir, name: base, to: obj})
	return obj, nil
}

// naming is link, after the hook was asked.
func (f files) naming(name string, change func() error) error {
	if err := f.d.ask(Op{Kind: Naming, Name: name}); err != nil {
		return &fs.PathError{Op: "change", Path: name, Err: err}
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return change()
}

func (f files) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	var obj int
	err := f.naming(name, func() (err error) {
		obj, err = f.d.link(name, 0, false)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &file{d: f.d, obj: obj, name: name}, nil
}

func (f files) Link(from, to string) error {
	return f.naming(to, func() error {
		_, _, obj := f.d.find(from)
		if obj == 0 {
			return missing("link", from)
		}
		if _, _, other := f.d.find(to); other != 0 {
			return &fs.PathError{Op: "link", Path: to, Err: fs.ErrExist}
		}
		_, err := f.d.link(to, obj, false)
		return err
	})
}

func (f files) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := f.d.ask(Op{Kind: Read, Name: name}); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	_, _, obj := f.d.find(name)
	if obj == 0 {
		return nil, missing("open", name)
	}
	out := &file{d: f.d, obj: obj, name: name}
	for _, o := range opts {
		o.Apply(out)
	}
	return out, nil
}

func (f files) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	out, err := f.Open(name, opts...)
	if errors.Is(err, fs.ErrNotExist) {
		return f.Create(name, c)
	}
	return out, err
}

func (f files) OpenDir(name string) (vfs.File, error) { return f.Open(name) }

func (f files) Remove(name string) error {
	return f.naming(name, func() error {
		dir, base, obj := f.d.find(name)
		if obj == 0 {
			return missing("remove", name)
		}
		if len(f.d.now.dirs[obj]) > 0 {
			return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
		}
		f.d.add(event{kind: evName, obj: dir, name: base})
		return nil
	})
}

func (f files) RemoveAll(name string) error {
	names, err := f.List(name)
	if err == nil {
		for _, n := range names {
			if err := f.RemoveAll(path.Join(name, n)); err != nil {
				return err
			}
		}
	}
	if err := f.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f files) Rename(from, to string) error {
	return f.naming(to, func() error {
		dir, base, obj := f.d.find(from)
		newDir, newBase, _ := f.d.find(to)
		switch {
		case obj == 0 || newDir == 0:
			return missing("rename", from)
		case dir != newDir:
			return &fs.PathError{Op: "rename", Path: to, Err: syscall.EXDEV}
		}
		f.d.add(event{kind: evName, obj: dir, from: base, name: newBase, to: obj})
		return nil
	})
}

func (f files) ReuseForWrite(from, to string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Rename(from, to); err != nil {
		return nil, err
	}
	return f.Open(to)
}

func (f files) MkdirAll(dir string, perm fs.FileMode) error {
	dir = path.Clean("/" + dir)
	if dir == "/" {
		return nil
	}
	if err := f.MkdirAll(path.Dir(dir), perm); err != nil {
		return err
	}
	return f.naming(dir, func() error {
		if _, _, obj := f.d.find(dir); obj != 0 {
			return nil
		}
		_, err := f.d.link(dir, 0, true)
		return err
	})
}

func (f files) Lock(name string) (io.Closer, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.locks[name] {
		return nil, errLocked
	}
	if _, _, obj := f.d.find(name); obj == 0 {
		if _, err := f.d.link(name, 0, false); err != nil {
			return nil, err
		}
	}
	f.d.locks[name] = true
	return lock{f.d, name}, nil
}

type lock struct {
	d    *Disk
	name string
}

func (l lock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	delete(l.d.locks, l.name)
	return nil
}

func (f files) List(name string) ([]string, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	_, _, obj := f.d.find(name)
	entries, ok := f.d.now.dirs[obj]
	if !ok {
		return nil, missing("list", name)
	}
	return slices.Sorted(maps.Keys(entries)), nil
}

func (f files) Stat(name string) (vfs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	_, _, obj := f.d.find(name)
	if obj == 0 {
		return nil, missing("stat", name)
	}
	return f.d.stat(obj, name), nil
}

// stat needs mu.
func (d *Disk) stat(obj int, name string) info {
	i := info{name: path.Base(name)}
	if c := d.now.files[obj]; c != nil {
		i.size = c.size
	} else {
		i.dir = true
	}
	return i
}

func (files) PathBase(p string) string       { return path.Base(p) }
func (files) PathJoin(elem ...string) string { return path.Join(elem...) }
func (files) PathDir(p string) string        { return path.Dir(p) }
func (files) Unwrap() vfs.FS                 { return nil }

func (files) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: 1 << 40, TotalBytes: 1 << 40}, nil
}

// info is what Stat tells.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) IsDir() bool            { return i.dir }
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// file is an open file or directory.
type file struct {
	d    *Disk
	obj  int
	name string
	pos  int64
}

func (f *file) op(off int64) Op { return Op{Name: f.name, Off: off} }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.d.read(f.obj, f.op(off), p)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.d.read(f.obj, f.op(f.pos), p)
	f.pos += int64(n)
	if err == nil && n == 0 && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) { return f.d.write(f.obj, f.op(off), p) }

func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *file) Sync() error     { return f.d.flush(f.obj, f.op(0)) }
func (f *file) SyncData() error { return f.Sync() }

// SyncTo may promise nothing, so it does nothing.
func (f *file) SyncTo(int64) (bool, error)     { return false, nil }
func (f *file) Preallocate(int64, int64) error { return nil }
func (f *file) Prefetch(int64, int64) error    { return nil }
func (f *file) Fd() uintptr                    { return vfs.InvalidFd }
func (f *file) Close() error                   { return nil }
func (f *file) String() string                 { return fmt.Sprintf("%s (%d)", f.name, f.obj) }
func (f *file) Stat() (vfs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.d.stat(f.obj, f.name), nil
}
