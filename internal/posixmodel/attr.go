package posixmodel

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Keep as a time of Utimens, or as an owner of Chown, leaves it as it is.
const (
	Keep = -1
	Now  = -2 // only as a time
)

func (m *Model) stat(op Op, w *Want) Result {
	var n *node
	var errno syscall.Errno
	if op.Kind == Fstat {
		var f *file
		if f, errno = m.fd(op, op.FD); errno == 0 {
			n = f.n
		}
	} else {
		n, errno = m.find(op, op.Kind == Stat)
	}
	if errno != 0 {
		return fail(errno)
	}
	n.stale = false
	w.expect(n)
	return Result{Stat: m.attr(n)}
}

func (m *Model) attr(n *node) *Attr {
	return &Attr{Mode: n.mode, UID: n.uid, GID: n.gid, Nlink: n.nlink, Size: n.size, Blocks512: int64(len(n.blocks)) * BlockSize / 512}
}

func (m *Model) setattr(op Op) Result {
	n, errno := m.find(op, true)
	if errno != 0 {
		return fail(errno)
	}
	switch op.Kind {
	case Chmod:
		n.mode = n.mode&syscall.S_IFMT | op.Mode
	case Chown:
		m.chown(n, op)
	case Utimens:
		m.setTime(&n.atime, op.Atime)
		m.setTime(&n.mtime, op.Mtime)
	}
	n.ctime = m.stamp()
	return Result{}
}

func (m *Model) setTime(t *stamp, to int64) {
	switch to {
	case Keep:
	case Now:
		*t = m.stamp()
	default:
		*t = stamp{given: to, known: true}
	}
}

// chown takes set-user-id and, where it means execution, set-group-id off files.
func (m *Model) chown(n *node, op Op) {
	if op.UID != Keep {
		n.uid = uint32(op.UID)
	}
	if op.GID != Keep {
		n.gid = uint32(op.GID)
	}
	if n.dir() {
		return
	}
	n.mode &^= syscall.S_ISUID
	if n.mode&syscall.S_IXGRP != 0 {
		n.mode &^= syscall.S_ISGID
	}
}

func (m *Model) xattr(op Op) Result {
	n, errno := m.find(op, true)
	if errno != 0 {
		return fail(errno)
	}
	if op.Kind == Listxattr {
		return Result{Text: strings.Join(slices.Sorted(maps.Keys(n.xattrs)), "/")}
	}
	if !strings.HasPrefix(op.Name, "user.") && !strings.HasPrefix(op.Name, "trusted.") && !strings.HasPrefix(op.Name, "security.") {
		return fail(syscall.EOPNOTSUPP)
	}
	value, there := n.xattrs[op.Name]
	switch {
	case op.Kind == Setxattr && there && op.Flags == unix.XATTR_CREATE:
		return fail(syscall.EEXIST)
	case op.Kind == Setxattr && !there && op.Flags == unix.XATTR_REPLACE:
		return fail(syscall.ENODATA)
	case op.Kind == Setxattr:
		n.xattrs[op.Name] = string(Data(op.Seq, op.Len))
	case !there:
		return fail(syscall.ENODATA)
	case op.Kind == Getxattr:
		return Result{N: int64(len(value)), Sum: Sum([]byte(value))}
	default:
		delete(n.xattrs, op.Name)
	}
	n.ctime = m.stamp()
	return Result{}
}
