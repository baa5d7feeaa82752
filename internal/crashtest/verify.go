package crashtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/extent"
	"holdfast/internal/sim"
	"holdfast/store"
	"holdfast/volume"
)

// left is what a crash left, opened again.
type left struct {
	r    *Recording
	vol  *volume.Volume
	used map[int64]int // how often, by address of the block
	seen map[extent.Ino]*volume.Inode
}

// verifyDisk opens a disk as a crash at cut left it, and holds it against what was
// promised until then. It returns the length of the disk's own log once it was
// opened.
func (r *Recording) verifyDisk(ctx context.Context, d *sim.Disk, cut int) (opened int, err error) {
	dev := d.Device()
	st, err := store.Open(metaDir, r.o.storeOptions(d))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	var found []string
	check := volume.Check
	if r.o.DataChecksums {
		check = volume.CheckData
	}
	if _, err := check(ctx, dev, st, func(p volume.Problem) { found = append(found, p.String()) }); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if found != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(found, "; "), ErrUnclean)
	}
	vol, err := volume.Open(ctx, dev, st, volume.Options{})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	opened = d.Pos()
	l := &left{r: r, vol: vol, used: make(map[int64]int), seen: make(map[extent.Ino]*volume.Inode)}
	if err := l.verify(cut); err != nil {
		return opened, err
	}
	return opened, l.verifyBoot(ctx, dev, st, l.bytes())
}

func (l *left) verify(cut int) error {
	got := make(tree)
	if err := l.walk(extent.RootIno, "", got); err != nil {
		return err
	}
	if err := l.r.names.verify(got, cut); err != nil {
		return err
	}
	for ino, n := range l.seen {
		if err := l.verifyFile(l.r.files[ino], n, cut); err != nil {
			return err
		}
	}
	for _, g := range l.r.sizes {
		if i := l.vol.Info(); g.over(cut) && i.Size < g.size {
			return fmt.Errorf("the volume has %d bytes of %d: %w", i.Size, g.size, ErrShrunk)
		}
	}
	for _, g := range l.r.shrunk {
		if i := l.vol.Info(); g.over(cut) && i.Size != g.size && !l.r.grows(cut) {
			return fmt.Errorf("the volume has %d bytes, not %d: %w", i.Size, g.size, ErrShrunk)
		}
	}
	used, shared := l.bytes(), int64(0)
	for _, n := range l.used {
		if n > 1 {
			shared += extent.BlockSize
		}
	}
	if i := l.vol.Info(); i.Free+i.Orphaned+used != i.Total || i.Shared != shared {
		return fmt.Errorf("files have %d bytes, %d of them shared; %d of %d are free, %d shared: %w",
			used, shared, i.Free, i.Total, i.Shared, ErrLeaked)
	}
	if err := l.verifyKept(cut); err != nil {
		return err
	}
	return l.verifyTails()
}

// grows reports whether the volume may have grown at cut.
func (r *Recording) grows(cut int) bool {
	began := func(g growth) bool { return g.began(cut) }
	return slices.ContainsFunc(r.sizes, began) || slices.ContainsFunc(r.tried, began)
}

// bytes returns how much files have.
func (l *left) bytes() int64 { return int64(len(l.used)) * extent.BlockSize }

// walk fills in what a directory leads to.
func (l *left) walk(dir extent.Ino, at string, into tree) error {
	type entry struct {
		name string
		volume.Entry
	}
	var all []entry
	err := l.vol.ReadDir(dir, 0, func(name string, e volume.Entry) bool {
		all = append(all, entry{name, e})
		return true
	})
	if err != nil {
		return err
	}
	for _, e := range all {
		p := at + "/" + e.name
		n, err := l.vol.Load(e.Ino)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		into[p] = node{e.Ino, e.Type, n.Attr.Target}
		switch {
		case n.Attr.IsDir():
			if err := l.walk(e.Ino, p, into); err != nil {
				return err
			}
		case n.Attr.IsRegular():
			l.seen[e.Ino] = n
		}
	}
	return nil
}

func (l *left) verifyFile(f *fileModel, n *volume.Inode, cut int) error {
	if f == nil {
		return fmt.Errorf("inode %d is no file of the workload: %w", n.Ino, ErrNames)
	}
	got := make([]byte, n.Attr.Size)
	if k, err := n.ReadAt(got, 0); err != nil || k != len(got) {
		return fmt.Errorf("file %d: read %d of %d bytes: %w", f.id, k, len(got), errors.Join(err, ErrLost))
	}
	blocks, all := int64(0), int64(0)
	err := n.HomeExtents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
		blocks = e.Off + e.Len
		all += e.Len
		for off := int64(0); off < e.Len; off += extent.BlockSize {
			l.used[e.Addr.Off+off]++
		}
		return true
	})
	if err != nil {
		return err
	}
	if a, err := n.Allocated(); a != all || err != nil {
		return fmt.Errorf("file %d: %d bytes are allocated, %d in extents: %w", f.id, a, all, errors.Join(err, ErrLeaked))
	}
	return f.verify(got, blocks, cut)
}

// verifyTails lets all files grow: what appears must be zeros.
func (l *left) verifyTails() error {
	for ino, n := range l.seen {
		size := n.Attr.Size
		if err := n.Truncate(size + 3*block); err != nil {
			return fmt.Errorf("inode %d: grow: %w", ino, err)
		}
		got := make([]byte, 3*block)
		if _, err := n.ReadAt(got, size); err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
		if i := slices.IndexFunc(got, func(b byte) bool { return b != 0 }); i >= 0 {
			return fmt.Errorf("file %d grown from %d: byte %d is not zero: %w", l.r.files[ino].id, size, size+int64(i), ErrForeign)
		}
	}
	return nil
}
