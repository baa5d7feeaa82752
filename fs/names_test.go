package fs

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/extent"
)

const root = extent.RootIno

func (r *rig) mkdir(dir extent.Ino, name string) extent.Ino {
	r.t.Helper()
	a, err := r.Mkdir(ctx, Caller{UID: 7, GID: 8}, dir, name, 0o755)
	r.must(err)
	return a.Ino
}

func (r *rig) attr(ino extent.Ino) Attr {
	r.t.Helper()
	a, err := r.GetAttr(ctx, Caller{}, ino)
	r.must(err)
	return a
}

// names lists a directory in its order.
func (r *rig) names(dir extent.Ino) (out []string) {
	r.t.Helper()
	r.must(r.ReadDir(ctx, Caller{}, dir, 0, func(name string, _ extent.Ino, _ uint32, _ uint64) bool {
		out = append(out, name)
		return true
	}))
	return out
}

func TestNameErrors(t *testing.T) {
	r := newRig(t)
	d := r.mkdir(root, "d")
	file := r.file("f", nil)
	for _, c := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"long name", second(r.Lookup(ctx, Caller{}, root, strings.Repeat("x", 256))), syscall.ENAMETOOLONG},
		{"name with slash", second(r.Mkdir(ctx, Caller{}, root, "a/b", 0)), syscall.EINVAL},
		{"dot", second(r.Mkdir(ctx, Caller{}, root, ".", 0)), syscall.EINVAL},
		{"lookup of nothing", second(r.Lookup(ctx, Caller{}, root, "none")), syscall.ENOENT},
		{"lookup in a file", second(r.Lookup(ctx, Caller{}, file, "x")), syscall.ENOTDIR},
		{"create over a name", second(r.Create(ctx, Caller{}, root, "f", 0o644, 0)), syscall.EEXIST},
		{"long symlink", second(r.Symlink(ctx, Caller{}, root, "s", strings.Repeat("x", 4096))), syscall.ENAMETOOLONG},
		{"empty symlink", second(r.Symlink(ctx, Caller{}, root, "s", "")), syscall.ENOENT},
		{"readlink of a file", second(r.Readlink(ctx, Caller{}, file)), syscall.EINVAL},
		{"mknod of a directory", second(r.Mknod(ctx, Caller{}, root, "x", syscall.S_IFDIR, 0)), syscall.EINVAL},
		{"link to a directory", second(r.Link(ctx, Caller{}, d, root, "x")), syscall.EPERM},
		{"unlink of a directory", r.Unlink(ctx, Caller{}, root, "d"), syscall.EISDIR},
		{"rmdir of a file", r.Rmdir(ctx, Caller{}, root, "f"), syscall.ENOTDIR},
		{"read of a directory", second(r.Read(ctx, d, make([]byte, 1), 0)), syscall.EISDIR},
		{"truncate of a directory", r.Truncate(ctx, Caller{}, d, 0), syscall.EISDIR},
		{"attributes of nothing", second(r.GetAttr(ctx, Caller{}, 4711)), syscall.ENOENT},
		{"rename flags", r.Rename(ctx, Caller{}, root, "f", root, "g", unix.RENAME_WHITEOUT), syscall.EINVAL},
		{"exchange with nothing", r.Rename(ctx, Caller{}, root, "f", root, "g", unix.RENAME_EXCHANGE), syscall.ENOENT},
		{"no replace", r.Rename(ctx, Caller{}, root, "f", root, "d", unix.RENAME_NOREPLACE), syscall.EEXIST},
		{"file over directory", r.Rename(ctx, Caller{}, root, "f", root, "d", 0), syscall.EISDIR},
		{"directory over file", r.Rename(ctx, Caller{}, root, "d", root, "f", 0), syscall.ENOTDIR},
		{"directory into itself", r.Rename(ctx, Caller{}, root, "d", d, "x", 0), syscall.EINVAL},
		{"collapse with a flag", r.Fallocate(ctx, Caller{}, file, unix.FALLOC_FL_COLLAPSE_RANGE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), syscall.EOPNOTSUPP},
		{"insert behind the end", r.Fallocate(ctx, Caller{}, file, unix.FALLOC_FL_INSERT_RANGE, 0, 4096), syscall.EINVAL},
		{"punch that grows", r.Fallocate(ctx, Caller{}, file, unix.FALLOC_FL_PUNCH_HOLE, 0, 4096), syscall.EOPNOTSUPP},
		{"allocate too far", r.Fallocate(ctx, Caller{}, file, 0, extent.MaxSize, 1), syscall.EFBIG},
		{"write too far", second(r.Write(ctx, Caller{}, file, []byte("x"), extent.MaxSize, false, false)), syscall.EFBIG},
		{"size too large", r.Truncate(ctx, Caller{}, file, extent.MaxSize+1), syscall.EFBIG},
		{"seek behind the end", second(r.Seek(ctx, file, 0, unix.SEEK_DATA)), syscall.ENXIO},
	} {
		wantErr(t, c.err, c.want, "%s", c.what)
	}
	if got := r.names(root); !slices.Equal(got, []string{"d", "f"}) {
		t.Errorf("the root has %q after nothing but errors", got)
	}
}

func second[T any](_ T, err error) error { return err }

// TestRemovedDirectory: a directory that is open but removed takes no names.
func TestRemovedDirectory(t *testing.T) {
	r := newRig(t)
	d := r.mkdir(root, "d")
	r.must(r.Open(ctx, Caller{}, d, 0))
	r.must(r.Rmdir(ctx, Caller{}, root, "d"))
	wantErr(t, second(r.Mkdir(ctx, Caller{}, d, "x", 0)), syscall.ENOENT, "mkdir in a removed directory")
	file := r.file("f", nil)
	wantErr(t, second(r.Link(ctx, Caller{}, file, d, "x")), syscall.ENOENT, "link into a removed directory")
	wantErr(t, r.Rename(ctx, Caller{}, root, "f", d, "x", 0), syscall.ENOENT, "rename into a removed directory")
	r.Release(d)
	r.Forget(d, 1)
	wantErr(t, second(r.GetAttr(ctx, Caller{}, d)), syscall.ENOENT, "the directory after the last use")
}

func TestSetgidDirectory(t *testing.T) {
	r := newRig(t)
	d := r.mkdir(root, "d")
	_, err := r.SetAttr(ctx, Caller{}, d, SetAttr{Valid: SetMode | SetGID, Mode: 0o2775, GID: 99})
	r.must(err)
	sub, err := r.Mkdir(ctx, Caller{GID: 5}, d, "sub", 0o755)
	r.must(err)
	if sub.GID != 99 || sub.Mode != syscall.S_IFDIR|syscall.S_ISGID|0o755 {
		t.Errorf("directory below a setgid one: gid %d, mode %#o", sub.GID, sub.Mode)
	}
	file, err := r.Create(ctx, Caller{UID: 4, GID: 5}, d, "file", 0o644, 0)
	r.must(err)
	if file.GID != 99 || file.UID != 4 || file.Mode != syscall.S_IFREG|0o644 {
		t.Errorf("file below a setgid directory: gid %d, uid %d, mode %#o", file.GID, file.UID, file.Mode)
	}
	r.Release(file.Ino)
	plain, err := r.Create(ctx, Caller{UID: 4, GID: 5}, root, "file", 0o644, 0)
	r.must(err)
	if plain.GID != 5 {
		t.Errorf("file below an ordinary directory: gid %d", plain.GID)
	}
	r.Release(plain.Ino)
}

// TestTimes: what changes which of the three times, as POSIX has it.
func TestTimes(t *testing.T) {
	r := newRig(t)
	r.mkdir(root, "d")
	file := r.file("f", []byte("content"))
	set := func(s SetAttr) func() error {
		return func() error { return second(r.SetAttr(ctx, Caller{}, file, s)) }
	}
	for _, c := range []struct {
		what string
		ino  extent.Ino
		do   func() error
		want string // which of the times change
	}{
		{"write", file, func() error { return second(r.Write(ctx, Caller{}, file, []byte("12345678"), 0, false, false)) }, "mc"},
		{"overwrite", file, func() error { return second(r.Write(ctx, Caller{}, file, []byte("x"), 0, false, false)) }, "mc"},
		{"read", file, func() error { return second(r.Read(ctx, file, make([]byte, 1), 0)) }, "a"},
		{"second read", file, func() error { return second(r.Read(ctx, file, make([]byte, 1), 0)) }, ""},
		{"chmod", file, set(SetAttr{Valid: SetMode, Mode: 0o600}), "c"},
		{"chown", file, set(SetAttr{Valid: SetUID | SetGID, UID: 1, GID: 2}), "c"},
		{"touch", file, set(SetAttr{Valid: SetAtimeNow | SetMtimeNow}), "amc"},
		{"truncate", file, set(SetAttr{Valid: SetSize, Size: 3}), "mc"},
		{"truncate to the same size", file, set(SetAttr{Valid: SetSize, Size: 3}), "mc"},
		{"allocate", file, func() error { return r.Fallocate(ctx, Caller{}, file, 1, 0, 1<<20) }, "c"},
		{"allocate beyond the end", file, func() error { return r.Fallocate(ctx, Caller{}, file, 0, 0, 1<<20) }, "mc"},
		{"punch", file, func() error { return r.Fallocate(ctx, Caller{}, file, 3, 4096, 4096) }, "mc"},
		{"link", file, func() error { return second(r.Link(ctx, Caller{}, file, root, "g")) }, "c"},
		{"unlink of one name", file, func() error { return r.Unlink(ctx, Caller{}, root, "g") }, "c"},
		{"rename, the file", file, func() error { return r.Rename(ctx, Caller{}, root, "f", root, "h", 0) }, "c"},
		{"rename, the directory", root, func() error { return r.Rename(ctx, Caller{}, root, "h", root, "f", 0) }, "mc"},
		{"create, the directory", root, func() error { return second(r.Mkdir(ctx, Caller{}, root, "x", 0)) }, "mc"},
		{"rmdir, the directory", root, func() error { return r.Rmdir(ctx, Caller{}, root, "x") }, "mc"},
		{"lookup, the directory", root, func() error { return second(r.Lookup(ctx, Caller{}, root, "f")) }, ""},
	} {
		before := r.attr(c.ino)
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		after := r.attr(c.ino)
		got := ""
		for _, x := range []struct {
			name    string
			was, is int64
		}{{"a", before.Atime, after.Atime}, {"m", before.Mtime, after.Mtime}, {"c", before.Ctime, after.Ctime}} {
			if x.was != x.is {
				got += x.name
			}
		}
		if got != c.want {
			t.Errorf("%s changes %q, want %q", c.what, got, c.want)
		}
	}
	given := SetAttr{Valid: SetAtime | SetMtime, Atime: -1, Mtime: 1<<62 + 123456789}
	_, err := r.SetAttr(ctx, Caller{}, file, given)
	r.must(err)
	r.reopen()
	if a := r.attr(file); a.Atime != given.Atime || a.Mtime != given.Mtime {
		t.Errorf("times after a restart: %d and %d, want %d and %d", a.Atime, a.Mtime, given.Atime, given.Mtime)
	}
}

// TestReadDirStable: whoever reads a directory by its cookies sees each name that is
// there all the time exactly once, whatever comes and goes meanwhile.
func TestReadDirStable(t *testing.T) {
	r := newRig(t)
	const n = 384 // some batches
	for i := range n {
		r.file(fmt.Sprintf("stays%d", i), nil)
		r.file(fmt.Sprintf("goes%d", i), nil)
	}
	for i := range n / 2 { // so that there are gaps
		r.must(r.Unlink(ctx, Caller{}, root, fmt.Sprintf("goes%d", i)))
	}
	seen := map[string]int{}
	cookie, step := uint64(0), 0
	for more := true; more; step++ {
		more = false
		left := 1 + (step+2)*61%300 // up to more than two batches
		r.must(r.ReadDir(ctx, Caller{}, root, cookie, func(name string, _ extent.Ino, typ uint32, c uint64) bool {
			if typ != syscall.S_IFREG {
				t.Errorf("%q has type %#o", name, typ)
			}
			seen[name]++
			cookie, more = c, true
			left--
			return left > 0
		}))
		if step < 3 {
			for i := range 20 {
				r.must(r.Unlink(ctx, Caller{}, root, fmt.Sprintf("goes%d", n-1-20*step-i)))
			}
			r.file(fmt.Sprintf("comes%d", step), nil)
		}
	}
	for i := range n {
		if c := seen[fmt.Sprintf("stays%d", i)]; c != 1 {
			t.Errorf("stays%d was seen %d times", i, c)
		}
	}
	for name, c := range seen {
		if c != 1 {
			t.Errorf("%s was seen %d times", name, c)
		}
	}
}

// TestReadDirReenters: fuse looks names up while it reads a directory, and others
// change the directory meanwhile.
func TestReadDirReenters(t *testing.T) {
	r := newRig(t)
	r.file("a", nil)
	r.must(r.ReadDir(ctx, Caller{}, root, 0, func(name string, _ extent.Ino, _ uint32, _ uint64) bool {
		r.must(r.Rename(ctx, Caller{}, root, "a", root, "b", 0))
		wantErr(t, second(r.Lookup(ctx, Caller{}, root, "a")), syscall.ENOENT, "lookup of what was renamed")
		return false
	}))
}

// TestWalkDirLooksUp: each entry that is looked up is counted once, no other, and
// what was removed since the directory was read is not found.
func TestWalkDirLooksUp(t *testing.T) {
	r := newRig(t)
	const n = 100
	for i := range n {
		r.file(fmt.Sprint("file", i), []byte("x"))
	}
	lookups := func(ino extent.Ino) uint64 {
		if i := r.cached(ino); i != nil {
			return i.lookups
		}
		return 0
	}
	before := map[extent.Ino]uint64{}
	seen := 0
	r.must(r.WalkDir(ctx, root, 0, true, func(e *Dirent) bool {
		switch seen++; seen {
		case 7:
			r.must(r.Unlink(ctx, Caller{}, root, e.Name))
			wantErr(t, second(e.Lookup()), syscall.ESTALE, "lookup of what was removed")
		case 60:
			return false // not looked up
		default:
			before[e.Ino] = lookups(e.Ino)
			a, err := e.Lookup()
			r.must(err)
			if a.Ino != e.Ino || a.Size != 1 {
				t.Errorf("%s: %+v", e.Name, a)
			}
		}
		return true
	}))
	if len(before) != 58 {
		t.Fatalf("%d entries were looked up, want 58", len(before))
	}
	for ino, was := range before {
		if got := lookups(ino); got != was+1 {
			t.Errorf("inode %d: %d lookups, want %d", ino, got, was+1)
		}
		r.Forget(ino, 1)
	}
	for k := range r.shards {
		for ino, i := range r.shards[k].inodes {
			if i.refs > 1 || i.refs > 0 && ino != root {
				t.Errorf("inode %d has %d references left", ino, i.refs)
			}
		}
	}
}

func TestPath(t *testing.T) {
	r := newRig(t)
	d := r.mkdir(root, "d")
	e := r.mkdir(d, "e")
	f, err := r.Create(ctx, Caller{}, e, "f", 0o644, 0)
	r.must(err)
	want := func(path string) {
		t.Helper()
		if got := r.Path(f.Ino); got != path {
			t.Errorf("path %q, want %q", got, path)
		}
	}
	want("/d/e/f")
	r.must(r.Rename(ctx, Caller{}, d, "e", root, "moved", 0))
	want("/moved/f")
	r.must(second(r.Link(ctx, Caller{}, f.Ino, root, "other")))
	want("/other")
	r.must(r.Unlink(ctx, Caller{}, root, "other"))
	want(fmt.Sprintf("<inode %d>", f.Ino))
	r.must(second(r.Lookup(ctx, Caller{}, e, "f")))
	want("/moved/f")
	r.must(r.Unlink(ctx, Caller{}, e, "f"))
	want("/moved/f (deleted)")
	if got := r.Path(root); got != "/" {
		t.Errorf("path of the root: %q", got)
	}
	r.Release(f.Ino)
}

// TestOpenUnlinked: an unlinked file keeps its content while it is open or known
// to the kernel, and then gives back its space.
func TestOpenUnlinked(t *testing.T) {
	r := newRig(t)
	free := r.vol.Statfs().Free
	a, err := r.Create(ctx, Caller{}, root, "f", 0o644, 0)
	r.must(err)
	r.write(a.Ino, make([]byte, 1<<20), 0)
	r.must(r.Fsync(ctx, a.Ino, false))
	r.must(r.Unlink(ctx, Caller{}, root, "f"))
	r.Forget(a.Ino, 1)
	r.write(a.Ino, []byte("still"), 0)
	if got := string(r.content(a.Ino)[:5]); got != "still" {
		t.Errorf("content of an open unlinked file: %q", got)
	}
	if now := r.vol.Statfs().Free; now > free-1<<20 {
		t.Errorf("%d bytes are free while the file is open, %d before", now, free)
	}
	r.Release(a.Ino)
	wantErr(t, second(r.GetAttr(ctx, Caller{}, a.Ino)), syscall.ENOENT, "the file after the last use")
	if now := r.vol.Statfs().Free; now != free {
		t.Errorf("%d bytes are free after the last use, %d before", now, free)
	}
}

// TestForgetMuch: more forgets than lookups do no harm.
func TestForgetMuch(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", []byte("x"))
	r.Forget(ino, 1000)
	r.Forget(4711, 1)
	r.Release(ino)
	r.flushed() // and so out of the cache
	if i := r.cached(ino); i != nil && !i.dirty.Load() {
		t.Errorf("a file that nobody knows stays in the cache")
	}
	if got := string(r.content(ino)); got != "x" {
		t.Errorf("content %q", got)
	}
}

func TestExchange(t *testing.T) {
	r := newRig(t)
	d := r.mkdir(root, "d")
	e := r.mkdir(d, "e")
	file := r.file("f", []byte("x"))
	r.must(r.Rename(ctx, Caller{}, d, "e", root, "f", unix.RENAME_EXCHANGE))
	a, err := r.Lookup(ctx, Caller{}, root, "f")
	r.must(err)
	b, err := r.Lookup(ctx, Caller{}, d, "e")
	r.must(err)
	if a.Ino != e || b.Ino != file || a.Parent != root {
		t.Errorf("after the exchange the names lead to %d (parent %d) and %d", a.Ino, a.Parent, b.Ino)
	}
	if r.attr(root).Nlink != 4 || r.attr(d).Nlink != 2 {
		t.Errorf("links of the directories: %d and %d", r.attr(root).Nlink, r.attr(d).Nlink)
	}
	// A directory with the one that it lies in.
	err = r.Rename(ctx, Caller{}, root, "d", root, "f", unix.RENAME_EXCHANGE)
	r.must(err)
	r.mkdir(e, "deep")
	err = r.Rename(ctx, Caller{}, root, "d", e, "deep", unix.RENAME_EXCHANGE)
	wantErr(t, err, syscall.EINVAL, "exchange of a directory with one below it")
}
