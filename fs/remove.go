package fs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/volume"
)

func isNotExist(err error) bool { return errors.Is(err, syscall.ENOENT) }

// Unlink removes a name. The file lives on while anybody uses it.
func (f *FS) Unlink(_ context.Context, _ Caller, dir extent.Ino, name string) error {
	return f.remove(dir, name, false)
}

// Rmdir removes an empty directory.
func (f *FS) Rmdir(_ context.Context, _ Caller, dir extent.Ino, name string) error {
	return f.remove(dir, name, true)
}

func (f *FS) remove(dir extent.Ino, name string, isDir bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	return f.withInode(dir, func(d *inode) error {
		for {
			e, i, version, unlock, err := f.lockEntry(d, name)
			if err != nil {
				return err
			}
			same := unlock != nil
			if !same { // the file comes before the directory in the order of locks
				unlock = lockAll(d, i)
				same, err = f.unchanged(d, name, e, version)
			}
			if err == nil && same {
				err = f.removeEntry(d, name, e, i, isDir)
			}
			unlock()
			f.put(i)
			if err != nil || same {
				return err
			}
		}
	})
}

// lockEntry looks name up in d, and locks both d and its inode, which the caller puts.
// If they have to be locked the other way round, none is, and unlock is nil.
func (f *FS) lockEntry(d *inode, name string) (e volume.Entry, i *inode, version uint64, unlock func(), err error) {
	d.lock()
	if e, i, err = f.entryOf(d, name); err == nil && d.ino < i.ino {
		i.lock()
		return e, i, d.version, func() { i.mu.Unlock(); d.mu.Unlock() }, nil
	}
	version = d.version
	d.mu.Unlock()
	return e, i, version, nil, err
}

// unchanged reports whether name in d still leads to e, now that d is locked. The
// inode behind e can only be locked once it is known, and was not while it was
// looked up, when d had the version.
func (f *FS) unchanged(d *inode, name string, e volume.Entry, version uint64) (bool, error) {
	if d.version == version {
		return true, nil
	}
	now, err := f.vol.LookupEntry(d.ino, name)
	if isNotExist(err) {
		return e == volume.Entry{}, nil
	}
	return now == e, err
}

func (f *FS) removeEntry(d *inode, name string, e volume.Entry, i *inode, isDir bool) error {
	if err := f.removable(i, name, isDir); err != nil {
		return err
	}
	t := f.begin(d, i)
	f.touch(d)
	t.DelEntry(d.ino, name, e.Cookie)
	f.unlinked(t, d, i)
	if err := t.commit(); err != nil {
		return err
	}
	i.nameGone(d, name)
	return nil
}

// removable checks that i can lose its name, which has to be that of a directory or not. It needs i.mu.
func (f *FS) removable(i *inode, name string, isDir bool) error {
	switch {
	case isDir && !i.n.Attr.IsDir():
		return fmt.Errorf("%q: %w", name, syscall.ENOTDIR)
	case !isDir && i.n.Attr.IsDir():
		return fmt.Errorf("%q: %w", name, syscall.EISDIR)
	case !isDir:
		return nil
	}
	empty, err := f.vol.DirEmpty(i.ino)
	if err == nil && !empty {
		err = fmt.Errorf("%q: %w", name, syscall.ENOTEMPTY)
	}
	return err
}

// unlinked counts the loss of i's name in d. Both are locked and part of t.
func (f *FS) unlinked(t *txn, d, i *inode) {
	at := &i.n.Attr
	at.Nlink--
	if at.IsDir() {
		at.Nlink = 0
		d.n.Attr.Nlink--
	}
	at.Ctime = f.stamp()
	if at.Nlink == 0 {
		t.PutOrphan(i.ino)
	}
}
