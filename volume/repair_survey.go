package volume

import (
	"maps"
	"slices"
	"syscall"

	"holdfast/extent"
)

// foundInode is what a survey knows of an inode.
type foundInode struct {
	attr    Attr
	damaged bool // it has a record that makes no sense; nothing that leads to it is touched
	orphan  bool
	names   uint32
	in      extent.Ino // where the last of the names is
	hidden  bool       // it has a name in a directory that is damaged
	subdirs uint32
	full    bool // a directory that has names, or what was one
	vague   bool // a directory with names that cannot be counted
	xattrs  uint32
	rotten  bool // some of the extended attributes are damaged
}

func (i *foundInode) kind() uint32 { return i.attr.Mode & syscall.S_IFMT }

func (i *foundInode) isDir() bool { return i != nil && !i.damaged && i.kind() == syscall.S_IFDIR }

// survey reads what inodes there are and what leads to them.
func (r *repairer) survey() error {
	if err := r.apply(); err != nil {
		return err
	}
	r.inodes = make(map[extent.Ino]*foundInode)
	for _, read := range []func() error{r.surveyInodes, r.surveyOrphans, r.surveyEntries, r.surveyXattrs} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// sorted returns the inodes in order.
func (r *repairer) sorted() []extent.Ino { return slices.Sorted(maps.Keys(r.inodes)) }

func (r *repairer) surveyInodes() error {
	return r.scan(prefixInode, func(k, v []byte, ok bool) error {
		n, whole := numbers(k, 1)
		if !whole {
			return nil
		}
		i := &foundInode{damaged: !ok}
		var err error
		if ok {
			i.attr, err = decodeAttr(v)
		}
		switch i.kind() {
		case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
		default:
			i.damaged = true
		}
		i.damaged = i.damaged || err != nil
		r.inodes[extent.Ino(n[0])] = i
		return nil
	})
}

func (r *repairer) surveyOrphans() error {
	return r.scan(prefixOrphan, func(k, _ []byte, _ bool) error {
		if n, ok := numbers(k, 1); ok && r.inodes[extent.Ino(n[0])] != nil {
			r.inodes[extent.Ino(n[0])].orphan = true
		}
		return nil
	})
}

func (r *repairer) surveyEntries() error {
	return r.eachEntry(func(at nameAt, e Entry, ok bool) error {
		d := r.inodes[at.dir]
		if d == nil {
			return nil
		}
		i := r.inodes[e.Ino]
		switch {
		case !ok:
			d.vague, d.full = true, true
		case d.damaged && i != nil:
			i.hidden = true
		case !d.isDir() || i == nil:
		case i.damaged:
			d.vague, d.full = true, true
		default:
			d.full = true
			i.names++
			if i.in = at.dir; i.isDir() {
				d.subdirs++
			}
		}
		return nil
	})
}

func (r *repairer) surveyXattrs() error {
	return r.scan(prefixXattr, func(k, v []byte, ok bool) error {
		ino, _, err := decodeXattrKey(k)
		if i := r.inodes[ino]; err == nil && i != nil {
			i.xattrs++
			i.rotten = i.rotten || !ok
		}
		return nil
	})
}

// nameAt is where a name is.
type nameAt struct {
	dir  extent.Ino
	name string
}

// eachEntry goes through the names. ok is false for an entry that makes no sense.
func (r *repairer) eachEntry(fn func(at nameAt, e Entry, ok bool) error) error {
	return r.scan(prefixEntry, func(k, v []byte, ok bool) error {
		if len(k) < 10 {
			return nil
		}
		n, _ := numbers(k[:9], 1)
		e, err := decodeEntry(v)
		if !ok || err != nil {
			e, ok = Entry{}, false
		}
		return fn(nameAt{extent.Ino(n[0]), string(k[9:])}, e, ok)
	})
}
