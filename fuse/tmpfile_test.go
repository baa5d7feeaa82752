package fuse_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
)

func tmpfile(t *testing.T, dir string, flags int) *os.File {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|flags, 0o640)
	must(t, err)
	f := os.NewFile(uintptr(fd), "tmpfile")
	t.Cleanup(func() { f.Close() })
	return f
}

func self(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func testTmpfile(t *testing.T, dir string) {
	var empty, full unix.Statfs_t
	must(t, unix.Statfs(dir, &empty))
	before := stat(t, dir)
	f := tmpfile(t, dir, 0)
	_, err := f.WriteString(strings.Repeat("content ", 100_000))
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Nlink != 0 || st.Mode != syscall.S_IFREG|0o640 || st.Size != 800_000 {
		t.Errorf("mode %o, %d links, size %d", st.Mode, st.Nlink, st.Size)
	}
	wantNames(t, dir)
	if after := stat(t, dir); after.Mtim != before.Mtim {
		t.Error("the directory's mtime changed, though it has no new name")
	}
	// It gets a name.
	must(t, unix.Linkat(unix.AT_FDCWD, self(f), unix.AT_FDCWD, dir+"/named", unix.AT_SYMLINK_FOLLOW))
	wantNames(t, dir, "named")
	wantContent(t, dir+"/named", strings.Repeat("content ", 100_000))
	if st := stat(t, dir+"/named"); st.Nlink != 1 {
		t.Errorf("%d links", st.Nlink)
	}
	must(t, os.Remove(dir+"/named"))
	wantErrno(t, unix.Linkat(unix.AT_FDCWD, self(f), unix.AT_FDCWD, dir+"/again", unix.AT_SYMLINK_FOLLOW), syscall.ENOENT)
	f.Close()
	// With O_EXCL it never does.
	f = tmpfile(t, dir, unix.O_EXCL)
	wantErrno(t, unix.Linkat(unix.AT_FDCWD, self(f), unix.AT_FDCWD, dir+"/excl", unix.AT_SYMLINK_FOLLOW), syscall.ENOENT)
	f.Close()
	if os.Geteuid() == 0 {
		f = tmpfile(t, dir, 0)
		must(t, unix.Linkat(int(f.Fd()), "", unix.AT_FDCWD, dir+"/byfd", unix.AT_EMPTY_PATH))
		must(t, os.Remove(dir+"/byfd"))
		f.Close()
	}
	// Closed without a name, it is gone.
	f = tmpfile(t, dir, 0)
	_, err = f.Write(make([]byte, 1<<20))
	must(t, err)
	f.Close()
	wantNames(t, dir)
	eventually(t, "the blocks are free again", func() bool {
		must(t, unix.Statfs(dir, &full))
		return full.Bfree >= empty.Bfree
	})
	_, err = unix.Open(dir+"/none", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	wantErrno(t, err, syscall.ENOENT)
}

// eventually waits for what the kernel brings about a moment after close, for which
// there is no event.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		runtime.Gosched()
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

// TestTmpfileCrash: of a file without a name a crash leaves nothing; one that was
// given a name and synced is there.
func TestTmpfileCrash(t *testing.T) {
	s := testserver.Mounted(t)
	lost, kept := tmpfile(t, s.Mount, 0), tmpfile(t, s.Mount, 0)
	for _, f := range []*os.File{lost, kept} {
		_, err := f.WriteString("content")
		must(t, err)
	}
	must(t, unix.Linkat(unix.AT_FDCWD, self(kept), unix.AT_FDCWD, s.Mount+"/kept", unix.AT_SYMLINK_FOLLOW))
	must(t, kept.Sync())
	must(t, lost.Sync())
	s.Kill()
	lost.Close()
	kept.Close()
	s = s.Restart()
	wantNames(t, s.Mount, "kept")
	wantContent(t, s.Mount+"/kept", "content")
	if st := stat(t, s.Mount+"/kept"); st.Nlink != 1 {
		t.Errorf("%d links", st.Nlink)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(s.Mount, &fs))
	if used := fs.Blocks - fs.Bfree; used != 1 {
		t.Errorf("%d blocks are in use, want that of the named file", used)
	}
}
