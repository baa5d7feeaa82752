package fuse

import (
	"context"
	"sync"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// gated lets requests through to rawFS until it is shut. A mount that was
// detached while in use lives until its last user goes, and where nobody may end
// its connection, requests come as long; behind a shut gate they find ENOTCONN,
// as they would after an abort, and not a filesystem that is closed.
type gated struct {
	*rawFS // any request it implements is overridden here, which a test sees to

	mu   sync.RWMutex // held shared by each request
	shut bool         // guarded by mu
}

// close shuts the gate and waits for the requests that are behind it. When ctx
// ends first, the gate shuts behind the last of them.
func (g *gated) close(ctx context.Context) error {
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.shut = true
	}()
	select {
	case <-shut:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pass calls f if the gate is open.
func (g *gated) pass(f func() gofuse.Status) gofuse.Status {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.shut {
		return gofuse.Status(syscall.ENOTCONN)
	}
	return f()
}

func (g *gated) CopyFileRange(cancel <-chan struct{}, in *gofuse.CopyFileRangeIn) (n uint32, s gofuse.Status) {
	s = g.pass(func() gofuse.Status {
		n, s = g.rawFS.CopyFileRange(cancel, in)
		return s
	})
	return n, s
}

func (g *gated) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Lookup(cancel, h, name, out) })
}

func (g *gated) Forget(node, n uint64) {
	g.pass(func() gofuse.Status { g.rawFS.Forget(node, n); return gofuse.OK })
}

func (g *gated) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.GetAttr(cancel, in, out) })
}

func (g *gated) SetAttr(cancel <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.SetAttr(cancel, in, out) })
}

func (g *gated) Statx(cancel <-chan struct{}, in *gofuse.StatxIn, out *gofuse.StatxOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Statx(cancel, in, out) })
}

func (g *gated) Mknod(cancel <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Mknod(cancel, in, name, out) })
}

func (g *gated) Mkdir(cancel <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Mkdir(cancel, in, name, out) })
}

func (g *gated) Symlink(cancel <-chan struct{}, h *gofuse.InHeader, target, name string, out *gofuse.EntryOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Symlink(cancel, h, target, name, out) })
}

func (g *gated) Link(cancel <-chan struct{}, in *gofuse.LinkIn, name string, out *gofuse.EntryOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Link(cancel, in, name, out) })
}

func (g *gated) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) (target []byte, st gofuse.Status) {
	st = g.pass(func() (st gofuse.Status) { target, st = g.rawFS.Readlink(cancel, h); return st })
	return target, st
}

func (g *gated) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Unlink(cancel, h, name) })
}

func (g *gated) Rmdir(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Rmdir(cancel, h, name) })
}

func (g *gated) Rename(cancel <-chan struct{}, in *gofuse.RenameIn, from, to string) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Rename(cancel, in, from, to) })
}

func (g *gated) StatFs(cancel <-chan struct{}, h *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.StatFs(cancel, h, out) })
}

func (g *gated) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Create(cancel, in, name, out) })
}

func (g *gated) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Open(cancel, in, out) })
}

func (g *gated) Release(cancel <-chan struct{}, in *gofuse.ReleaseIn) {
	g.pass(func() gofuse.Status { g.rawFS.Release(cancel, in); return gofuse.OK })
}

// Read holds the gate until the reply is written, if it is answered with a view.
func (g *gated) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	g.mu.RLock()
	if g.shut {
		g.mu.RUnlock()
		return nil, gofuse.Status(syscall.ENOTCONN)
	}
	res, st := g.rawFS.Read(cancel, in, buf)
	if v, ok := res.(viewed); ok {
		return passing{v, &g.mu}, st
	}
	g.mu.RUnlock()
	return res, st
}

// passing is an answer that is behind the gate until it is written.
type passing struct {
	viewed
	gate *sync.RWMutex
}

func (p passing) Done() {
	p.viewed.Done()
	p.gate.RUnlock()
}

func (g *gated) Write(cancel <-chan struct{}, in *gofuse.WriteIn, data []byte) (n uint32, st gofuse.Status) {
	st = g.pass(func() (st gofuse.Status) { n, st = g.rawFS.Write(cancel, in, data); return st })
	return n, st
}

func (g *gated) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string, dest []byte) (n uint32, st gofuse.Status) {
	st = g.pass(func() (st gofuse.Status) { n, st = g.rawFS.GetXAttr(cancel, h, name, dest); return st })
	return n, st
}

func (g *gated) ListXAttr(cancel <-chan struct{}, h *gofuse.InHeader, dest []byte) (n uint32, st gofuse.Status) {
	st = g.pass(func() (st gofuse.Status) { n, st = g.rawFS.ListXAttr(cancel, h, dest); return st })
	return n, st
}

func (g *gated) SetXAttr(cancel <-chan struct{}, in *gofuse.SetXAttrIn, name string, value []byte) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.SetXAttr(cancel, in, name, value) })
}

func (g *gated) RemoveXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.RemoveXAttr(cancel, h, name) })
}

func (g *gated) Tmpfile(cancel <-chan struct{}, in *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Tmpfile(cancel, in, out) })
}

func (g *gated) Flush(cancel <-chan struct{}, in *gofuse.FlushIn) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Flush(cancel, in) })
}

func (g *gated) Fsync(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Fsync(cancel, in) })
}

func (g *gated) Fallocate(cancel <-chan struct{}, in *gofuse.FallocateIn) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Fallocate(cancel, in) })
}

func (g *gated) Lseek(cancel <-chan struct{}, in *gofuse.LseekIn, out *gofuse.LseekOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.Lseek(cancel, in, out) })
}

func (g *gated) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.OpenDir(cancel, in, out) })
}

func (g *gated) ReleaseDir(in *gofuse.ReleaseIn) {
	g.pass(func() gofuse.Status { g.rawFS.ReleaseDir(in); return gofuse.OK })
}

func (g *gated) FsyncDir(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.FsyncDir(cancel, in) })
}

func (g *gated) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.ReadDir(cancel, in, out) })
}

func (g *gated) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return g.pass(func() gofuse.Status { return g.rawFS.ReadDirPlus(cancel, in, out) })
}
