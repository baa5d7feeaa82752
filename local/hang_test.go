package local_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"holdfast/local/localtest"
	"holdfast/wire"
)

// A client's own filesystem, whose files cannot be closed until it says so.
type stuckFile struct {
	fs.MemRegularFile
	closing chan struct{} // one for each close that hangs
	release chan struct{}
}

func (f *stuckFile) Flush(ctx context.Context, h fs.FileHandle) syscall.Errno {
	select {
	case f.closing <- struct{}{}:
	default:
	}
	<-f.release
	return 0
}

// Descriptors whose close hangs cost their user a few threads of the server, and
// nobody else anything.
func TestDescriptorsThatDoNotClose(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root mounts without fusermount")
	}
	dir := t.TempDir()
	file := &stuckFile{closing: make(chan struct{}, 100), release: make(chan struct{})}
	root := &fs.Inode{}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, Name: "stuck"},
		OnAdd: func(ctx context.Context) {
			root.AddChild("f", root.NewPersistentInode(ctx, file, fs.StableAttr{Mode: syscall.S_IFREG}), true)
		},
	})
	if err != nil {
		t.Skip("no FUSE mount here:", err)
	}
	// The order matters when the test fails: closes go on, descriptors go, the server
	// goes, and last the mount. A process that exits with a descriptor of its own FUSE
	// mount waits for itself for ever.
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	s := localtest.Start(t, localtest.Options{})
	fd, err := unix.Open(filepath.Join(dir, "f"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	release := sync.OnceFunc(func() {
		close(file.release)
		unix.Close(fd)
	})
	t.Cleanup(release)
	other, _ := hello(t, s.Socket, 0)
	const n = 20
	for range n {
		r, _ := hello(t, s.Socket, 0)
		r.send(message(wire.OpWho, nil), fd)
		r.f.Close()
	}
	for range 8 {
		<-file.closing
		other.ping()
	}
	select {
	case <-file.closing:
		t.Error("more closes hang than a user is allowed")
	default:
	}
	mine := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	other.lease(s, mine)
	release()
	s.Await(t, "guilty sessions end", func() bool { return s.Stats().Sessions == 1 })
}
