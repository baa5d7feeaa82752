package fs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"holdfast/extent"
)

// node is a file as the naive model has it.
type node struct {
	ino      extent.Ino
	mode     uint32
	nlink    uint32
	data     []byte
	target   string
	children map[string]*node
	parent   *node
	opens    int
}

func (n *node) dir() bool { return n.children != nil }

// contains reports whether o is n or lies below it.
func (n *node) contains(o *node) bool {
	for ; o != n; o = o.parent {
		if o.parent == o {
			return false
		}
	}
	return true
}

// model is a namespace in memory, as plain as can be, beside the real one.
type model struct {
	r    *rig
	root *node
	dirs []*node // all directories that have a name
	open []*node // files that are open, some more than once
}

const (
	modelMax   = 100_000 // largest file
	modelNames = "abcd"
)

func (m *model) someDir(t *rapid.T, label string) *node {
	return m.dirs[rapid.IntRange(0, len(m.dirs)-1).Draw(t, label)]
}

func someName(t *rapid.T, label string) string {
	return string(modelNames[rapid.IntRange(0, len(modelNames)-1).Draw(t, label)])
}

// someFile returns a regular file, by name or open.
func (m *model) someFile(t *rapid.T) *node {
	found := slices.Clone(m.open)
	for _, d := range m.dirs {
		for _, name := range slices.Sorted(maps.Keys(d.children)) {
			if c := d.children[name]; isType(c.mode, syscall.S_IFREG) {
				found = append(found, c)
			}
		}
	}
	if len(found) == 0 {
		t.Skip("no file")
	}
	return found[rapid.IntRange(0, len(found)-1).Draw(t, "file")]
}

// agree fails unless err is the errno, 0 for success.
func agree(t *rapid.T, err error, want syscall.Errno, what string, args ...any) {
	t.Helper()
	if want == 0 && err != nil || want != 0 && !errors.Is(err, want) {
		t.Fatalf("%s: %v, want %v", fmt.Sprintf(what, args...), err, want)
	}
}

func (m *model) create(t *rapid.T) {
	d, name := m.someDir(t, "dir"), someName(t, "name")
	kind := rapid.SampledFrom([]string{"file", "open", "dir", "link", "fifo"}).Draw(t, "kind")
	c := &node{nlink: 1}
	var a Attr
	var err error
	switch kind {
	case "file":
		c.mode = syscall.S_IFREG | 0o640
		a, err = m.r.Mknod(ctx, Caller{}, d.ino, name, c.mode, 0)
	case "open":
		c.mode = syscall.S_IFREG | 0o600
		a, err = m.r.Create(ctx, Caller{}, d.ino, name, 0o600, 0)
	case "dir":
		c.mode, c.nlink, c.children, c.parent = syscall.S_IFDIR|0o755, 2, map[string]*node{}, d
		a, err = m.r.Mkdir(ctx, Caller{}, d.ino, name, 0o755)
	case "link":
		c.mode, c.target = syscall.S_IFLNK|0o777, "to/"+name
		a, err = m.r.Symlink(ctx, Caller{}, d.ino, name, c.target)
	case "fifo":
		c.mode = syscall.S_IFIFO | 0o600
		a, err = m.r.Mknod(ctx, Caller{}, d.ino, name, c.mode, 0)
	}
	if d.children[name] != nil {
		agree(t, err, syscall.EEXIST, "create %s", name)
		return
	}
	agree(t, err, 0, "create %s", name)
	c.ino = a.Ino
	d.children[name] = c
	if c.dir() {
		d.nlink++
		m.dirs = append(m.dirs, c)
	}
	if kind == "open" {
		c.opens++
		m.open = append(m.open, c)
	}
}

func (m *model) link(t *rapid.T) {
	from, to := m.someDir(t, "from dir"), m.someDir(t, "to dir")
	name, newName := someName(t, "name"), someName(t, "new name")
	c := from.children[name]
	if c == nil {
		t.Skip("no such name")
	}
	_, err := m.r.Link(ctx, Caller{}, c.ino, to.ino, newName)
	switch {
	case c.dir():
		agree(t, err, syscall.EPERM, "link directory %s", name)
	case to.children[newName] != nil:
		agree(t, err, syscall.EEXIST, "link %s", newName)
	default:
		agree(t, err, 0, "link %s", newName)
		c.nlink++
		to.children[newName] = c
	}
}

func (m *model) unlink(t *rapid.T) {
	d, name := m.someDir(t, "dir"), someName(t, "name")
	err := m.r.Unlink(ctx, Caller{}, d.ino, name)
	switch c := d.children[name]; {
	case c == nil:
		agree(t, err, syscall.ENOENT, "unlink %s", name)
	case c.dir():
		agree(t, err, syscall.EISDIR, "unlink %s", name)
	default:
		agree(t, err, 0, "unlink %s", name)
		m.drop(d, name)
	}
}

func (m *model) rmdir(t *rapid.T) {
	d, name := m.someDir(t, "dir"), someName(t, "name")
	err := m.r.Rmdir(ctx, Caller{}, d.ino, name)
	switch c := d.children[name]; {
	case c == nil:
		agree(t, err, syscall.ENOENT, "rmdir %s", name)
	case !c.dir():
		agree(t, err, syscall.ENOTDIR, "rmdir %s", name)
	case len(c.children) > 0:
		agree(t, err, syscall.ENOTEMPTY, "rmdir %s", name)
	default:
		agree(t, err, 0, "rmdir %s", name)
		m.drop(d, name)
	}
}

// drop takes a name away.
func (m *model) drop(d *node, name string) {
	c := d.children[name]
	delete(d.children, name)
	c.nlink--
	if c.dir() {
		c.nlink = 0
		d.nlink--
		m.dirs = slices.DeleteFunc(m.dirs, func(x *node) bool { return x == c })
	}
	if c.opens == 0 {
		m.r.Forget(c.ino, 1000)
	}
}

func (m *model) rename(t *rapid.T) {
	from, to := m.someDir(t, "from dir"), m.someDir(t, "to dir")
	name, newName := someName(t, "name"), someName(t, "new name")
	flags := rapid.SampledFrom([]uint32{0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}).Draw(t, "flags")
	err := m.r.Rename(ctx, Caller{}, from.ino, name, to.ino, newName, flags)
	want := renameErrno(from, to, name, newName, flags)
	agree(t, err, want, "rename %s to %s, flags %d", name, newName, flags)
	src, dst := from.children[name], to.children[newName]
	if want != 0 || src == dst {
		return
	}
	if flags == unix.RENAME_EXCHANGE {
		from.children[name], to.children[newName] = dst, src
		dst.moved(to, from)
	} else {
		if dst != nil {
			m.drop(to, newName)
		}
		delete(from.children, name)
		to.children[newName] = src
	}
	src.moved(from, to)
}

func (n *node) moved(from, to *node) {
	if n.dir() && from != to {
		n.parent = to
		from.nlink--
		to.nlink++
	}
}

// renameErrno says what a rename comes to.
func renameErrno(from, to *node, name, newName string, flags uint32) syscall.Errno {
	src, dst := from.children[name], to.children[newName]
	exchange := flags == unix.RENAME_EXCHANGE
	switch {
	case src == nil:
		return syscall.ENOENT
	case src.dir() && from != to && src.contains(to), exchange && dst != nil && dst.dir() && from != to && dst.contains(from):
		return syscall.EINVAL
	case exchange && dst == nil:
		return syscall.ENOENT
	case flags == unix.RENAME_NOREPLACE && dst != nil:
		return syscall.EEXIST
	case exchange, dst == nil, src == dst:
		return 0
	case src.dir() && !dst.dir():
		return syscall.ENOTDIR
	case !src.dir() && dst.dir():
		return syscall.EISDIR
	case dst.dir() && len(dst.children) > 0:
		return syscall.ENOTEMPTY
	}
	return 0
}

func (m *model) openFile(t *rapid.T) {
	c := m.someFile(t)
	m.r.must(m.r.Open(ctx, Caller{}, c.ino, 0))
	c.opens++
	m.open = append(m.open, c)
}

func (m *model) closeFile(t *rapid.T) {
	if len(m.open) == 0 {
		t.Skip("nothing is open")
	}
	k := rapid.IntRange(0, len(m.open)-1).Draw(t, "open file")
	m.close(k)
}

func (m *model) close(k int) {
	c := m.open[k]
	m.open = slices.Delete(m.open, k, k+1)
	m.r.Release(c.ino)
	if c.opens--; c.opens == 0 && c.nlink == 0 {
		m.r.Forget(c.ino, 1000)
	}
}

func (m *model) write(t *rapid.T) {
	c := m.someFile(t)
	p := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, rapid.IntRange(1, 20_000).Draw(t, "length"))
	appending := rapid.Bool().Draw(t, "append")
	off := rapid.IntRange(0, modelMax-len(p)).Draw(t, "offset")
	if appending {
		if off = len(c.data); off > modelMax-len(p) {
			t.Skip("too large")
		}
	}
	n, err := m.r.Write(ctx, Caller{}, c.ino, p, int64(off), appending, false)
	if n != len(p) || err != nil {
		t.Fatalf("write [%d,+%d): %d, %v", off, len(p), n, err)
	}
	c.resize(max(len(c.data), off+len(p)))
	copy(c.data[off:], p)
}

func (n *node) resize(size int) {
	if size <= len(n.data) {
		n.data = n.data[:size]
		return
	}
	n.data = append(slices.Clone(n.data), make([]byte, size-len(n.data))...)
}

func (m *model) truncate(t *rapid.T) {
	c, size := m.someFile(t), rapid.IntRange(0, modelMax).Draw(t, "size")
	agree(t, m.r.Truncate(ctx, Caller{}, c.ino, int64(size)), 0, "truncate to %d", size)
	c.resize(size)
}

func (m *model) fallocate(t *rapid.T) {
	c := m.someFile(t)
	off := rapid.IntRange(0, modelMax-1).Draw(t, "offset")
	n := rapid.IntRange(1, modelMax-off).Draw(t, "length")
	mode := rapid.SampledFrom([]uint32{0, 1, 3}).Draw(t, "mode")
	agree(t, m.r.Fallocate(ctx, Caller{}, c.ino, mode, int64(off), int64(n)), 0, "fallocate")
	switch mode {
	case 0:
		c.resize(max(len(c.data), off+n))
	case 3:
		clear(c.data[min(off, len(c.data)):min(off+n, len(c.data))])
	}
}

func (m *model) fsync(t *rapid.T) {
	agree(t, m.r.Fsync(ctx, m.someFile(t).ino, false), 0, "fsync")
}

// reopen restarts the filesystem. Files that were only open are gone.
func (m *model) reopen(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "restart") > 0 {
		t.Skip("not now")
	}
	for len(m.open) > 0 {
		m.close(0)
	}
	m.r.reopen()
}

// check compares all there is.
func (m *model) check(t *rapid.T) {
	m.compare(t, m.root, "/")
	for _, c := range m.open {
		m.compareFile(t, c, "an open file")
	}
}

func (m *model) compare(t *rapid.T, d *node, path string) {
	m.compareFile(t, d, path)
	got := map[string]extent.Ino{}
	agree(t, m.r.ReadDir(ctx, Caller{}, d.ino, 0, func(name string, ino extent.Ino, typ uint32, _ uint64) bool {
		c := d.children[name]
		if c == nil || !isType(c.mode, typ) || got[name] != 0 {
			t.Fatalf("%s%s: type %#o, the model has %v", path, name, typ, c)
		}
		got[name] = ino
		return true
	}), 0, "readdir")
	if len(got) != len(d.children) {
		t.Fatalf("%s has %v, the model %v", path, got, d.children)
	}
	for name, c := range d.children {
		a, err := m.r.Lookup(ctx, Caller{}, d.ino, name)
		agree(t, err, 0, "lookup %s", path+name)
		if a.Ino != c.ino || got[name] != c.ino {
			t.Fatalf("%s is inode %d, in readdir %d, in the model %d", path+name, a.Ino, got[name], c.ino)
		}
		if c.dir() {
			m.compare(t, c, path+name+"/")
		} else {
			m.compareFile(t, c, path+name)
		}
	}
}

func (m *model) compareFile(t *rapid.T, c *node, path string) {
	a, err := m.r.GetAttr(ctx, Caller{}, c.ino)
	agree(t, err, 0, "attributes of %s", path)
	if a.Mode != c.mode || a.Nlink != c.nlink || c.dir() && a.Parent != c.parent.ino {
		t.Fatalf("%s: mode %#o, %d links, parent %d; the model has %#o, %d, %v", path, a.Mode, a.Nlink, a.Parent, c.mode, c.nlink, c.parent)
	}
	switch {
	case isType(c.mode, syscall.S_IFLNK):
		target, err := m.r.Readlink(ctx, Caller{}, c.ino)
		agree(t, err, 0, "readlink")
		if target != c.target || a.Size != int64(len(target)) {
			t.Fatalf("%s leads to %q of %d bytes, in the model to %q", path, target, a.Size, c.target)
		}
	case isType(c.mode, syscall.S_IFREG):
		if got := m.r.content(c.ino); !bytes.Equal(got, c.data) || a.Size != int64(len(c.data)) {
			t.Fatalf("%s: content differs from the model (%d bytes, size %d; model %d) at %d", path, len(got), a.Size, len(c.data), firstDiff(got, c.data))
		}
	}
}

func firstDiff(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// tempDir is testing.T's TempDir for a rapid check.
func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "holdfast-model")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestModel does whatever comes to mind to a namespace, and to a naive model of
// one, and restarts now and then.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := makeRig(t, tempDir(t))
		t.Cleanup(r.finish)
		root := &node{ino: root, mode: syscall.S_IFDIR | 0o755, nlink: 2, children: map[string]*node{}}
		root.parent = root
		m := &model{r: r, root: root, dirs: []*node{root}}
		t.Repeat(map[string]func(*rapid.T){
			"create": m.create, "link": m.link, "unlink": m.unlink, "rmdir": m.rmdir, "rename": m.rename, "open": m.openFile,
			"close": m.closeFile, "write": m.write, "truncate": m.truncate, "fallocate": m.fallocate, "fsync": m.fsync,
			"reopen": m.reopen, "": m.check,
		})
	})
}
