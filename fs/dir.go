package fs

import (
	"context"

	"holdfast/extent"
	"holdfast/volume"
)

// dirBatch is how many entries are read at first, about what fits into the page that
// a reader offers. For one who takes more it doubles, up to dirBatchMax.
const dirBatch, dirBatchMax = 32, 256

// Dirent is an entry of a directory, good until the function that it is passed to
// returns.
type Dirent struct {
	Name string
	volume.Entry

	f   *FS
	i   *inode
	err error
}

// Lookup returns the attributes of what the entry led to when the directory was read,
// and counts a lookup, which Forget takes back. What has no name any more is ESTALE,
// and not counted. It is for entries of WalkDir with plus.
func (e *Dirent) Lookup() (Attr, error) {
	if e.err != nil {
		return Attr{}, e.err
	}
	a, err := e.i.getAttr()
	switch {
	case err != nil:
		return Attr{}, err
	case a.Nlink == 0:
		return Attr{}, errGone(e.Ino)
	}
	e.f.lookedUp(e.i)
	return a, nil
}

// ReadDir calls fn for the entries of dir that come after cookie, "." and ".." not
// among them, until it returns false. A cookie stays good while others come and
// go. fn is called with no lock held.
func (f *FS) ReadDir(ctx context.Context, _ Caller, dir extent.Ino, cookie uint64, fn func(name string, ino extent.Ino, typ uint32, cookie uint64) bool) error {
	return f.WalkDir(ctx, dir, cookie, false, func(e *Dirent) bool { return fn(e.Name, e.Ino, e.Type, e.Cookie) })
}

// WalkDir is ReadDir that passes entries, with their inodes at hand for Lookup if plus.
func (f *FS) WalkDir(ctx context.Context, dir extent.Ino, cookie uint64, plus bool, fn func(*Dirent) bool) error {
	return f.withInode(dir, func(d *inode) error {
		var batch []Dirent
		for size := dirBatch; ; size = min(2*size, dirBatchMax) {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			if batch, err = f.readDir(d, cookie, plus, size, batch[:0]); err != nil {
				return err
			}
			wanted := pass(batch, fn)
			for k := range batch {
				if i := batch[k].i; i != nil {
					f.put(i)
				}
			}
			if !wanted || len(batch) < size {
				return nil
			}
			cookie = batch[len(batch)-1].Cookie
		}
	})
}

// pass calls fn for each, until it returns false.
func pass(batch []Dirent, fn func(*Dirent) bool) bool {
	for k := range batch {
		if !fn(&batch[k]) {
			return false
		}
	}
	return true
}

// readDir appends up to size entries to batch. With plus they come with their inodes,
// for the caller to put: of one moment, as no name goes while the directory is locked.
func (f *FS) readDir(d *inode, cookie uint64, plus bool, size int, batch []Dirent) ([]Dirent, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.directory(); err != nil {
		return batch, err
	}
	f.accessed(d)
	err := f.vol.ReadDir(d.ino, cookie, func(name string, e volume.Entry) bool {
		batch = append(batch, Dirent{Name: name, Entry: e, f: f})
		return len(batch) < size
	})
	if err != nil || !plus {
		return batch, err
	}
	for k := range batch {
		e := &batch[k]
		if e.i, e.err = f.get(e.Ino); e.err == nil {
			e.i.metAs(d, e.Name)
		}
	}
	return batch, nil
}
