package fuse_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
)

// TestDailyWork does through the kernel what people do with files every day.
// Each part has a directory of its own in one mount.
func TestDailyWork(t *testing.T) {
	s := testserver.Mounted(t)
	for _, part := range []struct {
		name string
		run  func(t *testing.T, dir string)
	}{
		{"Statfs", testStatfs}, // first: what others delete comes free a moment later
		{"Directories", testDirectories},
		{"Rename", testRename},
		{"Links", testLinks},
		{"ReadWrite", testReadWrite},
		{"Append", testAppend},
		{"Truncate", testTruncate},
		{"Times", testTimes},
		{"Sparse", testSparse},
		{"Fallocate", testFallocate},
		{"CopyFileRange", testCopyFileRange},
		{"Cp", testCp},
		{"Over4GiB", testOver4GiB},
		{"OpenUnlinked", testOpenUnlinked},
		{"SpecialFiles", testSpecialFiles},
		{"SocketXattr", func(t *testing.T, dir string) { testSocketXattr(t, dir, s.Socket) }},
		{"Xattr", testXattr},
		{"XattrLimits", testXattrLimits},
		{"XattrRights", testXattrRights},
		{"Capabilities", testCapabilities},
		{"Tmpfile", testTmpfile},
		{"ACLEnforced", testACLEnforced},
		{"ACLMode", testACLMode},
		{"ACLInherited", testACLInherited},
		{"ACLSetgid", testACLSetgid},
		{"Mmap", testMmap},
		{"Readdir", testReaddir},
		{"Names", testNames},
		{"Permissions", testPermissions},
		{"SetUID", testSetUID},
		{"Sync", testSync},
		{"Exec", testExec},
	} {
		t.Run(part.name, func(t *testing.T) {
			dir := filepath.Join(s.Mount, part.name)
			must(t, os.Mkdir(dir, 0o755))
			part.run(t, dir)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErrno(t *testing.T, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", filepath.Base(path), clip(string(got)), clip(want))
	}
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

func stat(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	must(t, unix.Lstat(path, &st))
	return st
}

func testDirectories(t *testing.T, dir string) {
	must(t, os.MkdirAll(dir+"/a/b/c", 0o750))
	if st := stat(t, dir+"/a"); st.Mode != syscall.S_IFDIR|0o750 || st.Nlink != 3 {
		t.Errorf("mode %o, %d links; want a directory of 0750 with 3 links", st.Mode, st.Nlink)
	}
	wantErrno(t, os.Mkdir(dir+"/a", 0o755), syscall.EEXIST)
	wantErrno(t, unix.Rmdir(dir+"/a"), syscall.ENOTEMPTY)
	wantErrno(t, unix.Rmdir(dir+"/none"), syscall.ENOENT)
	wantErrno(t, unix.Unlink(dir+"/a"), syscall.EISDIR)
	writeFile(t, dir+"/f", "x")
	wantErrno(t, unix.Rmdir(dir+"/f"), syscall.ENOTDIR)
	_, err := os.Stat(dir + "/f/x")
	wantErrno(t, err, syscall.ENOTDIR)
	must(t, os.RemoveAll(dir+"/a"))
	_, err = os.Stat(dir + "/a")
	wantErrno(t, err, syscall.ENOENT)
	// A directory that is someone's working directory can go.
	must(t, os.Mkdir(dir+"/cwd", 0o755))
	fd, err := unix.Open(dir+"/cwd", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Rmdir(dir+"/cwd"))
	if err := unix.Mkdirat(fd, "late", 0o755); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("mkdir in a removed directory: %v, want ENOENT", err)
	}
}

func testRename(t *testing.T, dir string) {
	writeFile(t, dir+"/one", "1")
	writeFile(t, dir+"/two", "2")
	must(t, os.Mkdir(dir+"/sub", 0o755))
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, dir+from, unix.AT_FDCWD, dir+to, flags)
	}
	wantErrno(t, rename("/one", "/two", unix.RENAME_NOREPLACE), syscall.EEXIST)
	must(t, rename("/one", "/two", unix.RENAME_EXCHANGE))
	wantContent(t, dir+"/one", "2")
	must(t, rename("/one", "/two", 0))
	wantContent(t, dir+"/two", "2")
	must(t, rename("/two", "/sub/three", 0))
	wantContent(t, dir+"/sub/three", "2")
	wantErrno(t, rename("/sub", "/sub/inside", 0), syscall.EINVAL)
	wantErrno(t, rename("/none", "/x", 0), syscall.ENOENT)
	must(t, os.Mkdir(dir+"/full", 0o755))
	writeFile(t, dir+"/full/f", "")
	wantErrno(t, rename("/sub", "/full", 0), syscall.ENOTEMPTY)
	wantErrno(t, rename("/sub", "/full/f", 0), syscall.ENOTDIR)
	must(t, rename("/sub", "/full/sub", 0))
	if a, b := stat(t, dir+"/full"), stat(t, dir); a.Nlink != 3 || b.Nlink != 3 {
		t.Errorf("links after a directory moved: %d and %d, want 3 and 3", a.Nlink, b.Nlink)
	}
	var up unix.Stat_t
	must(t, unix.Stat(dir+"/full/sub/..", &up))
	if up.Ino != stat(t, dir+"/full").Ino {
		t.Error(".. of a moved directory is not its new parent")
	}
}

func testLinks(t *testing.T, dir string) {
	writeFile(t, dir+"/f", "linked")
	must(t, os.Link(dir+"/f", dir+"/g"))
	a, b := stat(t, dir+"/f"), stat(t, dir+"/g")
	if a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		t.Errorf("hard link: inodes %d and %d, %d and %d links", a.Ino, b.Ino, a.Nlink, b.Nlink)
	}
	must(t, os.Remove(dir+"/f"))
	wantContent(t, dir+"/g", "linked")
	if n := stat(t, dir+"/g").Nlink; n != 1 {
		t.Errorf("%d links left, want 1", n)
	}
	wantErrno(t, os.Link(dir, dir+"/d"), syscall.EPERM)
	long := strings.Repeat("x/", 2000)
	for _, target := range []string{"g", "/no/where", long} {
		must(t, os.Symlink(target, dir+"/s"))
		got, err := os.Readlink(dir + "/s")
		must(t, err)
		if got != target {
			t.Errorf("symlink holds %q, want %q", clip(got), clip(target))
		}
		if st := stat(t, dir+"/s"); st.Size != int64(len(target)) || st.Mode&syscall.S_IFMT != syscall.S_IFLNK {
			t.Errorf("symlink: mode %o, size %d, want size %d", st.Mode, st.Size, len(target))
		}
		must(t, os.Remove(dir+"/s"))
	}
}

func mustOpenDir(t *testing.T, dir string) *os.File {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func testReaddir(t *testing.T, dir string) {
	const files = 3000
	want := map[string]bool{}
	for i := range files {
		name := fmt.Sprintf("file-%d-%s", i, strings.Repeat("n", i%50))
		fd, err := unix.Open(dir+"/"+name, unix.O_CREAT|unix.O_WRONLY, 0o644)
		must(t, err)
		unix.Close(fd)
		want[name] = true
	}
	// Each name is seen once while others come and go.
	d := mustOpenDir(t, dir)
	seen := map[string]int{}
	for i := 0; ; i++ {
		names, err := d.Readdirnames(100)
		for _, n := range names {
			seen[n]++
		}
		if err == io.EOF {
			break
		}
		must(t, err)
		if i < 20 { // new names come at the end: with more of them the reading would not end
			must(t, os.Remove(dir+"/"+names[0]))
			writeFile(t, fmt.Sprintf("%s/later-%d", dir, i), "")
		}
	}
	for name := range want {
		if seen[name] != 1 {
			t.Errorf("%s was seen %d times", name, seen[name])
		}
	}
	// A position can be returned to.
	_, err := d.Seek(0, io.SeekStart)
	must(t, err)
	again, err := d.ReadDir(-1)
	must(t, err)
	left := len(again)
	for _, e := range again {
		if info, err := e.Info(); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", e.Name(), info, err)
		}
		must(t, os.Remove(dir+"/"+e.Name()))
	}
	if left != files {
		t.Errorf("%d files at the end, want as many as came: %d", left, files)
	}
}

func testNames(t *testing.T, dir string) {
	for _, name := range []string{strings.Repeat("n", 255), "new\nline", "ünïcödé", "\xff\xfe", " ", `back\slash`, "...", "-rf"} {
		writeFile(t, dir+"/"+name, name)
		wantContent(t, dir+"/"+name, name)
	}
	_, err := os.Create(dir + "/" + strings.Repeat("n", 256))
	wantErrno(t, err, syscall.ENAMETOOLONG)
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 8 {
		t.Errorf("%d names, want 8", len(entries))
	}
}
