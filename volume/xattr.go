package volume

import (
	"errors"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

const (
	// XattrNameMax is the length of the longest name of an extended attribute.
	XattrNameMax = 255
	// XattrValueMax is the length of the longest value.
	XattrValueMax = 64 << 10
	// XattrListMax bounds the names of a file, each with a zero behind it.
	XattrListMax = 64 << 10

	// xattrsPerBatch is how many of them a batch removes.
	xattrsPerBatch = store.MaxOps - 8
)

// PutXattr sets an extended attribute. The caller counts in Attr.Xattrs.
func (t *Tx) PutXattr(ino extent.Ino, name string, value []byte) {
	t.b.Put(xattrKey(ino, name), value)
}

// DelXattr removes an extended attribute. The caller counts in Attr.Xattrs.
func (t *Tx) DelXattr(ino extent.Ino, name string) { t.b.Delete(xattrKey(ino, name)) }

// Xattr returns the value of an extended attribute, or ENODATA.
func (v *Volume) Xattr(ino extent.Ino, name string) ([]byte, error) {
	b, err := v.st.Get(xattrKey(ino, name))
	if errors.Is(err, store.ErrNotFound) {
		err = syscall.ENODATA
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: attribute %q: %w", ino, name, err)
	}
	return b, nil
}

// Xattrs calls fn for the names of the extended attributes of ino, in order, until
// it returns false.
func (v *Volume) Xattrs(ino extent.Ino, fn func(name string) bool) error {
	err := v.st.Scan(key(prefixXattr, uint64(ino)), after(prefixXattr, uint64(ino)), func(k, _ []byte) (bool, error) {
		_, name, err := decodeXattrKey(k)
		return err == nil && fn(name), err
	})
	if err != nil {
		return fmt.Errorf("inode %d: attributes: %w", ino, err)
	}
	return nil
}

// deleteXattrs removes all extended attributes of an inode that is being deleted.
// The orphan record, which deleteRecords removes last, makes it restartable.
func (v *Volume) deleteXattrs(ino extent.Ino) error {
	for {
		b := v.batch()
		b.Put(orphanKey(ino), []byte{})
		found := 0
		err := v.Xattrs(ino, func(name string) bool {
			b.Delete(xattrKey(ino, name))
			found++
			return found < xattrsPerBatch
		})
		if err != nil || found == 0 {
			return err
		}
		if _, err := v.apply(b); err != nil {
			return err
		}
		if found < xattrsPerBatch {
			return nil
		}
	}
}

func xattrKey(ino extent.Ino, name string) []byte {
	return append(key(prefixXattr, uint64(ino)), name...)
}

func decodeXattrKey(k []byte) (extent.Ino, string, error) {
	if len(k) < 10 || len(k) > 9+XattrNameMax {
		return 0, "", fmt.Errorf("attribute key %q: %w", k, ErrCorrupt)
	}
	n, _ := numbers(k[:9], 1)
	return extent.Ino(n[0]), string(k[9:]), nil
}

// readXattrs counts the extended attributes.
func (c *checker) readXattrs() error {
	return c.scan(prefixXattr, func(k, v []byte) error {
		ino, name, err := decodeXattrKey(k)
		if err != nil {
			return err
		}
		c.sum.Xattrs++
		i, ok := c.inodes[ino]
		switch {
		case !ok:
			c.problem(BadXattr, ino, "attribute %q of an inode that is not there", name)
			return nil
		case len(v) > XattrValueMax:
			c.problem(BadXattr, ino, "attribute %q has %d bytes", name, len(v))
		}
		i.xattrs++
		return nil
	})
}
