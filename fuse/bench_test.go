//lint:file-ignore SA1019 LoopbackRoot.NewNode is the short way to nodes of another type

package fuse_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
)

// loopbackEnv makes the test binary serve a bare loopback of the FUSE library,
// in the named mode, from and at the directories of its arguments.
const loopbackEnv = "HOLDFAST_BENCH_LOOPBACK"

func TestMain(m *testing.M) {
	if mode := os.Getenv(loopbackEnv); mode != "" {
		serveLoopback(mode, os.Args[1], os.Args[2])
		return
	}
	if kind := os.Getenv(holdEnv); kind != "" {
		if err := holdLease(kind, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testserver.Main(m)
}

// directNode is a node of the loopback whose files are opened as Holdfast opens
// its own.
type directNode struct{ gofs.LoopbackNode }

func (n *directNode) Open(ctx context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	f, _, err := n.LoopbackNode.Open(ctx, flags)
	return f, gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_NOFLUSH | gofuse.FOPEN_PARALLEL_DIRECT_WRITES, err
}

func serveLoopback(mode, from, at string) {
	root := &gofs.LoopbackRoot{Path: from}
	var node gofs.InodeEmbedder = &gofs.LoopbackNode{RootData: root}
	if mode == "direct" {
		root.NewNode = func(r *gofs.LoopbackRoot, _ *gofs.Inode, _ string, _ *syscall.Stat_t) gofs.InodeEmbedder {
			return &directNode{gofs.LoopbackNode{RootData: r}}
		}
		node = root.NewNode(root, nil, "", nil)
	}
	root.RootNode = node
	opts := &gofs.Options{MountOptions: gofuse.MountOptions{
		DirectMount: true, FsName: from, Name: "loopback", MaxWrite: 1 << 20, MaxBackground: 64,
	}}
	if mode != "passthrough" {
		opts.DisabledCapabilities = gofuse.CAP_PASSTHROUGH
	}
	s, err := gofs.Mount(at, node, opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	s.Unmount()
}

// loopback mounts a loopback in a process of its own and returns its mount point.
func loopback(b *testing.B, mode string) string {
	dir := b.TempDir()
	from, at := filepath.Join(dir, "from"), filepath.Join(dir, "at")
	for _, d := range []string{from, at} {
		if err := os.Mkdir(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe, from, at)
	cmd.Env = append(os.Environ(), loopbackEnv+"="+mode)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait()
		unix.Unmount(at, unix.MNT_DETACH)
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		b.Fatalf("loopback: %v", err)
	}
	return at
}

const benchSize = 256 << 20

// BenchmarkRandom compares reads and writes at random offsets through the mount
// with the same through a bare loopback of the same library, and with the file
// below both: all in one run, each server in a process of its own.
//
// The loopback in mode direct opens its files as Holdfast does, for direct I/O;
// in mode cached the kernel's page cache answers most reads, which a filesystem
// with direct writers cannot let it do; in mode passthrough the kernel does not
// ask the server at all.
func BenchmarkRandom(b *testing.B) {
	testserver.NeedMount(b)
	targets := []struct {
		name string
		dir  func(b *testing.B) string
	}{
		{"holdfast", func(b *testing.B) string { return testserver.Mounted(b).Mount }},
		{"loopback-direct", func(b *testing.B) string { return loopback(b, "direct") }},
		{"loopback-cached", func(b *testing.B) string { return loopback(b, "cached") }},
		{"loopback-passthrough", func(b *testing.B) string { return loopback(b, "passthrough") }},
		{"file", func(b *testing.B) string { return b.TempDir() }},
	}
	for _, t := range targets {
		b.Run(t.name, func(b *testing.B) {
			fd := benchFile(b, filepath.Join(t.dir(b), "file"))
			for _, op := range []struct {
				name string
				io   func(int, []byte, int64) (int, error)
			}{{"read", unix.Pread}, {"write", unix.Pwrite}} {
				for _, size := range []int{1 << 20, 4 << 10} {
					b.Run(fmt.Sprintf("%s-%dKiB", op.name, size>>10), func(b *testing.B) {
						benchRandom(b, fd, size, op.io)
					})
				}
			}
		})
	}
}

// benchFile makes a file of benchSize, written and synced.
func benchFile(b *testing.B, path string) int {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	buf := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(buf)
	for off := int64(0); off < benchSize; off += int64(len(buf)) {
		if n, err := unix.Pwrite(fd, buf, off); err != nil || n != len(buf) {
			b.Fatalf("write at %d: %d, %v", off, n, err)
		}
	}
	if err := unix.Fsync(fd); err != nil {
		b.Fatal(err)
	}
	return fd
}

func benchRandom(b *testing.B, fd, size int, io func(int, []byte, int64) (int, error)) {
	// Aligned to a page: otherwise the kernel splits direct I/O.
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Munmap(buf)
	rnd := rand.New(rand.NewPCG(1, 2))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		off := rnd.Int64N(benchSize/int64(size)) * int64(size)
		if n, err := io(fd, buf, off); err != nil || n != size {
			b.Fatalf("at %d: %d, %v", off, n, err)
		}
	}
}
