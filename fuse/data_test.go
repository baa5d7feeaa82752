package fuse_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testReadWrite(t *testing.T, dir string) {
	data := make([]byte, 5<<20+1234)
	for i := range data {
		data[i] = byte(i*7 + i>>12)
	}
	must(t, os.WriteFile(dir+"/f", data, 0o600))
	wantContent(t, dir+"/f", string(data))
	f, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	// Odd offsets and lengths, across blocks and the end of the file.
	for _, at := range []struct{ off, n int }{{1, 1}, {4095, 2}, {4096, 4096}, {1<<20 - 3, 7}, {len(data) - 5, 5}, {len(data) - 1, 3000}} {
		patch := bytes.Repeat([]byte{0xA5}, at.n)
		_, err := f.WriteAt(patch, int64(at.off))
		must(t, err)
		if end := at.off + at.n; end > len(data) {
			data = append(data, make([]byte, end-len(data))...)
		}
		copy(data[at.off:], patch)
	}
	wantContent(t, dir+"/f", string(data))
	buf := make([]byte, 10)
	if n, err := f.ReadAt(buf, int64(len(data))-4); n != 4 || err != io.EOF {
		t.Errorf("read across the end: %d, %v", n, err)
	}
	if n, err := f.ReadAt(buf, int64(len(data))+100); n != 0 || err != io.EOF {
		t.Errorf("read behind the end: %d, %v", n, err)
	}
	fd, err := unix.Open(dir+"/f", unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, buf)
	wantErrno(t, err, syscall.EBADF)
}

func testAppend(t *testing.T, dir string) {
	const writers, each = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f, err := os.OpenFile(dir+"/log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for i := range each {
				fmt.Fprintf(f, "%d:%03d\n", w, i)
			}
		}()
	}
	wg.Wait()
	got, err := os.ReadFile(dir + "/log")
	must(t, err)
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	slices.Sort(lines)
	if n := len(slices.Compact(lines)); n != writers*each {
		t.Errorf("%d different lines, want %d", n, writers*each)
	}
}

func testTruncate(t *testing.T, dir string) {
	writeFile(t, dir+"/f", strings.Repeat("x", 10000))
	must(t, os.Truncate(dir+"/f", 5000))
	wantContent(t, dir+"/f", strings.Repeat("x", 5000))
	must(t, os.Truncate(dir+"/f", 9000))
	wantContent(t, dir+"/f", strings.Repeat("x", 5000)+strings.Repeat("\x00", 4000))
	must(t, os.Truncate(dir+"/f", 0))
	if st := stat(t, dir+"/f"); st.Size != 0 || st.Blocks != 0 {
		t.Errorf("size %d, %d blocks after truncate to 0", st.Size, st.Blocks)
	}
	writeFile(t, dir+"/f", "new") // O_TRUNC
	wantContent(t, dir+"/f", "new")
	wantErrno(t, os.Truncate(dir+"/f", -1), syscall.EINVAL)
	if err := os.Truncate(dir+"/f", 1<<62); !errors.Is(err, syscall.EFBIG) && !errors.Is(err, syscall.EINVAL) {
		t.Errorf("truncate to 2^62: %v, want EFBIG", err)
	}
	wantErrno(t, os.Truncate(dir, 0), syscall.EISDIR)
}

func testSparse(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("end"), 64<<20)
	must(t, err)
	if st := stat(t, dir+"/f"); st.Size != 64<<20+3 || st.Blocks > 256 {
		t.Errorf("size %d in %d blocks, want a sparse file", st.Size, st.Blocks)
	}
	hole := make([]byte, 8192)
	_, err = f.ReadAt(hole, 32<<20)
	must(t, err)
	if len(bytes.Trim(hole, "\x00")) != 0 {
		t.Error("a hole does not read as zeros")
	}
	seek := func(off int64, whence int, want int64) {
		t.Helper()
		if got, err := unix.Seek(int(f.Fd()), off, whence); err != nil || got != want {
			t.Errorf("seek %d from %d: %d, %v, want %d", whence, off, got, err, want)
		}
	}
	seek(0, unix.SEEK_DATA, 64<<20)
	seek(0, unix.SEEK_HOLE, 0)
	seek(64<<20, unix.SEEK_HOLE, 64<<20+3)
	_, err = unix.Seek(int(f.Fd()), 65<<20, unix.SEEK_DATA)
	wantErrno(t, err, syscall.ENXIO)
}

func testFallocate(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	fd := int(f.Fd())
	must(t, unix.Fallocate(fd, 0, 0, 1<<20))
	if st := stat(t, dir+"/f"); st.Size != 1<<20 || st.Blocks < 2048 {
		t.Errorf("allocated: size %d, %d blocks", st.Size, st.Blocks)
	}
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20))
	if st := stat(t, dir+"/f"); st.Size != 1<<20 || st.Blocks < 4096 {
		t.Errorf("allocated behind the end: size %d, %d blocks", st.Size, st.Blocks)
	}
	data := bytes.Repeat([]byte("y"), 1<<20)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 4000, 500_000))
	clear(data[4000 : 4000+500_000])
	wantContent(t, dir+"/f", string(data))
	if st := stat(t, dir+"/f"); st.Blocks > 4096-900 {
		t.Errorf("%d blocks after punching a hole, want fewer", st.Blocks)
	}
	before := stat(t, dir+"/f").Blocks
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 600_000, 500_000))
	data = append(data, make([]byte, 1_100_000-len(data))...)
	clear(data[600_000:])
	wantContent(t, dir+"/f", string(data))
	if now := stat(t, dir+"/f").Blocks; now != before {
		t.Errorf("%d blocks after zeroing, %d before", now, before)
	}
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 0, 2<<20))
	clear(data)
	wantContent(t, dir+"/f", string(data))
	// These the kernel does not pass to FUSE servers.
	for _, mode := range []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_UNSHARE_RANGE} {
		wantErrno(t, unix.Fallocate(fd, mode, 0, 4096), syscall.EOPNOTSUPP)
	}
	wantErrno(t, unix.Fallocate(fd, 0, 0, 0), syscall.EINVAL)
}

func testOver4GiB(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	for _, off := range []int64{1<<32 - 2, 5 << 30, 1 << 40} {
		_, err := f.WriteAt([]byte("data"), off)
		must(t, err)
		got := make([]byte, 4)
		_, err = f.ReadAt(got, off)
		must(t, err)
		if string(got) != "data" {
			t.Errorf("at %d: %q", off, got)
		}
	}
	if size := stat(t, dir+"/f").Size; size != 1<<40+4 {
		t.Errorf("size %d", size)
	}
}

// testMmap reads and writes through mappings, shared and private, and sees what
// write(2) did meanwhile. The server is another process: a page fault here must
// not wait for this one.
func testMmap(t *testing.T, dir string) {
	writeFile(t, dir+"/f", strings.Repeat("a", 8192))
	f, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	if m[0] != 'a' || m[8191] != 'a' {
		t.Fatal("the mapping does not show the file")
	}
	m[4096] = 'm'
	must(t, unix.Msync(m, unix.MS_SYNC))
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 4096)
	must(t, err)
	if b[0] != 'm' {
		t.Error("read does not see what the mapping wrote")
	}
	_, err = f.WriteAt([]byte("w"), 1)
	must(t, err)
	if m[1] != 'w' {
		t.Error("the mapping does not see what write wrote")
	}
}

func testSync(t *testing.T, dir string) {
	f, err := os.OpenFile(dir+"/f", os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o644)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("sync")
	must(t, err)
	must(t, f.Sync())
	must(t, unix.Fdatasync(int(f.Fd())))
	must(t, mustOpenDir(t, dir).Sync())
	must(t, unix.Syncfs(int(f.Fd())))
}

func testStatfs(t *testing.T, dir string) {
	free := func() int64 {
		var s unix.Statfs_t
		must(t, unix.Statfs(dir, &s))
		if s.Bsize != 4096 || int64(s.Blocks)*s.Bsize > 1<<30 || int64(s.Blocks)*s.Bsize < 1<<29 {
			t.Errorf("%d blocks of %d for a volume of 1 GiB", s.Blocks, s.Bsize)
		}
		return int64(s.Bavail) * s.Bsize
	}
	before := free()
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	must(t, unix.Fallocate(int(f.Fd()), 0, 0, 100<<20))
	if used := before - free(); used < 100<<20 || used > 110<<20 {
		t.Errorf("100 MiB allocated, df shows %d bytes less", used)
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, 2<<30)
	wantErrno(t, err, syscall.ENOSPC)
	must(t, os.Remove(dir+"/f"))
	f.Close()
	// The blocks return when the kernel lets go of the file, a moment later.
	deadline := time.Now().Add(10 * time.Second)
	for before-free() > 10<<20 {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes did not come back", before-free())
		}
		must(t, unix.Fsync(int(mustOpenDir(t, dir).Fd())))
	}
}

func testOpenUnlinked(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	must(t, os.Remove(dir+"/f"))
	_, err = f.WriteString("still here")
	must(t, err)
	buf := make([]byte, 10)
	_, err = f.ReadAt(buf, 0)
	must(t, err)
	if string(buf) != "still here" {
		t.Errorf("an unlinked open file holds %q", buf)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Nlink != 0 {
		t.Errorf("%d links, want 0", st.Nlink)
	}
	must(t, f.Truncate(5))
	must(t, f.Chmod(0o600))
}
