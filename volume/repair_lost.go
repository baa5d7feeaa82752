package volume

import (
	"fmt"
	"syscall"

	"holdfast/extent"
)

// lostFound is the directory for what has no name.
const lostFound = "lost+found"

// lostInodes makes inodes for blocks whose inode is not there, so that their bytes
// can be looked at.
func (r *repairer) lostInodes() error {
	if err := r.survey(); err != nil {
		return err
	}
	size := make(map[extent.Ino]int64)
	var order []extent.Ino
	err := r.scan(prefixExtent, func(k, v []byte, ok bool) error {
		ino, e, err := decodeExtent(k, v)
		if !ok || err != nil || r.inodes[ino] != nil {
			return nil
		}
		if size[ino] == 0 {
			order = append(order, ino)
		}
		size[ino] = max(size[ino], e.Off+e.Len)
		return nil
	})
	if err != nil {
		return err
	}
	for _, ino := range order {
		a := Attr{Mode: syscall.S_IFREG | 0o600, Size: size[ino], Atime: r.now, Mtime: r.now, Ctime: r.now, Btime: r.now}
		err := r.fix(BadExtent, ino, func(b batcher) { b.Put(inodeKey(ino), encodeAttr(&a)) },
			"made a file of %d bytes for the blocks it has: it was not there", a.Size)
		if err != nil {
			return err
		}
	}
	return nil
}

// root makes a root directory if there is none.
func (r *repairer) root() error {
	if err := r.survey(); err != nil || r.inodes[extent.RootIno] != nil {
		return err
	}
	a := Attr{
		Mode: dirMode | 0o755, Nlink: 2, Parent: extent.RootIno,
		Atime: r.now, Mtime: r.now, Ctime: r.now, Btime: r.now,
	}
	return r.fix(BadEntry, extent.RootIno, func(b batcher) { b.Put(inodeKey(extent.RootIno), encodeAttr(&a)) }, "made the root directory: it was not there")
}

// nameless gives a name to what has none and is not to be deleted.
func (r *repairer) nameless() error {
	if err := r.survey(); err != nil {
		return err
	}
	if !r.inodes[extent.RootIno].isDir() {
		return nil // it is damaged; nothing can be put into it
	}
	for _, ino := range r.sorted() {
		if i := r.inodes[ino]; !i.damaged && !i.orphan && !i.hidden && i.names == 0 && ino != extent.RootIno && ino != r.lost {
			if err := r.adopt(ino, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// adopt gives an inode a name in /lost+found.
func (r *repairer) adopt(ino extent.Ino, i *foundInode) error {
	if err := r.lostDir(); err != nil {
		return err
	}
	at, err := r.unused(r.lost, fmt.Sprint("#", ino))
	if err != nil {
		return err
	}
	e := Entry{Ino: ino, Type: i.kind()}
	if e.Cookie, err = r.v.NewCookie(); err != nil {
		return err
	}
	i.attr.Nlink, i.names = 1, 1
	d := r.inodes[r.lost]
	if i.isDir() {
		i.attr.Nlink, i.attr.Parent = 2+i.subdirs, r.lost
		d.attr.Nlink++
	}
	return r.fix(BadOrphan, ino, func(b batcher) {
		link(b, at, e)
		b.Put(inodeKey(ino), encodeAttr(&i.attr))
		b.Put(inodeKey(r.lost), encodeAttr(&d.attr))
	}, "had no name, is %q now, in directory %d", at.name, r.lost)
}

// unused returns a name that dir does not have.
func (r *repairer) unused(dir extent.Ino, name string) (nameAt, error) {
	for n := 0; ; n++ {
		at := nameAt{dir, name}
		if n > 0 {
			at.name = fmt.Sprintf("%s.%d", name, n)
		}
		if _, there, _, err := r.get(entryKey(dir, at.name)); err != nil || !there {
			return at, err
		}
	}
}

// lostDir finds /lost+found or makes it.
func (r *repairer) lostDir() error {
	if r.lost != 0 {
		return nil
	}
	v, _, ok, err := r.get(entryKey(extent.RootIno, lostFound))
	if err != nil {
		return err
	}
	if e, err := decodeEntry(v); ok && err == nil && r.inodes[e.Ino].isDir() {
		r.lost = e.Ino
		return nil
	}
	at, err := r.unused(extent.RootIno, lostFound)
	if err != nil {
		return err
	}
	e := Entry{Type: syscall.S_IFDIR}
	if e.Ino, err = r.v.NewIno(); err != nil {
		return err
	}
	if e.Cookie, err = r.v.NewCookie(); err != nil {
		return err
	}
	d := &foundInode{names: 1, in: extent.RootIno, attr: Attr{
		Mode: dirMode | 0o700, Nlink: 2, Parent: extent.RootIno,
		Atime: r.now, Mtime: r.now, Ctime: r.now, Btime: r.now,
	}}
	r.lost, r.inodes[e.Ino] = e.Ino, d
	root := r.inodes[extent.RootIno]
	root.attr.Nlink++
	return r.fix(BadOrphan, e.Ino, func(b batcher) {
		link(b, at, e)
		b.Put(inodeKey(e.Ino), encodeAttr(&d.attr))
		b.Put(inodeKey(extent.RootIno), encodeAttr(&root.attr))
	}, "made the directory /%s", at.name)
}
