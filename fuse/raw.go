package fuse

import (
	"log/slog"
	"sync/atomic"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"holdfast/fs"
)

// rawFS answers the kernel's requests. What it does not implement the embedded
// default answers with ENOSYS, and the kernel does not ask again: ACCESS (it
// checks permissions itself), locks (it
// keeps them itself), ioctl.
type rawFS struct {
	gofuse.RawFileSystem
	fs     *fs.FS
	log    *slog.Logger
	socket []byte
	prune  *pruner

	pages   atomic.Uint64 // writes of pages of memory mappings so far
	writing atomic.Int64  // those under way
}

func (r *rawFS) String() string { return "holdfast" }

func (r *rawFS) caller(h *gofuse.InHeader) fs.Caller {
	return fs.Caller{PID: int32(h.Pid), UID: h.Uid, GID: h.Gid, Admin: h.Uid == 0}
}

// maker is the caller of a request that makes a file.
func (r *rawFS) maker(h *gofuse.InHeader, umask uint32) fs.Caller {
	c := r.caller(h)
	c.Umask = umask
	return c
}

// entry finishes an operation that gives the kernel a name for an inode. The
// lookup that the kernel now holds was counted by fs.
func (r *rawFS) entry(a fs.Attr, err error, out *gofuse.EntryOut) gofuse.Status {
	if err != nil {
		return errno(r.log, err)
	}
	fillEntry(&a, out)
	r.prune.met()
	return gofuse.OK
}

func (r *rawFS) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	a, err := r.fs.Lookup(requestContext(cancel), r.caller(h), inode(h.NodeId), name)
	st := r.entry(a, err, out)
	if st == gofuse.ENOENT {
		// Node 0 is a name that the kernel may remember not to exist.
		out.NodeId = 0
		out.SetEntryTimeout(negativeTimeout)
		return gofuse.OK
	}
	return st
}

func (r *rawFS) Forget(node, n uint64) { r.fs.Forget(inode(node), n) }

func (r *rawFS) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	a, err := r.fs.GetAttr(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId))
	if err != nil {
		return errno(r.log, err)
	}
	out.SetTimeout(attrTimeout)
	fillAttr(&a, &out.Attr)
	return gofuse.OK
}

// Statx tells the time of birth, which GETATTR has no room for.
func (r *rawFS) Statx(cancel <-chan struct{}, in *gofuse.StatxIn, out *gofuse.StatxOut) gofuse.Status {
	a, err := r.fs.GetAttr(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId))
	if err != nil {
		return errno(r.log, err)
	}
	out.SetTimeout(attrTimeout)
	x := &out.Statx
	x.Mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	x.Blksize, x.Nlink, x.Uid, x.Gid = 4096, a.Nlink, a.UID, a.GID
	x.Mode, x.Ino, x.Size, x.Blocks = uint16(a.Mode), uint64(a.Ino), uint64(a.Size), uint64(a.Blocks)
	x.RdevMajor, x.RdevMinor = unix.Major(uint64(a.Rdev)), unix.Minor(uint64(a.Rdev))
	for _, t := range []struct {
		to *gofuse.SxTime
		ns int64
	}{{&x.Atime, a.Atime}, {&x.Mtime, a.Mtime}, {&x.Ctime, a.Ctime}, {&x.Btime, a.Btime}} {
		t.to.Sec, t.to.Nsec = splitTime(t.ns)
	}
	return gofuse.OK
}

func (r *rawFS) Mknod(cancel <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) gofuse.Status {
	a, err := r.fs.Mknod(requestContext(cancel), r.maker(&in.InHeader, in.Umask), inode(in.NodeId), name, in.Mode, in.Rdev)
	return r.entry(a, err, out)
}

func (r *rawFS) Mkdir(cancel <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) gofuse.Status {
	a, err := r.fs.Mkdir(requestContext(cancel), r.maker(&in.InHeader, in.Umask), inode(in.NodeId), name, in.Mode)
	return r.entry(a, err, out)
}

func (r *rawFS) Symlink(cancel <-chan struct{}, h *gofuse.InHeader, target, name string, out *gofuse.EntryOut) gofuse.Status {
	a, err := r.fs.Symlink(requestContext(cancel), r.caller(h), inode(h.NodeId), name, target)
	return r.entry(a, err, out)
}

func (r *rawFS) Link(cancel <-chan struct{}, in *gofuse.LinkIn, name string, out *gofuse.EntryOut) gofuse.Status {
	a, err := r.fs.Link(requestContext(cancel), r.caller(&in.InHeader), inode(in.Oldnodeid), inode(in.NodeId), name)
	return r.entry(a, err, out)
}

func (r *rawFS) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) ([]byte, gofuse.Status) {
	target, err := r.fs.Readlink(requestContext(cancel), r.caller(h), inode(h.NodeId))
	return []byte(target), errno(r.log, err)
}

func (r *rawFS) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return errno(r.log, r.fs.Unlink(requestContext(cancel), r.caller(h), inode(h.NodeId), name))
}

func (r *rawFS) Rmdir(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return errno(r.log, r.fs.Rmdir(requestContext(cancel), r.caller(h), inode(h.NodeId), name))
}

func (r *rawFS) Rename(cancel <-chan struct{}, in *gofuse.RenameIn, from, to string) gofuse.Status {
	return errno(r.log, r.fs.Rename(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId), from, inode(in.Newdir), to, in.Flags))
}

func (r *rawFS) StatFs(cancel <-chan struct{}, h *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	s, err := r.fs.Statfs(requestContext(cancel))
	if err != nil {
		return errno(r.log, err)
	}
	out.Bsize, out.Frsize, out.NameLen = uint32(s.BlockSize), uint32(s.BlockSize), nameMax
	out.Blocks, out.Bfree, out.Bavail = uint64(s.Blocks), uint64(s.Free), uint64(s.Free)
	out.Files, out.Ffree = uint64(s.Files), uint64(s.FreeFiles)
	return gofuse.OK
}
