package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/fs"
)

func (r *rawFS) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, _ *gofuse.OpenOut) gofuse.Status {
	return errno(r.log, r.fs.Open(requestContext(cancel), r.caller(&in.InHeader), inode(in.NodeId), in.Flags))
}

func (r *rawFS) ReleaseDir(in *gofuse.ReleaseIn) { r.fs.Release(inode(in.NodeId)) }

func (r *rawFS) FsyncDir(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	return errno(r.log, r.fs.FsyncDir(requestContext(cancel), inode(in.NodeId)))
}

func (r *rawFS) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return r.readDir(cancel, in, false, func(e gofuse.DirEntry, _ *fs.Dirent) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus is READDIR that looks each name up as well.
func (r *rawFS) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return r.readDir(cancel, in, true, func(e gofuse.DirEntry, of *fs.Dirent) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if of == nil {
			return true // the kernel does not look "." and ".." up
		}
		a, err := of.Lookup()
		if err != nil {
			return true // node 0 tells the kernel the name and no more
		}
		fillEntry(&a, entry)
		r.prune.met()
		out.FixMode(a.Mode)
		return true
	})
}

// readDir calls add for "." and "..", which have no Dirent, and for each entry after
// the position that the kernel asks for, until add has no room. A position is the
// cookie of the last entry seen, so it stays right when the directory changes.
func (r *rawFS) readDir(cancel <-chan struct{}, in *gofuse.ReadIn, plus bool, add func(gofuse.DirEntry, *fs.Dirent) bool) gofuse.Status {
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
			if !add(e, nil) {
				return gofuse.OK
			}
		}
		pos = cookieBase
	}
	added := false
	err := r.fs.WalkDir(ctx, dir, pos-cookieBase, plus, func(e *fs.Dirent) bool {
		ok := add(gofuse.DirEntry{Name: e.Name, Ino: uint64(e.Ino), Mode: e.Type, Off: e.Cookie + cookieBase}, e)
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
