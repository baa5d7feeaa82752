package volume

import (
	"errors"
	"maps"
	"slices"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// readExtents goes through the map file → blocks and looks each up in the other.
func (c *checker) readExtents() error {
	var last extent.Ino
	var pos int64
	return c.scan(prefixExtent, func(k, v []byte) error {
		ino, e, err := decodeExtent(k, v)
		if err != nil {
			return err
		}
		c.sum.Extents++
		if ino != last {
			last, pos = ino, 0
		}
		if i, ok := c.inodes[ino]; !ok || i.kind() != syscall.S_IFREG {
			c.problem(BadExtent, ino, "has the extent %v but is no file", e.Range())
		}
		if e.Off < pos {
			c.problem(BadExtent, ino, "extent %v overlaps the one before, which ends at %d", e.Range(), pos)
		}
		pos = e.Off + e.Len
		if e.Addr.Off < dataStart || e.Addr.Off+e.Len > c.size {
			c.problem(BadExtent, ino, "extent %v at %v leaves the device", e.Range(), e.Addr)
		}
		b, err := c.st.Get(ownerKey(e.Addr, e.Len, ino, pos))
		switch n, derr := decodeNumber(b); {
		case errors.Is(err, store.ErrNotFound):
			c.problem(BadOwner, ino, "extent %v at %v has no owner record", e.Range(), e.Addr)
		case err != nil:
			return err
		case derr == nil && int64(n) != e.Len: // else the pass over the owners tells
			c.problem(BadOwner, ino, "extent %v at %v: owner record says %d bytes", e.Range(), e.Addr, n)
		}
		return nil
	})
}

// readHeld looks at the records of orphaned blocks.
func (c *checker) readHeld() error {
	return c.scan(prefixHeld, func(k, v []byte) error {
		if len(k) == len(bootKey) {
			return nil
		}
		o, err := decodeOrphan(k, v)
		if err != nil {
			return err
		}
		if o.Addr < dataStart || o.Addr+o.Len > c.size {
			c.problem(BadOrphaned, 0, "blocks %v leave the device", o.rng())
			return nil
		}
		c.held.add(o.rng())
		return nil
	})
}

// use is how often a block is used.
type use struct {
	refs  int
	plain bool       // by an extent that does not say that it is shared
	ino   extent.Ino // the last that was met
}

// readOwners goes through the map blocks → file.
func (c *checker) readOwners() error {
	cover := coverage[use]{pos: dataStart, done: func(r extent.Range, u use) {
		if u.refs > 0 {
			c.sum.Used += r.Len()
			c.held.remove(r) // the file was about to give them up
		}
		if u.refs > 1 {
			c.sum.Shared += r.Len()
		}
	}}
	err := c.scan(prefixOwner, func(k, v []byte) error {
		o, err := decodeOwner(k, v)
		if err != nil {
			return err
		}
		if o.addr.Seg != extent.Device {
			c.problem(BadOwner, o.ino, "owner record in segment %d", o.addr.Seg)
			return nil
		}
		end := o.addr.Off + o.len
		b, err := c.st.Get(extentKey(o.ino, o.end))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		e := extent.Extent{}
		switch _, found, derr := decodeExtent(extentKey(o.ino, o.end), b); {
		case err != nil:
			c.problem(BadOwner, o.ino, "owns [%d,%d) for %d, where it has no extent", o.addr.Off, end, o.end)
		case derr == nil && (found.Addr != o.addr || found.Len != o.len):
			c.problem(BadOwner, o.ino, "owns [%d,%d) for %d, where it has another extent", o.addr.Off, end, o.end)
		default:
			e = found
		}
		c.used(&cover, o, !e.Shared)
		return nil
	})
	cover.finish(c.size)
	return err
}

// used adds an owner to what is known of its blocks.
func (c *checker) used(cover *coverage[use], o owner, plain bool) {
	told := false
	cover.add(extent.Range{Off: o.addr.Off, End: o.addr.Off + o.len}, func(r extent.Range, u use) use {
		if u.refs > 0 && (plain || u.plain) && !told {
			c.problem(SharedBlock, o.ino, "blocks from %d on belong to inode %d, too", r.Off, u.ino)
			told = true
		}
		return use{u.refs + 1, u.plain || plain, o.ino}
	})
}

// readSums looks at the records of checksums. Which blocks have one says nothing: those
// of freed blocks stay.
func (c *checker) readSums() error {
	return c.scan(prefixSums, func(k, v []byte) error {
		n, _, err := decodeSums(k, v)
		if err != nil {
			return err
		}
		c.sum.Sums++
		if !c.summed || n*sumSpan >= c.size {
			c.problem(BadSum, 0, "checksums of blocks at %d, where there are none", n*sumSpan)
		}
		return nil
	})
}

// strangers reports keys that no release of this format writes.
func (c *checker) strangers() error {
	known := []byte{
		prefixSuper, prefixCounter, prefixInode, prefixEntry, prefixCookie,
		prefixExtent, prefixOwner, prefixOrphan, prefixIntent, prefixXattr, prefixSums,
		prefixWindow, prefixHeld,
	}
	slices.Sort(known)
	lower := []byte{1} // what begins with zero is the store's own
	for i := 0; i <= len(known); i++ {
		var upper []byte // to the end
		if i < len(known) {
			upper = known[i : i+1]
		}
		err := c.st.Reader.Scan(lower, upper, func(k, _ []byte) (bool, error) {
			c.problem(BadRecord, 0, "unknown key %q", k)
			return true, c.ctx.Err()
		})
		if err != nil {
			return err
		}
		if upper != nil {
			lower = []byte{upper[0] + 1}
		}
	}
	return nil
}

// links compares the counts of links with the names that were found.
func (c *checker) links() error {
	if i, ok := c.inodes[extent.RootIno]; !ok || i.kind() != syscall.S_IFDIR {
		c.problem(BadEntry, extent.RootIno, "the root directory is not there")
	}
	for _, ino := range slices.Sorted(maps.Keys(c.inodes)) {
		i := c.inodes[ino]
		// What is being deleted may have lost some already.
		if i.xattrs != i.says && !i.orphan {
			c.problem(BadXattr, ino, "has %d extended attributes, says %d", i.xattrs, i.says)
		}
		want := i.names
		if i.kind() == syscall.S_IFDIR {
			if ino == extent.RootIno {
				want++
			}
			if want > 1 {
				c.problem(BadLinks, ino, "directory with %d names", want)
			}
			if want > 0 {
				want = 2 + i.subdirs
			}
			if i.names > 0 && i.in != i.parent {
				c.problem(BadParent, ino, "says its parent is %d, its name is in %d", i.parent, i.in)
			}
		}
		if i.nlink != want {
			c.problem(BadLinks, ino, "link count %d, found %d", i.nlink, want)
		}
		switch {
		case i.orphan && want > 0:
			c.problem(BadOrphan, ino, "is to be deleted but has a name")
		case !i.orphan && want == 0:
			c.problem(BadOrphan, ino, "has no name and is not to be deleted")
		}
	}
	return nil
}

// loops finds directories from which no way leads to the root.
func (c *checker) loops() error {
	good := map[extent.Ino]bool{extent.RootIno: true}
	for _, ino := range slices.Sorted(maps.Keys(c.inodes)) {
		if i := c.inodes[ino]; i.kind() != syscall.S_IFDIR || i.names == 0 {
			continue
		}
		var way []extent.Ino
		seen := make(map[extent.Ino]bool)
		at := ino
		for !good[at] && !seen[at] {
			seen[at] = true
			way = append(way, at)
			i, ok := c.inodes[at]
			if !ok || i.names == 0 {
				at = 0 // in a directory that is being deleted, or not there
				break
			}
			at = i.in
		}
		if !good[at] {
			c.problem(BadParent, ino, "cannot be reached from the root")
			continue
		}
		for _, w := range way {
			good[w] = true
		}
	}
	return nil
}

// counters checks that no number in use will be given out again.
func (c *checker) counters() error {
	for _, n := range []struct {
		name string
		used uint64
	}{{"ino", c.maxIno}, {"cookie", c.maxCookie}, {"segment", max(c.maxSegment, uint64(extent.Device))}} {
		next := uint64(0)
		b, err := c.st.Get(counterKey(n.name))
		if err == nil {
			next, err = decodeNumber(b)
		}
		switch {
		case err == nil:
		case errors.Is(err, ErrCorrupt):
			c.problem(BadRecord, 0, "counter %s: %v", n.name, err)
			continue
		case !errors.Is(err, store.ErrNotFound):
			return err
		// Nothing was given out yet; the root is there from the beginning.
		case n.name == "ino":
			next = uint64(extent.RootIno) + 1
		default:
			next = firstCookie
		}
		if n.used >= next {
			c.problem(BadCounter, 0, "counter %s gives %d next, %d is in use", n.name, next, n.used)
		}
	}
	return nil
}
