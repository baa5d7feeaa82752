package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/store"
	"holdfast/volume"
)

// AtRest is a volume that nobody has open, and what must be in it.
type AtRest struct {
	*Recording
}

// Rest runs a workload, makes all of it durable and stops the filesystem.
func Rest(t testing.TB, wl Workload, o Options) AtRest {
	t.Helper()
	w := newWorld(t, wl, o)
	wl.Run(w)
	w.Sync()
	return AtRest{w.recording(w.disk.Pos())}
}

// File is a file of the metadata store.
type File struct {
	Name string
	Size int64
}

// Files returns the files of the store.
func (r AtRest) Files() ([]File, error) {
	fsys := r.Disk.FS()
	list, err := fsys.List(metaDir)
	var out []File
	for _, n := range list {
		p := path.Join(metaDir, n)
		st, serr := fsys.Stat(p)
		if err = errors.Join(err, serr); err == nil {
			out = append(out, File{p, st.Size()})
		}
	}
	return out, err
}

// Rot flips bits of a byte of a file of the store, or of the device if name is empty,
// and opens the volume and reads all of it. Noticed says that something of it was
// refused. The error is a byte or a name that is wrong, or an errno.
func (r AtRest) Rot(ctx context.Context, name string, off int64, mask byte) (noticed error, err error) {
	d := r.Disk.Clone()
	if err := d.Corrupt(name, off, mask); err != nil {
		return nil, err
	}
	dev := d.Device()
	st, err := store.Open(metaDir, r.o.storeOptions(d))
	if err != nil {
		return err, nil
	}
	defer func() { noticed = errors.Join(noticed, st.Close()) }()
	vol, err := volume.Open(ctx, dev, st, volume.Options{})
	if err != nil {
		return err, nil
	}
	err = (&left{r: r.Recording, vol: vol, used: make(map[int64]int), seen: make(map[extent.Ino]*volume.Inode)}).verify(math.MaxInt)
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EUCLEAN) {
		return err, nil
	}
	if err != nil {
		err = fmt.Errorf("byte %d of %q, bits %#x: %w", off, name, mask, err)
	}
	return nil, err
}
