package fs

import (
	"context"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/volume"
)

// Rename moves a name, over another one if it exists. flags are those of
// renameat2(2) without RENAME_WHITEOUT.
func (f *FS) Rename(_ context.Context, _ Caller, dir extent.Ino, from string, newDir extent.Ino, to string, flags uint32) error {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 || flags == unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE {
		return fmt.Errorf("rename flags %#x: %w", flags, syscall.EINVAL)
	}
	for _, name := range [...]string{from, to} {
		if err := checkName(name); err != nil {
			return err
		}
	}
	return f.withInode(dir, func(d *inode) error {
		return f.withInode(newDir, func(nd *inode) error {
			for {
				r := rename{f: f, from: place{dir: d, name: from}, to: place{dir: nd, name: to}, flags: flags}
				if done, err := r.try(); done || err != nil {
					return err
				}
			}
		})
	})
}

// place is a name in a directory and what it leads to.
type place struct {
	dir     *inode
	name    string
	e       volume.Entry // zero if there is no such name
	i       *inode       // nil if there is no such name
	version uint64       // of dir, when the name was looked up
}

func (p *place) isDir() bool { return p.e.Type == syscall.S_IFDIR }

func (p *place) find(f *FS) (err error) {
	p.dir.mu.RLock()
	defer p.dir.mu.RUnlock()
	p.version = p.dir.version
	p.e, p.i, err = f.entryOf(p.dir, p.name)
	return err
}

func (p *place) put(f *FS) {
	if p.i != nil {
		f.put(p.i)
	}
}

// rename is one Rename under way.
type rename struct {
	f        *FS
	from, to place
	flags    uint32
}

// try does the rename, unless one of the names changed between being looked up
// and being locked.
func (r *rename) try() (done bool, err error) {
	f := r.f
	if err := r.from.find(f); err != nil {
		return false, err
	}
	defer r.from.put(f)
	if err := r.to.find(f); err != nil && !isNotExist(err) {
		return false, err
	}
	defer r.to.put(f)
	if r.from.dir != r.to.dir && (r.from.isDir() || r.exchange() && r.to.isDir()) {
		f.renameMu.Lock()
		defer f.renameMu.Unlock()
		if err := r.checkLoops(); err != nil {
			return false, err
		}
	}
	unlock := lockAll(r.from.dir, r.to.dir, r.from.i, r.to.i)
	defer unlock()
	for _, p := range [...]*place{&r.from, &r.to} {
		if same, err := f.unchanged(p.dir, p.name, p.e, p.version); err != nil || !same {
			return false, err
		}
	}
	return true, r.apply()
}

func (r *rename) exchange() bool { return r.flags == unix.RENAME_EXCHANGE }

// checkLoops refuses to move a directory into itself or below. renameMu is held,
// and no directory changes its parent without.
func (r *rename) checkLoops() error {
	if err := r.f.notBelow(r.to.dir, r.from.i); err != nil {
		return err
	}
	if r.exchange() && r.to.i != nil {
		return r.f.notBelow(r.from.dir, r.to.i)
	}
	return nil
}

// notBelow returns EINVAL if dir is i or lies below it.
func (f *FS) notBelow(dir, i *inode) error {
	for ino := dir.ino; ; {
		if ino == i.ino {
			return fmt.Errorf("inode %d would lie below itself: %w", i.ino, syscall.EINVAL)
		}
		if ino == extent.RootIno {
			return nil
		}
		err := f.withInode(ino, func(d *inode) error {
			d.mu.RLock()
			defer d.mu.RUnlock()
			ino = d.n.Attr.Parent
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// apply does the rename with all four inodes locked.
func (r *rename) apply() error {
	if err := r.to.dir.living(); err != nil {
		return err
	}
	switch {
	case r.exchange() && r.to.i == nil:
		return fmt.Errorf("%q: %w", r.to.name, syscall.ENOENT)
	case r.flags == unix.RENAME_NOREPLACE && r.to.i != nil:
		return fmt.Errorf("%q: %w", r.to.name, syscall.EEXIST)
	case r.from.i == r.to.i:
		return nil // two names of one file: POSIX wants nothing done
	case r.exchange():
		return r.swap()
	case r.to.i != nil:
		if err := r.f.removable(r.to.i, r.to.name, r.from.isDir()); err != nil {
			return err
		}
	}
	return r.move()
}

// inodes returns those that take part, each once.
func (r *rename) inodes() []*inode {
	out := []*inode{r.from.dir, r.from.i}
	if r.to.dir != r.from.dir {
		out = append(out, r.to.dir)
	}
	if r.to.i != nil {
		out = append(out, r.to.i)
	}
	return out
}

func (r *rename) move() error {
	f, from, to := r.f, &r.from, &r.to
	t := f.begin(r.inodes()...)
	t.DelEntry(from.dir.ino, from.name, from.e.Cookie)
	cookie := to.e.Cookie // a name that is replaced keeps its place; a new one gets the next
	if to.i != nil {
		f.unlinked(t, to.dir, to.i)
	}
	t.PutEntry(to.dir.ino, to.name, volume.Entry{Ino: from.i.ino, Type: from.e.Type, Cookie: cookie})
	reparent(from.i, from.dir, to.dir)
	r.stamp()
	if err := t.commit(); err != nil {
		return err
	}
	if to.i != nil {
		to.i.nameGone(to.dir, to.name)
	}
	from.i.hint.Store(&hint{parent: to.dir, name: to.name})
	return nil
}

// swap exchanges what two names lead to.
func (r *rename) swap() error {
	f, from, to := r.f, &r.from, &r.to
	t := f.begin(r.inodes()...)
	t.PutEntry(from.dir.ino, from.name, volume.Entry{Ino: to.i.ino, Type: to.e.Type, Cookie: from.e.Cookie})
	t.PutEntry(to.dir.ino, to.name, volume.Entry{Ino: from.i.ino, Type: from.e.Type, Cookie: to.e.Cookie})
	reparent(from.i, from.dir, to.dir)
	reparent(to.i, to.dir, from.dir)
	r.stamp()
	if err := t.commit(); err != nil {
		return err
	}
	from.i.hint.Store(&hint{parent: to.dir, name: to.name})
	to.i.hint.Store(&hint{parent: from.dir, name: from.name})
	return nil
}

// stamp sets the times of all that take part.
func (r *rename) stamp() {
	r.f.touch(r.from.dir)
	now := r.from.dir.n.Attr.Ctime
	r.to.dir.n.Attr.Mtime, r.to.dir.n.Attr.Ctime = now, now
	r.from.i.n.Attr.Ctime = now
	if r.to.i != nil {
		r.to.i.n.Attr.Ctime = now
	}
}

// reparent moves a directory's ".." from one directory to another.
func reparent(i, from, to *inode) {
	if !i.n.Attr.IsDir() || from == to {
		return
	}
	i.n.Attr.Parent = to.ino
	from.n.Attr.Nlink--
	to.n.Attr.Nlink++
}
