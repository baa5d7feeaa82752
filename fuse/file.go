package fuse

import (
	"math"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/extent"
	"holdfast/fs"
)

// openFlags are what the kernel is told of each open file: no page cache, and
// writes that do not extend the file beside each other. There is nothing to flush at
// close: FLUSH is wanted only where a close may have to wait.
func (r *rawFS) openFlags(ino extent.Ino) uint32 {
	const flags = gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_PARALLEL_DIRECT_WRITES
	if r.fs.Flushes(ino) {
		return flags
	}
	return flags | gofuse.FOPEN_NOFLUSH
}

func (r *rawFS) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	a, err := r.fs.Create(requestContext(cancel), r.maker(&in.InHeader, in.Umask), inode(in.NodeId), name, in.Mode, in.Flags)
	out.OpenFlags = r.openFlags(a.Ino)
	return r.entry(a, err, &out.EntryOut)
}

// Tmpfile makes a file without a name, for O_TMPFILE.
func (r *rawFS) Tmpfile(cancel <-chan struct{}, in *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status {
	a, err := r.fs.Tmpfile(requestContext(cancel), r.maker(&in.InHeader, in.Umask), inode(in.NodeId), in.Mode)
	out.OpenFlags = r.openFlags(a.Ino)
	return r.entry(a, err, &out.EntryOut)
}

func (r *rawFS) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	out.OpenFlags = r.openFlags(inode(in.NodeId))
	return errno(r.log, r.fs.Open(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId), in.Flags))
}

func (r *rawFS) Release(_ <-chan struct{}, in *gofuse.ReleaseIn) { r.fs.Release(inode(in.NodeId)) }

func (r *rawFS) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	off, ok := offset(in.Offset)
	if !ok {
		return nil, gofuse.EINVAL
	}
	read := r.fs.Read
	if in.Flags&syscall.O_NOATIME != 0 {
		read = r.fs.ReadNoAtime
	} else if len(buf) >= viewFrom {
		if v := r.fs.View(inode(in.NodeId), off, int64(len(buf))); v != nil {
			return viewed{v}, gofuse.OK
		}
	}
	n, err := read(requestContext(cancel), inode(in.NodeId), buf, off)
	if st := errno(r.log, err); !st.Ok() {
		return nil, st
	}
	return gofuse.ReadResultData(buf[:n]), gofuse.OK
}

func (r *rawFS) Write(cancel <-chan struct{}, in *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	off, ok := offset(in.Offset)
	if !ok {
		return 0, gofuse.Status(syscall.EFBIG)
	}
	ctx, caller, ino := requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId)
	writeback := in.WriteFlags&gofuse.WRITE_CACHE != 0
	if writeback {
		r.pages.Add(1)
		r.writing.Add(1)
		defer r.writing.Add(-1)
	}
	n, err := r.fs.Write(ctx, caller, ino, data, off, in.Flags&syscall.O_APPEND != 0 && !writeback, writeback)
	if err == nil && in.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0 {
		err = r.fs.KillPriv(ino)
	}
	// With direct I/O the kernel leaves O_SYNC and O_DSYNC to the server.
	if err == nil && in.Flags&syscall.O_DSYNC != 0 {
		err = r.fs.Fsync(ctx, ino, in.Flags&syscall.O_SYNC != syscall.O_SYNC)
	}
	return uint32(n), errno(r.log, err)
}

func (r *rawFS) SetAttr(cancel <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	if in.Valid&gofuse.FATTR_SIZE != 0 && in.Size > extent.MaxSize {
		return gofuse.Status(syscall.EFBIG)
	}
	ctx, caller, ino := requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId)
	var a fs.Attr
	var err error
	if in.Valid&^(gofuse.FATTR_FH|gofuse.FATTR_LOCKOWNER) == 0 {
		// What the kernel makes of chown(-1, -1), and of taking set-user-id off before it sends a fallocate.
		a, err = r.fs.Touch(caller, ino)
	} else {
		a, err = r.fs.SetAttr(ctx, caller, ino, setAttr(in))
	}
	if err != nil {
		return errno(r.log, err)
	}
	out.SetTimeout(attrTimeout)
	fillAttr(&a, &out.Attr)
	return gofuse.OK
}

func setAttr(in *gofuse.SetAttrIn) fs.SetAttr {
	s := fs.SetAttr{
		Mode: in.Mode, UID: in.Uid, GID: in.Gid, Size: int64(in.Size),
		Atime: joinTime(in.Atime, in.Atimensec), Mtime: joinTime(in.Mtime, in.Mtimensec), Ctime: joinTime(in.Ctime, in.Ctimensec),
	}
	for _, b := range []struct {
		kernel uint32
		ours   fs.SetAttrMask
	}{
		{gofuse.FATTR_MODE, fs.SetMode}, {gofuse.FATTR_UID, fs.SetUID}, {gofuse.FATTR_GID, fs.SetGID}, {gofuse.FATTR_SIZE, fs.SetSize},
		{gofuse.FATTR_ATIME, fs.SetAtime}, {gofuse.FATTR_MTIME, fs.SetMtime}, {gofuse.FATTR_CTIME, fs.SetCtime},
		{gofuse.FATTR_ATIME_NOW, fs.SetAtimeNow}, {gofuse.FATTR_MTIME_NOW, fs.SetMtimeNow},
		{gofuse.FATTR_KILL_SUIDGID, fs.KillPriv},
	} {
		if in.Valid&b.kernel != 0 {
			s.Valid |= b.ours
		}
	}
	return s
}

// Flush is sent by whoever closes a descriptor, whatever makes him do so, and he waits
// for the answer; not for files opened with FOPEN_NOFLUSH.
func (r *rawFS) Flush(cancel <-chan struct{}, in *gofuse.FlushIn) gofuse.Status {
	return errno(r.log, r.fs.Flush(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId)))
}

func (r *rawFS) Fsync(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	const dataOnly = 1
	return errno(r.log, r.fs.Fsync(requestContext(cancel), inode(in.NodeId), in.FsyncFlags&dataOnly != 0))
}

func (r *rawFS) Fallocate(cancel <-chan struct{}, in *gofuse.FallocateIn) gofuse.Status {
	off, ok1 := offset(in.Offset)
	n, ok2 := offset(in.Length)
	if !ok1 || !ok2 || n == 0 {
		return gofuse.EINVAL
	}
	if off > extent.MaxSize || n > extent.MaxSize-off {
		return gofuse.Status(syscall.EFBIG)
	}
	ctx, caller, ino := requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId)
	err := r.fs.Fallocate(ctx, caller, ino, in.Mode, off, n)
	if err == nil && !caller.Admin {
		err = r.fs.KillPriv(ino) // the kernel leaves it to the server, and has no flag for it here
	}
	return errno(r.log, err)
}

// CopyFileRange shares blocks instead of copying them where it can. It may do less than
// was asked for; the kernel or the program asks for the rest.
func (r *rawFS) CopyFileRange(cancel <-chan struct{}, in *gofuse.CopyFileRangeIn) (uint32, gofuse.Status) {
	off, ok1 := offset(in.OffIn)
	at, ok2 := offset(in.OffOut)
	if !ok1 || !ok2 || in.Flags != 0 {
		return 0, gofuse.EINVAL
	}
	n := int64(min(in.Len, math.MaxUint32&^(extent.BlockSize-1)))
	if at > extent.MaxSize || n > extent.MaxSize-at {
		return 0, gofuse.Status(syscall.EFBIG)
	}
	ctx, caller, to := requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeIdOut)
	done, err := r.fs.CopyRange(ctx, caller, inode(in.NodeId), off, to, at, n)
	if err == nil && done > 0 && !caller.Admin {
		err = r.fs.KillPriv(to)
	}
	return uint32(done), errno(r.log, err)
}

func (r *rawFS) Lseek(cancel <-chan struct{}, in *gofuse.LseekIn, out *gofuse.LseekOut) gofuse.Status {
	off, ok := offset(in.Offset)
	if !ok {
		return gofuse.Status(syscall.ENXIO)
	}
	pos, err := r.fs.Seek(requestContext(cancel), inode(in.NodeId), off, int(in.Whence))
	out.Offset = uint64(pos)
	return errno(r.log, err)
}
