package fuse_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// free returns the free bytes of the volume once nothing is pending.
func free(t *testing.T, dir string) int64 {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	must(t, unix.Syncfs(int(d.Fd())))
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Bfree) * st.Frsize
}

func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>12)
	}
	return p
}

func testCopyFileRange(t *testing.T, dir string) {
	data := pattern(3<<20 + 500)
	must(t, os.WriteFile(dir+"/src", data, 0o644))
	src, err := os.Open(dir + "/src")
	must(t, err)
	defer src.Close()
	dst, err := os.Create(dir + "/dst")
	must(t, err)
	defer dst.Close()
	var want []byte
	for _, c := range []struct{ from, to, n int }{
		{0, 0, len(data)},         // all of it
		{4096, 8192, 100_000},     // whole blocks, and a rest
		{100, 100, 9000},          // beginning and end within blocks
		{1, 2, 20_000},            // blocks that do not lie alike
		{0, 2 << 20, 3<<20 + 500}, // growing
		{3 << 20, 6 << 20, 4096},  // up to the end of the source, behind that of the target
		{3<<20 + 500, 0, 4096},    // nothing
	} {
		n := min(c.n, len(data)-c.from)
		for done := 0; done < n; {
			off, at := int64(c.from+done), int64(c.to+done)
			k, err := unix.CopyFileRange(int(src.Fd()), &off, int(dst.Fd()), &at, n-done, 0)
			must(t, err)
			if k == 0 {
				t.Fatalf("%+v: it ended after %d bytes", c, done)
			}
			done += k
		}
		if end := c.to + n; n > 0 && end > len(want) {
			want = append(want, make([]byte, end-len(want))...)
		}
		copy(want[min(c.to, len(want)):], data[c.from:c.from+n])
		wantContent(t, dir+"/dst", string(want))
	}
	off, at := int64(0), int64(4096)
	_, err = unix.CopyFileRange(int(src.Fd()), &off, int(src.Fd()), &at, 8192, 0)
	wantErrno(t, err, syscall.EBADF) // it is open for reading
	rw, err := os.OpenFile(dir+"/dst", os.O_RDWR, 0)
	must(t, err)
	defer rw.Close()
	off, at = 0, 4096
	_, err = unix.CopyFileRange(int(rw.Fd()), &off, int(rw.Fd()), &at, 8192, 0)
	wantErrno(t, err, syscall.EINVAL) // onto itself
	// Mappings see what was copied.
	m, err := unix.Mmap(int(rw.Fd()), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	before := m[4096]
	off, at = 8192, 4096
	_, err = unix.CopyFileRange(int(src.Fd()), &off, int(rw.Fd()), &at, 4096, 0)
	must(t, err)
	if !bytes.Equal(m[4096:], data[8192:8192+4096]) {
		t.Errorf("a mapping sees %#x, and %#x before the copy", m[4096], before)
	}
	// The kernel does not pass FICLONE to FUSE servers.
	wantErrno(t, unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), syscall.EOPNOTSUPP)
}

// testCp: cp shares blocks, and what is written to one file later does not show in the
// other.
func testCp(t *testing.T, dir string) {
	data := pattern(16<<20 + 123)
	must(t, os.WriteFile(dir+"/src", data, 0o644))
	sparse, err := os.Create(dir + "/sparse")
	must(t, err)
	defer sparse.Close()
	_, err = sparse.WriteAt([]byte("far"), 1<<30)
	must(t, err)
	before := free(t, dir)
	for _, name := range []string{"src", "sparse"} {
		if out, err := exec.Command("cp", "--reflink=auto", dir+"/"+name, dir+"/"+name+".copy").CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	if after := free(t, dir); before-after > 1<<20 {
		t.Errorf("cp took %d bytes", before-after)
	}
	if st := stat(t, dir+"/sparse.copy"); st.Size != 1<<30+3 || st.Blocks > 64 {
		t.Errorf("the copy of a sparse file: %d bytes, %d blocks", st.Size, st.Blocks)
	}
	f, err := os.OpenFile(dir+"/src.copy", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	changed := bytes.Clone(data)
	for off := 1000; off < len(data); off += 1 << 20 {
		copy(changed[off:], "changed")
		_, err := f.WriteAt([]byte("changed"), int64(off))
		must(t, err)
	}
	must(t, f.Sync())
	wantContent(t, dir+"/src", string(data))
	wantContent(t, dir+"/src.copy", string(changed))
	must(t, os.Remove(dir+"/src"))
	got, err := io.ReadAll(f)
	must(t, err)
	if !bytes.Equal(got, changed) {
		t.Error("the copy has changed with its source")
	}
}
