package fuse_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// command runs a program in dir.
func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return nil
}

// BenchmarkStreams writes a file from its beginning to its end, as dd does, with
// fsync, writes it over, and reads it. HOLDFAST_BENCH_MIB is its size. Microseconds
// are of a MiB.
func BenchmarkStreams(b *testing.B) {
	mib := envInt(b, "HOLDFAST_BENCH_MIB", 256)
	c := newContest(b, "cached", "direct", "passthrough")
	buf := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(buf)
	c.rounds(func(r *run) {
		for _, size := range []int{1 << 20, 128 << 10} {
			r.stream(filepath.Join(r.dir, fmt.Sprint("file", size)), mib, buf[:size])
		}
	})
}

func (r *run) stream(path string, mib int, buf []byte) {
	kib := len(buf) >> 10
	write := func() {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
		r.must(err)
		for left := mib << 20; left > 0; left -= len(buf) {
			_, err := f.Write(buf)
			r.must(err)
		}
		r.must(f.Sync())
		r.must(f.Close())
	}
	r.phase(fmt.Sprintf("write, %d KiB, fsync", kib), mib, write)
	r.phase(fmt.Sprintf("write over, %d KiB, fsync", kib), mib, write)
	r.phase(fmt.Sprintf("read, %d KiB", kib), mib, func() {
		f, err := os.Open(path)
		r.must(err)
		defer f.Close()
		for {
			if _, err := f.Read(buf); err == io.EOF {
				return
			}
			r.must(err)
		}
	})
}

// BenchmarkParallel has one worker and then two read and write at random places, of
// a file each or of one file. Microseconds are the time of a worker's operation by
// the number of workers: half with two is what two cores can give.
func BenchmarkParallel(b *testing.B) {
	c := newContest(b, "cached", "direct")
	c.rounds(func(r *run) {
		const files = 2
		var fds [files]int
		for i := range fds {
			fds[i] = r.filled(filepath.Join(r.dir, fmt.Sprint("file", i)), 64<<20)
			defer unix.Close(fds[i])
		}
		for _, size := range []int{4 << 10, 1 << 20} {
			for _, op := range []struct {
				name string
				io   func(int, []byte, int64) (int, error)
			}{{"read", unix.Pread}, {"write", unix.Pwrite}} {
				name := fmt.Sprintf("%s %d KiB", op.name, size>>10)
				r.workers(name+", 1 worker", size, op.io, fds[0])
				r.workers(name+", 2 of one file", size, op.io, fds[0], fds[0])
				r.workers(name+", 2 of two files", size, op.io, fds[0], fds[1])
			}
		}
	})
}

// filled returns a descriptor of a new file with size bytes.
func (r *run) filled(path string, size int) int {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	r.must(err)
	buf := make([]byte, 1<<20)
	for off := 0; off < size; off += len(buf) {
		_, err := unix.Pwrite(fd, buf, int64(off))
		r.must(err)
	}
	r.must(unix.Fsync(fd))
	return fd
}

// workers runs a worker on each of fds.
func (r *run) workers(name string, size int, op func(int, []byte, int64) (int, error), fds ...int) {
	const each = 40 * time.Millisecond
	var wg sync.WaitGroup
	errs := make([]error, len(fds))
	done := make([]int, len(fds))
	start := time.Now()
	for w, fd := range fds {
		wg.Go(func() {
			buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				errs[w] = err
				return
			}
			defer unix.Munmap(buf)
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for time.Since(start) < each && errs[w] == nil {
				_, errs[w] = op(fd, buf, rnd.Int64N(64<<20/int64(size))*int64(size))
				done[w]++
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	total := 0
	for w, err := range errs {
		r.must(err)
		total += done[w]
	}
	r.note(name, float64(took)/1e3/float64(total))
}
