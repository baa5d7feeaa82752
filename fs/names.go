package fs

import (
	"context"
	"fmt"
	"math"
	"strings"
	"syscall"

	"holdfast/extent"
	"holdfast/volume"
)

const (
	nameMax    = 255
	targetMax  = 4095 // of a symbolic link
	permission = 0o7777
)

// checkName refuses what can be no name in a directory.
func checkName(name string) error {
	switch {
	case len(name) > nameMax:
		return fmt.Errorf("name of %d bytes: %w", len(name), syscall.ENAMETOOLONG)
	case name == "", name == ".", name == "..", strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("name %q: %w", name, syscall.EINVAL)
	}
	return nil
}

// directory refuses what has no names. It needs mu shared.
func (i *inode) directory() error {
	if !i.n.Attr.IsDir() {
		return fmt.Errorf("inode %d: %w", i.ino, syscall.ENOTDIR)
	}
	return nil
}

// living refuses to put a name into a directory that was removed. It needs mu shared.
func (i *inode) living() error {
	if err := i.directory(); err != nil {
		return err
	}
	if i.n.Attr.Nlink == 0 {
		return fmt.Errorf("inode %d was removed: %w", i.ino, syscall.ENOENT)
	}
	return nil
}

// entry looks name up in dir and gets its inode, which the caller puts.
func (f *FS) entry(dir *inode, name string) (volume.Entry, *inode, error) {
	dir.mu.RLock()
	defer dir.mu.RUnlock()
	return f.entryOf(dir, name)
}

// entryOf is entry with dir locked, shared suffices.
func (f *FS) entryOf(dir *inode, name string) (volume.Entry, *inode, error) {
	if err := dir.directory(); err != nil {
		return volume.Entry{}, nil, err
	}
	e, err := f.vol.LookupEntry(dir.ino, name)
	if err != nil {
		return e, nil, err
	}
	i, err := f.get(e.Ino)
	if err != nil {
		return e, nil, err
	}
	i.metAs(dir, name)
	return e, i, nil
}

// Lookup finds a name and counts a lookup, which Forget takes back.
func (f *FS) Lookup(_ context.Context, _ Caller, dir extent.Ino, name string) (a Attr, err error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	err = f.withInode(dir, func(d *inode) error {
		_, i, err := f.entry(d, name)
		if err != nil {
			return err
		}
		defer f.put(i)
		a, err = f.answer(i)
		return err
	})
	return a, err
}

// answer returns the attributes of an inode and counts a lookup of it.
func (f *FS) answer(i *inode) (Attr, error) {
	a, err := i.getAttr()
	if err == nil {
		f.lookedUp(i)
	}
	return a, err
}

// txn is a transaction of the namespace that leaves the attributes in memory as
// they were if it fails. The inodes in it are locked exclusively.
type txn struct {
	*volume.Tx
	f      *FS
	inodes []*inode
	before []volume.Attr
}

func (f *FS) begin(inodes ...*inode) *txn {
	t := &txn{Tx: f.vol.Begin(), f: f}
	for _, i := range inodes {
		t.inodes = append(t.inodes, i)
		t.before = append(t.before, i.n.Attr)
	}
	return t
}

// commit records the inodes' attributes with whatever else is in the transaction, which may be names in them.
func (t *txn) commit() error {
	for _, i := range t.inodes {
		t.PutInode(i.n)
		i.version++
	}
	err := t.Commit()
	if err != nil {
		t.undo()
	}
	return err
}

// undo makes the attributes in memory what they were.
func (t *txn) undo() {
	for k, i := range t.inodes {
		i.n.Attr = t.before[k]
	}
}

// Create makes a regular file, looked up and opened.
func (f *FS) Create(ctx context.Context, c Caller, dir extent.Ino, name string, mode, _ uint32) (Attr, error) {
	return f.create(c, dir, name, volume.Attr{Mode: syscall.S_IFREG | mode&permission}, f.opened)
}

// Mknod makes a regular or special file.
func (f *FS) Mknod(_ context.Context, c Caller, dir extent.Ino, name string, mode, rdev uint32) (Attr, error) {
	switch mode & syscall.S_IFMT {
	case 0:
		mode |= syscall.S_IFREG
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
	default:
		return Attr{}, fmt.Errorf("mknod with mode %#o: %w", mode, syscall.EINVAL)
	}
	return f.create(c, dir, name, volume.Attr{Mode: mode & (syscall.S_IFMT | permission), Rdev: rdev}, nil)
}

// Mkdir makes a directory.
func (f *FS) Mkdir(_ context.Context, c Caller, dir extent.Ino, name string, mode uint32) (Attr, error) {
	return f.create(c, dir, name, volume.Attr{Mode: syscall.S_IFDIR | mode&permission}, nil)
}

// Symlink makes a symbolic link.
func (f *FS) Symlink(_ context.Context, c Caller, dir extent.Ino, name, target string) (Attr, error) {
	if target == "" {
		return Attr{}, fmt.Errorf("empty target: %w", syscall.ENOENT)
	}
	if len(target) > targetMax {
		return Attr{}, fmt.Errorf("target of %d bytes: %w", len(target), syscall.ENAMETOOLONG)
	}
	return f.create(c, dir, name, volume.Attr{Mode: syscall.S_IFLNK | 0o777, Target: target}, nil)
}

// create makes a file with the given mode, device and target. prepare is called before anybody else can see it.
func (f *FS) create(c Caller, dir extent.Ino, name string, a volume.Attr, prepare func(*inode)) (out Attr, err error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	err = f.withInode(dir, func(d *inode) error {
		d.lock()
		i, err := f.makeEntry(c, d, name, a)
		if err == nil {
			if prepare != nil {
				prepare(i)
			}
			out, err = f.answer(i)
		}
		d.mu.Unlock()
		if i != nil {
			f.put(i)
		}
		return err
	})
	return out, err
}

// makeEntry makes the file in d, which is locked, and returns it with a reference.
func (f *FS) makeEntry(c Caller, d *inode, name string, a volume.Attr) (*inode, error) {
	if err := d.living(); err != nil {
		return nil, err
	}
	if err := f.absent(d, name); err != nil {
		return nil, err
	}
	t := f.begin(d)
	a.Nlink = 1
	if a.IsDir() {
		if d.n.Attr.Nlink == math.MaxUint32 {
			return nil, fmt.Errorf("inode %d: %w", d.ino, syscall.EMLINK)
		}
		a.Nlink, a.Parent = 2, d.ino
		d.n.Attr.Nlink++
	}
	f.touch(d)
	n, err := f.newFile(t, c, d, a)
	if err != nil {
		t.undo()
		return nil, err
	}
	t.PutEntry(d.ino, name, volume.Entry{Ino: n.Ino, Type: a.Mode & syscall.S_IFMT})
	if err := t.commit(); err != nil {
		return nil, err
	}
	i := f.adopt(n)
	i.hint.Store(&hint{parent: d, name: name})
	return i, nil
}

// newFile puts a new file into t, with what it has from its maker and from the
// directory d, which is locked.
func (f *FS) newFile(t *txn, c Caller, d *inode, a volume.Attr) (*volume.Inode, error) {
	ino, err := f.vol.NewIno()
	if err != nil {
		return nil, err
	}
	a.UID, a.GID = c.UID, c.GID
	if d.n.Attr.Mode&syscall.S_ISGID != 0 {
		a.GID = d.n.Attr.GID
		if a.IsDir() {
			a.Mode |= syscall.S_ISGID
		}
	}
	lists, err := f.inherit(d, &a, c.Umask)
	if err != nil {
		return nil, err
	}
	now := f.stamp()
	a.Atime, a.Mtime, a.Ctime, a.Btime = now, now, now, now
	n := f.vol.New(ino, a)
	t.PutInode(n)
	for name, value := range lists {
		t.PutXattr(ino, name, value)
	}
	return n, nil
}

// Tmpfile makes a regular file without a name, looked up and opened. Link can give
// it one; else it goes with its last user, or at the next start.
func (f *FS) Tmpfile(_ context.Context, c Caller, dir extent.Ino, mode uint32) (out Attr, err error) {
	err = f.withInode(dir, func(d *inode) error {
		d.lock()
		i, err := f.makeNameless(c, d, volume.Attr{Mode: syscall.S_IFREG | mode&permission})
		d.mu.Unlock()
		if err != nil {
			return err
		}
		defer f.put(i)
		if out, err = f.answer(i); err == nil {
			f.opened(i)
		}
		return err
	})
	return out, err
}

func (f *FS) makeNameless(c Caller, d *inode, a volume.Attr) (*inode, error) {
	if err := d.living(); err != nil {
		return nil, err
	}
	t := f.begin()
	n, err := f.newFile(t, c, d, a)
	if err != nil {
		return nil, err
	}
	t.PutOrphan(n.Ino)
	if err := t.commit(); err != nil {
		return nil, err
	}
	i := f.adopt(n)
	i.linkable = true
	i.hint.Store(&hint{parent: d, name: fmt.Sprintf("#%d", n.Ino), deleted: true})
	return i, nil
}

// opened counts a use of i, which nobody else knows yet, until Release.
func (f *FS) opened(i *inode) {
	i.opens++
	f.retain(i)
}

// absent returns EEXIST if d has the name. It needs d.mu.
func (f *FS) absent(d *inode, name string) error {
	_, err := f.vol.LookupEntry(d.ino, name)
	if err == nil {
		return fmt.Errorf("%q: %w", name, syscall.EEXIST)
	}
	if isNotExist(err) {
		return nil
	}
	return err
}

// Link gives a file another name.
func (f *FS) Link(_ context.Context, _ Caller, ino, dir extent.Ino, name string) (a Attr, err error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	err = f.withInode(dir, func(d *inode) error {
		return f.withInode(ino, func(i *inode) error {
			if err := f.link(i, d, name); err != nil {
				return err
			}
			a, err = f.answer(i)
			return err
		})
	})
	return a, err
}

func (f *FS) link(i, d *inode, name string) error {
	unlock := lockAll(i, d)
	defer unlock()
	if err := d.living(); err != nil {
		return err
	}
	switch at := &i.n.Attr; {
	case at.IsDir():
		return fmt.Errorf("link to a directory: %w", syscall.EPERM)
	case at.Nlink == 0 && !i.linkable:
		return fmt.Errorf("inode %d has no name any more: %w", i.ino, syscall.ENOENT)
	case at.Nlink == math.MaxUint32:
		return fmt.Errorf("inode %d: %w", i.ino, syscall.EMLINK)
	}
	if err := f.absent(d, name); err != nil {
		return err
	}
	t := f.begin(d, i)
	f.touch(d)
	if i.n.Attr.Nlink == 0 {
		t.DelOrphan(i.ino)
	}
	i.n.Attr.Nlink++
	i.n.Attr.Ctime = d.n.Attr.Ctime
	t.PutEntry(d.ino, name, volume.Entry{Ino: i.ino, Type: i.n.Attr.Mode & syscall.S_IFMT})
	if err := t.commit(); err != nil {
		return err
	}
	i.linkable = false
	i.hint.Store(&hint{parent: d, name: name})
	return nil
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(_ context.Context, _ Caller, ino extent.Ino) (target string, err error) {
	err = f.withInode(ino, func(i *inode) error {
		i.mu.RLock()
		defer i.mu.RUnlock()
		if !isType(i.n.Attr.Mode, syscall.S_IFLNK) {
			return fmt.Errorf("inode %d is not a symbolic link: %w", ino, syscall.EINVAL)
		}
		target = i.n.Attr.Target
		f.accessed(i)
		return nil
	})
	return target, err
}
