//lint:file-ignore SA1019 LoopbackRoot.NewNode is the short way to nodes of another type

package fuse_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

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

const directFlags = gofuse.FOPEN_DIRECT_IO | gofuse.FOPEN_NOFLUSH | gofuse.FOPEN_PARALLEL_DIRECT_WRITES

// directNode is a node of the loopback whose files are opened as Holdfast opens
// its own.
type directNode struct{ gofs.LoopbackNode }

func (n *directNode) Open(ctx context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	f, _, err := n.LoopbackNode.Open(ctx, flags)
	return f, directFlags, err
}

func (n *directNode) Create(ctx context.Context, name string, flags, mode uint32, out *gofuse.EntryOut) (*gofs.Inode, gofs.FileHandle, uint32, syscall.Errno) {
	i, f, _, err := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return i, f, directFlags, err
}

func serveLoopback(mode, from, at string) {
	root := &gofs.LoopbackRoot{Path: from}
	var node gofs.InodeEmbedder = &gofs.LoopbackNode{RootData: root}
	if mode == "direct" || mode == "spliced" {
		root.NewNode = func(r *gofs.LoopbackRoot, _ *gofs.Inode, _ string, _ *syscall.Stat_t) gofs.InodeEmbedder {
			return &directNode{gofs.LoopbackNode{RootData: r}}
		}
		node = root.NewNode(root, nil, "", nil)
	}
	root.RootNode = node
	// As the library's own example has them: without, the kernel asks for each name each time.
	timeout := time.Second
	opts := &gofs.Options{AttrTimeout: &timeout, EntryTimeout: &timeout, NullPermissions: true, MountOptions: gofuse.MountOptions{
		DirectMount: true, FsName: from, Name: "loopback", MaxWrite: 1 << 20, MaxBackground: 64,
		// A reply of 1 MiB fits into no pipe: with splicing on, the library tries it
		// all the same each time, fails, and logs that.
		DisableSplice: mode == "direct",
		Logger:        log.New(io.Discard, "", 0),
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
// below both: each server in a process of its own, all of them up at once.
//
// The loopback in mode direct opens its files as Holdfast does, for direct I/O;
// in mode cached the kernel's page cache answers most reads, which a filesystem
// with direct writers cannot let it do; in mode passthrough the kernel does not
// ask the server at all.
//
// An iteration is a round: a batch of operations on each of them, at the same
// offsets. What else the machine does meets all of them alike, so the ratios within
// a round can be trusted where times cannot. Reported are the medians over the
// rounds: of the time of an operation, and of Holdfast's time by each other's.
func BenchmarkRandom(b *testing.B) {
	testserver.NeedMount(b)
	targets := []*target{{name: "holdfast", dir: testserver.Mounted(b).Mount}}
	for _, mode := range []string{"direct", "spliced", "cached", "passthrough"} {
		targets = append(targets, &target{name: mode, dir: loopback(b, mode)})
	}
	targets = append(targets, &target{name: "file", dir: b.TempDir()})
	for _, t := range targets {
		t.fd = benchFile(b, filepath.Join(t.dir, "file"))
	}
	for _, op := range []struct {
		name string
		io   func(int, []byte, int64) (int, error)
	}{{"read", unix.Pread}, {"write", unix.Pwrite}} {
		for _, size := range []int{1 << 20, 4 << 10} {
			b.Run(fmt.Sprintf("%s-%dKiB", op.name, size>>10), func(b *testing.B) {
				benchRandom(b, targets, size, op.io)
			})
		}
	}
}

// target is one of the systems that a benchmark compares.
type target struct {
	name, dir string
	fd        int
	perOp     []float64 // µs, of each round
}

// benchFile makes a file of benchSize, written, synced and read once.
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
	for off := int64(0); off < benchSize; off += int64(len(buf)) {
		if n, err := unix.Pread(fd, buf, off); err != nil || n != len(buf) {
			b.Fatalf("read at %d: %d, %v", off, n, err)
		}
	}
	return fd
}

func benchRandom(b *testing.B, targets []*target, size int, io func(int, []byte, int64) (int, error)) {
	// Aligned to a page: otherwise the kernel splits direct I/O.
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Munmap(buf)
	rnd := rand.New(rand.NewPCG(1, 2))
	// A batch takes some milliseconds, so that what disturbs one system disturbs the
	// next. Its first operations, which wake up an idle server, are not measured.
	const warmUp = 4
	offs := make([]int64, warmUp+max(16, 2<<20/size))
	for _, t := range targets {
		t.perOp = t.perOp[:0]
	}
	for b.Loop() {
		for i := range offs {
			offs[i] = rnd.Int64N(benchSize/int64(size)) * int64(size)
		}
		for _, i := range rnd.Perm(len(targets)) { // so that none always follows the same
			t := targets[i]
			var start time.Time
			for i, off := range offs {
				if i == warmUp {
					start = time.Now()
				}
				if n, err := io(t.fd, buf, off); err != nil || n != size {
					b.Fatalf("%s at %d: %d, %v", t.name, off, n, err)
				}
			}
			t.perOp = append(t.perOp, float64(time.Since(start))/1e3/float64(len(offs)-warmUp))
		}
	}
	b.ReportMetric(0, "ns/op") // of a round: says nothing
	for i, t := range targets {
		b.ReportMetric(median(t.perOp), t.name+"-µs")
		if i == 0 {
			continue
		}
		ratios := make([]float64, len(t.perOp))
		for j := range ratios {
			ratios[j] = targets[0].perOp[j] / t.perOp[j]
		}
		b.ReportMetric(median(ratios), "x-"+t.name)
	}
}

func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return s[len(s)/2]
}
