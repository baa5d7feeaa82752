package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/extent"
)

func (r *rawFS) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, _ *gofuse.OpenOut) gofuse.Status {
	return errno(r.log, r.fs.Open(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId), in.Flags))
}

func (r *rawFS) ReleaseDir(in *gofuse.ReleaseIn) { r.fs.Release(inode(in.NodeId)) }

func (r *rawFS) FsyncDir(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	return errno(r.log, r.fs.FsyncDir(requestContext(cancel), inode(in.NodeId)))
}

func (r *rawFS) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return r.readDir(cancel, in, func(e gofuse.DirEntry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus is READDIR that looks each name up as well.
func (r *rawFS) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	ctx, caller := requestContext(cancel), r.caller(&in.InHeader)
	return r.readDir(cancel, in, func(e gofuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Off <= cookieBase {
			return true // the kernel does not look "." and ".." up
		}
		a, err := r.fs.Lookup(ctx, caller, inode(in.NodeId), e.Name)
		if err != nil {
			// Removed meanwhile: node 0 tells the kernel the name and no more.
			return true
		}
		fillEntry(&a, entry)
		out.FixMode(a.Mode)
		return true
	})
}

// readDir calls add for "." and "..", and for each entry after the position
// that the kernel asks for, until add has no room. A position is the cookie of
// the last entry seen, so it stays right when the directory changes.
func (r *rawFS) readDir(cancel <-chan struct{}, in *gofuse.ReadIn, add func(gofuse.DirEntry) bool) gofuse.Status {
	ctx, caller, dir := requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId)
	pos := in.Offset
	if pos < cookieBase {
		a, err := r.fs.GetAttr(ctx, caller, dir)
		if err != nil {
			return errno(r.log, err)
		}
		dots := [...]gofuse.DirEntry{
			{Name: ".", Ino: uint64(dir), Mode: syscall.S_IFDIR, Off: cookieDot},
			{Name: "..", Ino: uint64(a.Parent), Mode: syscall.S_IFDIR, Off: cookieDotDot},
		}
		for _, e := range dots[pos:] {
			if !add(e) {
				return gofuse.OK
			}
		}
		pos = cookieBase
	}
	added := false
	err := r.fs.ReadDir(ctx, caller, dir, pos-cookieBase, func(name string, ino extent.Ino, typ uint32, cookie uint64) bool {
		ok := add(gofuse.DirEntry{Name: name, Ino: uint64(ino), Mode: typ, Off: cookie + cookieBase})
		added = added || ok
		return ok
	})
	if added {
		// The kernel must hear of entries that were looked up for it, or it never forgets
		// them. An error comes again when it asks for more.
		return gofuse.OK
	}
	return errno(r.log, err)
}
