package fuse_test

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
	"holdfast/server"
)

// TestFull: df says to the block what a volume has room for, also at its end, and a write for which
// there is not enough room writes what there is room for.
func TestFull(t *testing.T) {
	s := testserver.Mounted(t, testserver.With(func(c *server.Config) { c.Size = 16 << 20 }))
	free := func() int64 {
		var st unix.Statfs_t
		must(t, unix.Statfs(s.Mount, &st))
		if st.Bfree != st.Bavail {
			t.Errorf("%d blocks are free, %d available", st.Bfree, st.Bavail)
		}
		return int64(st.Bfree)
	}
	f, err := os.Create(s.Mount + "/f")
	must(t, err)
	defer f.Close()
	fd := int(f.Fd())
	was := free()
	for _, c := range []struct {
		what string
		do   func() error
		take int64
	}{
		{"a byte", func() error { _, err := f.WriteAt([]byte("x"), 0); return err }, 1},
		{"a byte behind a hole", func() error { _, err := f.WriteAt([]byte("x"), 1<<20); return err }, 1},
		{"an overwrite", func() error { _, err := f.WriteAt([]byte("y"), 0); return err }, 0},
		{"truncate up", func() error { return f.Truncate(2 << 20) }, 0},
		{"fallocate", func() error { return unix.Fallocate(fd, 0, 0, 1<<20) }, 255},
		{"punch", func() error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100, 3*4096)
		}, -2},
		{"truncate down", func() error { return f.Truncate(1 << 20) }, -1},
		{"names", func() error { return os.MkdirAll(s.Mount+"/a/b/c", 0o755) }, 0},
	} {
		must(t, c.do())
		if now := free(); was-now != c.take {
			t.Errorf("%s takes %d blocks, want %d", c.what, was-now, c.take)
		}
		was = free()
	}
	hog, err := os.Create(s.Mount + "/hog")
	must(t, err)
	defer hog.Close()
	for size := 512 << 10; ; {
		n, err := unix.Write(int(hog.Fd()), make([]byte, size))
		if err != nil {
			wantErrno(t, err, syscall.ENOSPC)
			break
		}
		was -= int64(n) / 4096
		if n%4096 != 0 || free() != was || n < size && was != 0 {
			t.Fatalf("%d bytes of %d were written, %d blocks are free, want %d", n, size, free(), was)
		}
	}
	if was != 0 {
		t.Errorf("ENOSPC with %d blocks free", was)
	}
	_, err = f.WriteAt(make([]byte, 100), 4096+10) // where it was punched
	wantErrno(t, err, syscall.ENOSPC)
	_, err = f.WriteAt([]byte("over"), 1<<19)
	must(t, err)
	must(t, unix.Fallocate(int(hog.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
	_, err = f.WriteAt(make([]byte, 100), 4096+10)
	must(t, err)
	if was := free(); was != 0 {
		t.Errorf("%d blocks are free", was)
	}
}
