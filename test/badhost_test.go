//lint:file-ignore SA1019 LoopbackRoot.NewNode is the short way to nodes of another type

package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/internal/testserver"
)

// badHost is a host's filesystem whose files fail when they are told to.
type badHost struct {
	dir   string
	fails atomic.Pointer[func(op, name string) bool]
}

// newBadHost mounts a filesystem that is well.
func newBadHost(t *testing.T) *badHost {
	t.Helper()
	testserver.NeedMount(t)
	testserver.NeedRoot(t)
	h := &badHost{dir: t.TempDir()}
	root := &gofs.LoopbackRoot{Path: t.TempDir()}
	root.NewNode = func(r *gofs.LoopbackRoot, _ *gofs.Inode, name string, _ *syscall.Stat_t) gofs.InodeEmbedder {
		return &badNode{LoopbackNode: gofs.LoopbackNode{RootData: r}, host: h, name: name}
	}
	s, err := gofs.Mount(h.dir, root.NewNode(root, nil, "", nil), &gofs.Options{MountOptions: gofuse.MountOptions{
		DirectMountStrict: true, FsName: "bad host", Name: "badhost", DisableXAttrs: true,
		DisabledCapabilities: gofuse.CAP_PASSTHROUGH, // it would go around what fails
	}})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
		s.Wait()
	})
	return h
}

// fail makes these operations on files of these names fail from now on; no operation makes all well.
func (h *badHost) fail(match string, ops ...string) {
	fails := func(op, name string) bool {
		ok, err := filepath.Match(match, name)
		return ok && err == nil && strings.Contains(strings.Join(ops, " "), op)
	}
	h.fails.Store(&fails)
}

func (h *badHost) errno(op, name string) syscall.Errno {
	if f := h.fails.Load(); f != nil && (*f)(op, name) {
		return syscall.EIO
	}
	return 0
}

// badNode is a file or directory of a badHost.
type badNode struct {
	gofs.LoopbackNode
	host *badHost
	name string // the first
}

func (n *badNode) wrap(f gofs.FileHandle) *badFile {
	return &badFile{LoopbackFile: f.(*gofs.LoopbackFile), n: n}
}

func (n *badNode) Open(ctx context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	f, _, e := n.LoopbackNode.Open(ctx, flags)
	if e != 0 {
		return nil, 0, e
	}
	return n.wrap(f), gofuse.FOPEN_DIRECT_IO, 0 // each request comes here
}

func (n *badNode) Create(ctx context.Context, name string, flags, mode uint32, out *gofuse.EntryOut) (*gofs.Inode, gofs.FileHandle, uint32, syscall.Errno) {
	if e := n.host.errno("create", name); e != 0 {
		return nil, nil, 0, e
	}
	i, f, _, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if e != 0 {
		return nil, nil, 0, e
	}
	return i, i.Operations().(*badNode).wrap(f), gofuse.FOPEN_DIRECT_IO, 0
}

type badFile struct {
	*gofs.LoopbackFile
	n *badNode
}

func (f *badFile) Read(ctx context.Context, p []byte, off int64) (gofuse.ReadResult, syscall.Errno) {
	if e := f.n.host.errno("read", f.n.name); e != 0 {
		return nil, e
	}
	return f.LoopbackFile.Read(ctx, p, off)
}

func (f *badFile) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if e := f.n.host.errno("write", f.n.name); e != 0 {
		return 0, e
	}
	return f.LoopbackFile.Write(ctx, p, off)
}

func (f *badFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if e := f.n.host.errno("fsync", f.n.name); e != 0 {
		return e
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

// TestHostFails: reads, writes and flushes of the device's file or of the metadata fail, and go on failing. What is read is right or EIO;
// once a write or a flush has failed the volume is read-only, with a reason; the server lives and ends; on a host that is well again
// everything that was synced is there.
func TestHostFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, match string
		ops         []string
		writes      bool // it can still be written to
	}{
		{"reads of the device", "device", []string{"read"}, true},
		{"writes to the device", "device", []string{"write"}, false},
		{"flushes of the device", "device", []string{"fsync"}, false},
		{"the whole device", "device", []string{"read", "write", "fsync"}, false},
		{"writes to the metadata", "*.log", []string{"write"}, false},
		{"flushes of the metadata", "*.log", []string{"fsync"}, false},
		{"everything", "*", []string{"read", "write", "fsync", "create"}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			h := newBadHost(t)
			v := newVolume(t, "--size", "64M", "--mount", t.TempDir())
			v.dir = filepath.Join(h.dir, "vol")
			v.start(t)
			old := pattern(1, 100*blockSize)
			path := v.write(t, "old", old)
			must(t, fsyncTree(v.mnt))
			h.fail(c.match, c.ops...)
			readsFail := c.match != "*.log" && c.ops[0] == "read"
			got, err := os.ReadFile(path)
			switch {
			case readsFail:
				wantErrno(t, "read", err, syscall.EIO)
			case err != nil || differAt(got, old) != len(old):
				t.Errorf("read: %v, %d bytes", err, len(got))
			}
			err = writeSynced(v.path("new"), pattern(2, 10*blockSize))
			if c.writes {
				must(t, err)
			} else {
				wantErrno(t, "write and fsync", err, syscall.EIO)
				wantErrno(t, "the next change", os.Mkdir(v.path("dir"), 0o755), syscall.EROFS)
				wantErrno(t, "the next write", writeSynced(path, nil), syscall.EROFS)
				v.wantReason(t)
			}
			v.ask(t, "leases")
			if strings.Contains(v.log.String(), "a request failed in the server") {
				t.Error("something went wrong in the server")
			}
			h.fail("")
			wantContent(t, path, old)
			v.kill()
			v.check(t)
			v.start(t)
			wantContent(t, path, old)
			if c.writes {
				wantContent(t, v.path("new"), pattern(2, 10*blockSize))
			}
			must(t, os.Mkdir(v.path("dir"), 0o755))
			v.stop(t)
			v.check(t)
		})
	}
}

// writeSynced writes a file and makes it durable.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
