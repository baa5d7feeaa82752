package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"holdfast/volume"
)

// POSIX access control lists, POSIX.1e draft 17. They are kept as the kernel
// passes them, which also enforces them. What is left to us: the mode and the
// access ACL are kept in step, and new files inherit the default ACL of their
// directory, or have the umask applied.

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"

	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8
)

// The tags of ACL entries.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type aclItem struct {
	tag, perm uint16
	id        uint32
}

// acl is a valid access control list.
type acl []aclItem

var errACL = fmt.Errorf("no valid access control list: %w", syscall.EINVAL)

func parseACL(b []byte) (acl, error) {
	le := binary.LittleEndian
	if len(b) < aclHeader || (len(b)-aclHeader)%aclEntry != 0 {
		return nil, errACL
	}
	if v := le.Uint32(b); v != aclVersion {
		return nil, fmt.Errorf("access control list of version %d: %w", v, syscall.EOPNOTSUPP)
	}
	var a acl
	for b = b[aclHeader:]; len(b) > 0; b = b[aclEntry:] {
		a = append(a, aclItem{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])})
	}
	return a, a.check()
}

// check wants each tag in its place: owner, users, group, groups, mask, others.
func (a acl) check() error {
	last, named, masked := uint16(0), false, false
	for _, e := range a {
		if e.perm > 7 {
			return errACL
		}
		switch e.tag {
		case aclUser, aclGroup:
			named = true
			if e.tag < last {
				return errACL
			}
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			masked = masked || e.tag == aclMask
			if e.tag <= last {
				return errACL
			}
		default:
			return errACL
		}
		if e.tag > aclUserObj && last == 0 || e.tag > aclGroupObj && last < aclGroupObj {
			return errACL // without the owner, or without the group
		}
		last = e.tag
	}
	if last != aclOther || named && !masked {
		return errACL
	}
	return nil
}

func (a acl) encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, aclHeader+aclEntry*len(a)), aclVersion)
	for _, e := range a {
		b = le.AppendUint32(le.AppendUint16(le.AppendUint16(b, e.tag), e.perm), e.id)
	}
	return b
}

// minimal reports whether the list says no more than a mode can.
func (a acl) minimal() bool { return len(a) == 3 }

// mode returns the permission bits that stat shows for the list: the mask, if
// there is one, for the group.
func (a acl) mode() uint32 {
	var m uint32
	for _, e := range a {
		if shift, ok := a.shift(e.tag); ok {
			m |= uint32(e.perm) << shift
		}
	}
	return m
}

// shift returns where in the mode the entry with a tag shows, if it does.
func (a acl) shift(tag uint16) (uint, bool) {
	switch tag {
	case aclUserObj:
		return 6, true
	case aclGroupObj:
		return 3, a.minimal() // else the mask stands for it, or there is nothing to stand for
	case aclMask:
		return 3, true
	case aclOther:
		return 0, true
	}
	return 0, false
}

// chmod makes the list say what the mode does.
func (a acl) chmod(mode uint32) {
	for k := range a {
		if shift, ok := a.shift(a[k].tag); ok {
			a[k].perm = uint16(mode >> shift & 7)
		}
	}
}

// restrict takes from a default ACL what the creator of a file does not ask for,
// and returns the mode that the file gets.
func (a acl) restrict(mode uint32) uint32 {
	for k := range a {
		if shift, ok := a.shift(a[k].tag); ok {
			a[k].perm &= uint16(mode >> shift & 7)
		}
	}
	return mode&^0o777 | a.mode()
}

// setACL is SetXattr for the two kinds of list. An empty list removes.
func (f *FS) setACL(t *txn, i *inode, name string, value []byte, flags XattrFlags) error {
	if isType(i.n.Attr.Mode, syscall.S_IFLNK) {
		return fmt.Errorf("inode %d: access control list of a symbolic link: %w", i.ino, syscall.EOPNOTSUPP)
	}
	if len(value) <= aclHeader {
		return f.dropXattr(t, i, name)
	}
	a, err := parseACL(value)
	if err != nil {
		return err
	}
	if name == aclDefault {
		if !i.n.Attr.IsDir() {
			return fmt.Errorf("inode %d: default access control list of no directory: %w", i.ino, syscall.EACCES)
		}
		return f.putXattr(t, i, name, value, flags)
	}
	at := &i.n.Attr
	at.Mode = at.Mode&^0o777 | a.mode()
	if flags&XattrKillSGID != 0 {
		at.Mode &^= syscall.S_ISGID
	}
	if a.minimal() {
		return f.dropXattr(t, i, name)
	}
	return f.putXattr(t, i, name, value, flags)
}

// chmodACL makes the access ACL of i say what its mode does now, in one step with
// the record of the mode. It needs mu exclusive.
func (f *FS) chmodACL(i *inode) error {
	a, err := f.acl(i, aclAccess)
	if err != nil || a == nil || a.mode() == i.n.Attr.Mode&0o777 {
		return err
	}
	a.chmod(i.n.Attr.Mode)
	t := f.begin(i)
	t.PutXattr(i.ino, aclAccess, a.encode())
	return t.commit()
}

// acl returns a list of i, or nil if it has none. It needs mu, shared suffices.
func (f *FS) acl(i *inode, name string) (acl, error) {
	b, err := f.xattr(i, name)
	if errors.Is(err, syscall.ENODATA) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := parseACL(b)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %s: %w: %w", i.ino, name, volume.ErrCorrupt, err)
	}
	return a, nil
}

// inherit gives a new file what it has from the directory it is made in: the
// default ACL, or else what the umask leaves of the mode. It returns the lists to
// put, as names and values.
func (f *FS) inherit(d *inode, a *volume.Attr, umask uint32) (map[string][]byte, error) {
	if isType(a.Mode, syscall.S_IFLNK) {
		return nil, nil
	}
	list, err := f.acl(d, aclDefault)
	if err != nil {
		return nil, err
	}
	if list == nil {
		a.Mode &^= umask & 0o777
		return nil, nil
	}
	lists := make(map[string][]byte)
	if a.IsDir() {
		lists[aclDefault] = list.encode()
	}
	if a.Mode = list.restrict(a.Mode); !list.minimal() {
		lists[aclAccess] = list.encode()
	}
	a.Xattrs = uint32(len(lists))
	return lists, nil
}
