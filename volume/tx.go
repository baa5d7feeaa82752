package volume

import (
	"errors"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// Tx is a change of the namespace: all of it or nothing. It is visible when Commit
// returns, and durable after the next SyncStore or Sync.
type Tx struct {
	v      *Volume
	b      batcher
	inodes []txInode
	err    error
}

type txInode struct {
	n    *Inode
	attr Attr // as recorded
}

// Begin starts a transaction.
func (v *Volume) Begin() *Tx { return &Tx{v: v, b: v.batch()} }

// PutInode records the attributes of n, except that the size of a file is only
// recorded by the commit of its data. It needs n exclusive from here until Commit
// has returned.
func (t *Tx) PutInode(n *Inode) {
	if n.deleted {
		t.err = fmt.Errorf("inode %d: %w", n.Ino, ErrDeleted)
		return
	}
	a := n.Attr
	if a.IsRegular() {
		a.Size = n.stored.Size
	}
	t.b.Put(inodeKey(n.Ino), encodeAttr(&a))
	t.inodes = append(t.inodes, txInode{n, a})
}

// PutEntry makes name in dir lead to e. A cookie of 0 becomes the next of the
// volume. If the name exists, DelEntry comes first, with its cookie.
func (t *Tx) PutEntry(dir extent.Ino, name string, e Entry) {
	if e.Cookie == 0 {
		var err error
		if e.Cookie, err = t.v.NewCookie(); err != nil {
			t.err = err
			return
		}
	}
	t.b.Put(entryKey(dir, name), encodeEntry(e))
	t.b.Put(cookieKey(dir, e.Cookie), encodeCookie(e, name))
}

// DelEntry removes name from dir. cookie is the entry's.
func (t *Tx) DelEntry(dir extent.Ino, name string, cookie uint64) {
	t.b.Delete(entryKey(dir, name))
	t.b.Delete(cookieKey(dir, cookie))
}

// PutOrphan notes that no name leads to ino any more: if a crash comes before
// Delete, Open deletes it.
func (t *Tx) PutOrphan(ino extent.Ino) { t.b.Put(orphanKey(ino), []byte{}) }

// DelOrphan takes PutOrphan back, for a file that gets a name again.
func (t *Tx) DelOrphan(ino extent.Ino) { t.b.Delete(orphanKey(ino)) }

// Commit applies the transaction.
func (t *Tx) Commit() error {
	if t.err != nil {
		return t.err
	}
	if _, err := t.v.apply(t.b); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	for _, i := range t.inodes {
		if !i.n.inStore {
			t.v.files.Add(1)
		}
		i.n.stored, i.n.inStore = i.attr, true
	}
	return nil
}

// LookupEntry returns what name in dir leads to, or ENOENT.
func (v *Volume) LookupEntry(dir extent.Ino, name string) (Entry, error) {
	b, err := v.st.Get(entryKey(dir, name))
	if errors.Is(err, store.ErrNotFound) {
		return Entry{}, fmt.Errorf("%q: %w", name, syscall.ENOENT)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("lookup %q in inode %d: %w", name, dir, err)
	}
	return decodeEntry(b)
}

// ReadDir calls fn for the entries of dir behind the cookie after, in the order of
// their cookies, until it returns false. Entries that come or go meanwhile do not
// disturb the others.
func (v *Volume) ReadDir(dir extent.Ino, after uint64, fn func(name string, e Entry) bool) error {
	err := v.st.Scan(cookieKey(dir, after+1), key(prefixCookie, uint64(dir)+1), func(k, b []byte) (bool, error) {
		e, name, err := decodeCookie(k, b)
		if err != nil {
			return false, err
		}
		return fn(name, e), nil
	})
	if err != nil {
		return fmt.Errorf("read directory %d: %w", dir, err)
	}
	return nil
}

// DirEmpty reports whether dir has no entries.
func (v *Volume) DirEmpty(dir extent.Ino) (bool, error) {
	empty := true
	err := v.ReadDir(dir, 0, func(string, Entry) bool {
		empty = false
		return false
	})
	return empty, err
}
