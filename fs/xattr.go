package fs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/volume"
)

// XattrFlags say how SetXattr sets.
type XattrFlags uint32

const (
	// XattrCreate wants the attribute not to be there.
	XattrCreate XattrFlags = unix.XATTR_CREATE
	// XattrReplace wants it to be there.
	XattrReplace XattrFlags = unix.XATTR_REPLACE
	// XattrKillSGID says that with a new ACL set-group-id goes: the caller is not of
	// the file's group.
	XattrKillSGID XattrFlags = 1 << 16
)

const (
	trustedPrefix = "trusted."
	capabilities  = "security.capability"
)

// checkXattrName refuses names that no file can have.
func checkXattrName(name string) error {
	if len(name) > volume.XattrNameMax {
		return fmt.Errorf("attribute name of %d bytes: %w", len(name), syscall.ERANGE)
	}
	if name == aclAccess || name == aclDefault {
		return nil
	}
	for _, prefix := range [...]string{"user.", trustedPrefix, "security."} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if rest == "" || strings.IndexByte(rest, 0) >= 0 {
				return fmt.Errorf("attribute name %q: %w", name, syscall.EINVAL)
			}
			return nil
		}
	}
	return fmt.Errorf("attribute name %q: %w", name, syscall.EOPNOTSUPP)
}

// GetXattr returns the value of an extended attribute.
func (f *FS) GetXattr(_ context.Context, _ Caller, ino extent.Ino, name string) (value []byte, err error) {
	if err := checkXattrName(name); err != nil {
		return nil, err
	}
	err = f.withInode(ino, func(i *inode) error {
		i.mu.RLock()
		defer i.mu.RUnlock()
		value, err = f.xattr(i, name)
		return err
	})
	return value, err
}

// xattr reads an attribute. It needs mu, shared suffices.
func (f *FS) xattr(i *inode, name string) ([]byte, error) {
	if i.n.Attr.Xattrs == 0 {
		return nil, errNoXattr // without asking the store: the kernel asks for ACLs of every file
	}
	return f.vol.Xattr(i.ino, name)
}

var errNoXattr = fmt.Errorf("no such attribute: %w", syscall.ENODATA)

// ListXattr returns the names of the extended attributes, each with a zero behind
// it. Those that begin with "trusted." are for administrators.
func (f *FS) ListXattr(_ context.Context, c Caller, ino extent.Ino) (list []byte, err error) {
	err = f.withInode(ino, func(i *inode) error {
		i.mu.RLock()
		defer i.mu.RUnlock()
		if i.n.Attr.Xattrs == 0 {
			return nil
		}
		return f.vol.Xattrs(ino, func(name string) bool {
			if c.Admin || !strings.HasPrefix(name, trustedPrefix) {
				list = append(append(list, name...), 0)
			}
			return true
		})
	})
	return list, err
}

// SetXattr sets an extended attribute.
func (f *FS) SetXattr(_ context.Context, c Caller, ino extent.Ino, name string, value []byte, flags XattrFlags) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	if len(value) > volume.XattrValueMax {
		return fmt.Errorf("attribute of %d bytes: %w", len(value), syscall.E2BIG)
	}
	if flags&^(XattrCreate|XattrReplace|XattrKillSGID) != 0 {
		return fmt.Errorf("attribute flags %#x: %w", uint32(flags), syscall.EINVAL)
	}
	if err := checkPolicy(name, value); err != nil {
		return err
	}
	return f.changeXattr(c, ino, name, value, func(t *txn, i *inode) error {
		if name == aclAccess || name == aclDefault {
			return f.setACL(t, i, name, value, flags)
		}
		return f.putXattr(t, i, name, value, flags)
	})
}

// RemoveXattr removes an extended attribute.
func (f *FS) RemoveXattr(_ context.Context, c Caller, ino extent.Ino, name string) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	return f.changeXattr(c, ino, name, nil, func(t *txn, i *inode) error {
		if name == aclAccess || name == aclDefault {
			return f.dropXattr(t, i, name)
		}
		return f.delXattr(t, i, name)
	})
}

// changeXattr does a change of an attribute in a transaction of its own. value is what it has then, nil if it is removed.
func (f *FS) changeXattr(c Caller, ino extent.Ino, name string, value []byte, change func(t *txn, i *inode) error) error {
	return f.withInode(ino, func(i *inode) error {
		i.lock()
		defer i.mu.Unlock()
		if err := f.writable(); err != nil {
			return err
		}
		if err := i.mayAlter(c, name); err != nil {
			return err
		}
		t := f.begin(i)
		err := change(t, i)
		if err == nil {
			i.n.Attr.Ctime = f.stamp()
			err = t.commit()
		} else {
			t.undo()
		}
		i.noCaps = false
		if err == nil {
			i.policySet(name, value)
		}
		return err
	})
}

// putXattr sets an attribute of i, which is part of t.
func (f *FS) putXattr(t *txn, i *inode, name string, value []byte, flags XattrFlags) error {
	there, err := f.hasXattr(i, name)
	switch {
	case err != nil:
		return err
	case there && flags&XattrCreate != 0:
		return fmt.Errorf("attribute %q: %w", name, syscall.EEXIST)
	case !there && flags&XattrReplace != 0:
		return fmt.Errorf("attribute %q: %w", name, errNoXattr)
	case !there:
		if err := f.xattrRoom(i, name); err != nil {
			return err
		}
		i.n.Attr.Xattrs++
	}
	t.PutXattr(i.ino, name, value)
	return nil
}

// delXattr removes an attribute of i, which is part of t.
func (f *FS) delXattr(t *txn, i *inode, name string) error {
	there, err := f.hasXattr(i, name)
	if err == nil && !there {
		err = fmt.Errorf("attribute %q: %w", name, errNoXattr)
	}
	if err != nil {
		return err
	}
	i.n.Attr.Xattrs--
	t.DelXattr(i.ino, name)
	return nil
}

// dropXattr is delXattr for an attribute that need not be there.
func (f *FS) dropXattr(t *txn, i *inode, name string) error {
	if there, err := f.hasXattr(i, name); err != nil || !there {
		return err
	}
	return f.delXattr(t, i, name)
}

func (f *FS) hasXattr(i *inode, name string) (bool, error) {
	_, err := f.xattr(i, name)
	if errors.Is(err, syscall.ENODATA) {
		return false, nil
	}
	return err == nil, err
}

// xattrRoom refuses a name with which the list would be longer than the kernel
// can hand out.
func (f *FS) xattrRoom(i *inode, name string) error {
	const longest = volume.XattrNameMax + 1
	if (int(i.n.Attr.Xattrs)+1)*longest <= volume.XattrListMax {
		return nil // however long they are
	}
	size := len(name) + 1
	err := f.vol.Xattrs(i.ino, func(name string) bool {
		size += len(name) + 1
		return true
	})
	if err == nil && size > volume.XattrListMax {
		err = fmt.Errorf("inode %d: names of attributes are more than %d bytes: %w", i.ino, volume.XattrListMax, syscall.ENOSPC)
	}
	return err
}

// killCapabilities takes the capabilities off a file whose content has changed. It
// needs mu exclusive. Where an owner changes, and for fallocate, the kernel does it.
func (f *FS) killCapabilities(i *inode) error {
	if !i.mayHaveCaps() {
		return nil
	}
	t := f.begin(i)
	err := f.dropXattr(t, i, capabilities)
	if err == nil && i.n.Attr.Xattrs != t.before[0].Xattrs {
		err = t.commit()
	}
	if err != nil {
		t.undo()
		return err
	}
	i.noCaps = true
	return nil
}

// killedCapabilities is killCapabilities after a change that gave err. It takes mu
// if there may be any.
func (f *FS) killedCapabilities(i *inode, err error) error {
	if err != nil {
		return err
	}
	i.mu.RLock()
	may := i.mayHaveCaps()
	i.mu.RUnlock()
	if !may {
		return nil
	}
	i.lock()
	defer i.mu.Unlock()
	return f.killCapabilities(i)
}

// mayHaveCaps reports whether the file may have capabilities, without asking the
// store. It needs mu, shared suffices.
func (i *inode) mayHaveCaps() bool {
	return i.n.Attr.Xattrs > 0 && !i.noCaps
}
