package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/fs"
)

func (r *rawFS) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string, dest []byte) (uint32, gofuse.Status) {
	if name == SocketXattr {
		if len(r.socket) == 0 {
			return 0, gofuse.ENODATA
		}
		return fill(dest, r.socket)
	}
	value, err := r.fs.GetXattr(requestContext(cancel), r.caller(h), inode(h.NodeId), name)
	if err != nil {
		return 0, errno(r.log, err)
	}
	return fill(dest, value)
}

func (r *rawFS) ListXAttr(cancel <-chan struct{}, h *gofuse.InHeader, dest []byte) (uint32, gofuse.Status) {
	list, err := r.fs.ListXattr(requestContext(cancel), r.caller(h), inode(h.NodeId))
	if err != nil {
		return 0, errno(r.log, err)
	}
	return fill(dest, list)
}

// fill copies value to dest. With too little room it tells how much it takes,
// which is also how the kernel asks for the size: with no room.
func fill(dest, value []byte) (uint32, gofuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), gofuse.ERANGE
	}
	return uint32(copy(dest, value)), gofuse.OK
}

func (r *rawFS) SetXAttr(cancel <-chan struct{}, in *gofuse.SetXAttrIn, name string, value []byte) gofuse.Status {
	if name == SocketXattr {
		return gofuse.Status(syscall.EPERM)
	}
	flags := fs.XattrFlags(in.Flags)
	if in.SetXAttrFlags&gofuse.SETXATTR_ACL_KILL_SGID != 0 {
		flags |= fs.XattrKillSGID
	}
	return errno(r.log, r.fs.SetXattr(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId), name, value[:min(in.Size, uint32(len(value)))], flags))
}

func (r *rawFS) RemoveXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	if name == SocketXattr {
		return gofuse.Status(syscall.EPERM)
	}
	return errno(r.log, r.fs.RemoveXattr(requestContext(cancel), r.caller(h), inode(h.NodeId), name))
}
