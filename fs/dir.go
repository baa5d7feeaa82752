package fs

import (
	"context"

	"holdfast/extent"
	"holdfast/volume"
)

// dirBatch is how many entries are read at a time.
const dirBatch = 128

// ReadDir calls fn for the entries of dir that come after cookie, "." and ".." not
// among them, until it returns false. A cookie stays good while others come and
// go. fn is called with no lock held.
func (f *FS) ReadDir(ctx context.Context, _ Caller, dir extent.Ino, cookie uint64, fn func(name string, ino extent.Ino, typ uint32, cookie uint64) bool) error {
	type named struct {
		name string
		e    volume.Entry
	}
	return f.withInode(dir, func(d *inode) error {
		batch := make([]named, 0, dirBatch)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			batch = batch[:0]
			err := f.readDir(d, cookie, func(name string, e volume.Entry) bool {
				batch = append(batch, named{name, e})
				return len(batch) < dirBatch
			})
			if err != nil {
				return err
			}
			for _, b := range batch {
				if !fn(b.name, b.e.Ino, b.e.Type, b.e.Cookie) {
					return nil
				}
				cookie = b.e.Cookie
			}
			if len(batch) < dirBatch {
				return nil
			}
		}
	})
}

func (f *FS) readDir(d *inode, cookie uint64, fn func(string, volume.Entry) bool) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.directory(); err != nil {
		return err
	}
	f.accessed(d)
	return f.vol.ReadDir(d.ino, cookie, fn)
}
