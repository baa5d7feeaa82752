package volume

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"

	"holdfast/extent"
)

// unlink removes a name, and its place in the order if that is its own.
func (r *repairer) unlink(b batcher, at nameAt, e Entry) error {
	b.Delete(entryKey(at.dir, at.name))
	v, _, ok, err := r.get(cookieKey(at.dir, e.Cookie))
	if err != nil || !ok {
		return err
	}
	if _, name, err := decodeCookie(cookieKey(at.dir, e.Cookie), v); err == nil && name == at.name {
		b.Delete(cookieKey(at.dir, e.Cookie))
	}
	return nil
}

// removeName is a fix.
func (r *repairer) removeName(k ProblemKind, at nameAt, e Entry, format string, args ...any) error {
	var err error
	ferr := r.fix(k, at.dir, func(b batcher) { err = r.unlink(b, at, e) }, format, args...)
	if err != nil {
		return err
	}
	return ferr
}

func link(b batcher, at nameAt, e Entry) {
	b.Put(entryKey(at.dir, at.name), encodeEntry(e))
	b.Put(cookieKey(at.dir, e.Cookie), encodeCookie(e, at.name))
}

// entries removes names that lead nowhere, and mends those that say the wrong.
func (r *repairer) entries() error {
	if err := r.survey(); err != nil {
		return err
	}
	return r.eachEntry(func(at nameAt, e Entry, ok bool) error {
		d, i := r.inodes[at.dir], r.inodes[e.Ino]
		switch {
		case d != nil && d.damaged:
			return nil
		case !d.isDir():
			if !ok {
				return nil
			}
			return r.removeName(BadEntry, at, e, "removed the name %q of inode %d: it was in no directory", at.name, e.Ino)
		case !ok:
			return r.entryOfCookie(at)
		case e.Ino == extent.RootIno:
			return r.removeName(BadEntry, at, e, "removed the name %q of the root directory", at.name)
		case i == nil:
			return r.removeName(BadEntry, at, e, "removed the name %q of inode %d, which is not there", at.name, e.Ino)
		case i.damaged:
			return nil
		case e.Type != i.kind():
			e.Type = i.kind()
			if err := r.fix(BadEntry, at.dir, func(b batcher) { link(b, at, e) }, "name %q says type %o, as its inode does", at.name, e.Type); err != nil {
				return err
			}
		}
		return r.placeOf(at, e)
	})
}

// placeOf gives a name its place in the order of its directory.
func (r *repairer) placeOf(at nameAt, e Entry) error {
	if err := r.apply(); err != nil {
		return err
	}
	v, there, ok, err := r.get(cookieKey(at.dir, e.Cookie))
	if err != nil || ok && bytes.Equal(v, encodeCookie(e, at.name)) {
		return err
	}
	if there && ok {
		// It may be that of another name, and rightly so.
		if _, name, err := decodeCookie(cookieKey(at.dir, e.Cookie), v); err == nil && name != at.name {
			b, _, ok, err := r.get(entryKey(at.dir, name))
			if err != nil {
				return err
			}
			if other, err := decodeEntry(b); ok && err == nil && other.Cookie == e.Cookie {
				if e.Cookie, err = r.v.NewCookie(); err != nil {
					return err
				}
			}
		}
	}
	return r.fix(BadCookie, at.dir, func(b batcher) { link(b, at, e) }, "name %q has the place %d in the order", at.name, e.Cookie)
}

// entryOfCookie writes a damaged name anew if its place in the order tells what it
// said.
func (r *repairer) entryOfCookie(at nameAt) error {
	var found []Entry
	err := r.v.st.Reader.Scan(cookieKey(at.dir, 0), after(prefixCookie, uint64(at.dir)), func(k, v []byte) (bool, error) {
		v, err := unseal(k, v)
		if err != nil {
			return true, nil // that nameAt tells nothing
		}
		if e, name, err := decodeCookie(k, v); err == nil && name == at.name {
			found = append(found, e)
		}
		return true, r.ctx.Err()
	})
	if err != nil || len(found) != 1 {
		return err
	}
	e := found[0]
	if i := r.inodes[e.Ino]; i == nil || i.damaged || i.kind() != e.Type {
		return nil
	}
	return r.fix(BadEntry, at.dir, func(b batcher) { link(b, at, e) }, "name %q leads to inode %d, as its place in the order says", at.name, e.Ino)
}

// cookies removes places of names that are not there. If it is the only thing that
// still names a file, the name comes back.
func (r *repairer) cookies() error {
	if err := r.survey(); err != nil {
		return err
	}
	return r.scan(prefixCookie, func(k, v []byte, ok bool) error {
		n, whole := numbers(k, 2)
		if !whole {
			return nil
		}
		dir := extent.Ino(n[0])
		d := r.inodes[dir]
		if d != nil && d.damaged {
			return nil
		}
		remove := func() error {
			return r.fix(BadCookie, dir, func(b batcher) { b.Delete(cookieKey(dir, n[1])) }, "removed the place %d in the order: no name has it", n[1])
		}
		e, name, err := decodeCookie(k, v)
		if !ok || err != nil {
			if d != nil && d.vague {
				return nil // it may be of a name that is damaged, too
			}
			return remove()
		}
		at := nameAt{dir, name}
		b, there, ok, err := r.get(entryKey(dir, name))
		if err != nil || there && !ok {
			return err
		}
		if there {
			got, err := decodeEntry(b)
			if err != nil || got.Cookie == e.Cookie {
				return nil
			}
			return remove()
		}
		i := r.inodes[e.Ino]
		if !d.isDir() || i == nil || i.damaged || i.orphan || i.hidden || i.names > 0 || i.kind() != e.Type {
			return remove()
		}
		i.names++
		return r.fix(BadCookie, dir, func(b batcher) { link(b, at, e) }, "name %q leads to inode %d again, which had no other", name, e.Ino)
	})
}

// manyNames leaves a directory one name: that in the directory which it says.
func (r *repairer) manyNames() error {
	if err := r.survey(); err != nil {
		return err
	}
	type named struct {
		nameAt
		Entry
	}
	all := make(map[extent.Ino][]named)
	err := r.eachEntry(func(at nameAt, e Entry, ok bool) error {
		if i := r.inodes[e.Ino]; ok && i.isDir() && i.names > 1 {
			all[e.Ino] = append(all[e.Ino], named{at, e})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, ino := range r.sorted() {
		names := all[ino]
		keep := max(0, slices.IndexFunc(names, func(n named) bool { return n.dir == r.inodes[ino].attr.Parent }))
		for k, n := range names {
			if k == keep {
				continue
			}
			if err := r.removeName(BadLinks, n.nameAt, n.Entry, "removed the name %q of directory %d, which has another", n.name, ino); err != nil {
				return err
			}
		}
	}
	return nil
}

// loops takes a directory out of each loop.
func (r *repairer) loops() error {
	if err := r.survey(); err != nil {
		return err
	}
	done := make(map[extent.Ino]bool)
	out := make(map[extent.Ino]bool)
	for _, ino := range r.sorted() {
		way := make(map[extent.Ino]bool)
		at := ino
		for !done[at] && !way[at] && at != extent.RootIno {
			if i := r.inodes[at]; !i.isDir() || i.names == 0 {
				break
			}
			way[at] = true
			at = r.inodes[at].in
		}
		if way[at] && !done[at] {
			out[at] = true
		}
		for w := range way {
			done[w] = true
		}
	}
	if len(out) == 0 {
		return nil
	}
	return r.eachEntry(func(at nameAt, e Entry, ok bool) error {
		if d := r.inodes[at.dir]; !ok || !out[e.Ino] || !d.isDir() {
			return nil
		}
		return r.removeName(BadParent, at, e, "removed the name %q of directory %d, which was in itself", at.name, e.Ino)
	})
}

// orphans removes the orphan records of what has a name or is not there.
func (r *repairer) orphans() error {
	if err := r.survey(); err != nil {
		return err
	}
	return r.scan(prefixOrphan, func(k, _ []byte, ok bool) error {
		n, whole := numbers(k, 1)
		if !whole {
			return nil
		}
		ino := extent.Ino(n[0])
		why, i := "", r.inodes[ino]
		switch {
		case i == nil:
			why = "it is not there"
		case i.damaged:
			return nil
		case i.names > 0 || i.hidden:
			why = "it has a name"
		case i.isDir() && i.full:
			why = "it is a directory with names in it"
		case !ok:
			return r.fix(BadOrphan, ino, func(b batcher) { b.Put(orphanKey(ino), []byte{}) }, "is noted anew as to be deleted: it has no name")
		default:
			return nil
		}
		return r.fix(BadOrphan, ino, func(b batcher) { b.Delete(orphanKey(ino)) }, "is not to be deleted any more: %s", why)
	})
}

// intents removes unfinished work on files that are not there, and what has no source.
// The target of such a clone stays as far as it came.
func (r *repairer) intents() error {
	return r.scan(prefixIntent, func(k, v []byte, ok bool) error {
		n, whole := numbers(k, 1)
		i, err := decodeIntent(v)
		if !whole || !ok || err != nil {
			return nil
		}
		ino, of := extent.Ino(n[0]), ""
		switch {
		case r.inodes[ino] == nil:
		case i.kind == cloning && r.inodes[i.src] == nil:
			of = fmt.Sprintf(" of inode %d", i.src)
		default:
			return nil
		}
		return r.fix(BadIntent, ino, func(b batcher) { b.Delete(intentKey(ino)) }, "gave up an unfinished %v%s: it is not there", i.kind, of)
	})
}

// attributes corrects what inodes say of their names and extended attributes.
func (r *repairer) attributes() error {
	if err := r.survey(); err != nil {
		return err
	}
	for _, ino := range r.sorted() {
		if i := r.inodes[ino]; !i.damaged {
			if err := r.attributesOf(ino, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *repairer) attributesOf(ino extent.Ino, i *foundInode) error {
	put := func(k ProblemKind, format string, args ...any) error {
		return r.fix(k, ino, func(b batcher) { b.Put(inodeKey(ino), encodeAttr(&i.attr)) }, format, args...)
	}
	want := i.names
	if i.kind() == syscall.S_IFDIR && (i.names > 0 || ino == extent.RootIno) {
		want = 2 + i.subdirs
	}
	if i.attr.Nlink != want && !i.vague && !i.hidden {
		i.attr.Nlink = want
		if err := put(BadLinks, "link count %d", want); err != nil {
			return err
		}
	}
	if i.isDir() && i.names > 0 && i.attr.Parent != i.in {
		i.attr.Parent = i.in
		if err := put(BadParent, "says its parent is %d", i.in); err != nil {
			return err
		}
	}
	if i.attr.Xattrs != i.xattrs && !i.orphan && !i.rotten {
		i.attr.Xattrs = i.xattrs
		return put(BadXattr, "says it has %d extended attributes", i.xattrs)
	}
	return nil
}

// strayXattrs removes extended attributes of inodes that are not there.
func (r *repairer) strayXattrs() error {
	if err := r.survey(); err != nil {
		return err
	}
	return r.scan(prefixXattr, func(k, _ []byte, _ bool) error {
		ino, name, err := decodeXattrKey(k)
		if err != nil || r.inodes[ino] != nil {
			return nil
		}
		return r.fix(BadXattr, ino, func(b batcher) { b.Delete(xattrKey(ino, name)) }, "removed the attribute %q: the inode is not there", name)
	})
}
