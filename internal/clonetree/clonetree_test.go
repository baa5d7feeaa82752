package clonetree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func never() error { return nil }

// describe says all that a clone should have of what is below dir, links by the first
// name in order.
func describe(t *testing.T, dir string) (out []string) {
	t.Helper()
	first := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		line := fmt.Sprintf("%s mode %o owner %d:%d size %d mtime %v", name, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			must(t, err)
			if len(content) < 100 {
				line += fmt.Sprintf(" %q", content)
			}
		case unix.S_IFDIR:
			line = fmt.Sprintf("%s mode %o owner %d:%d mtime %v", name, st.Mode, st.Uid, st.Gid, st.Mtim)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			line += " to " + target
		}
		if b, err := grown(func(b []byte) (int, error) { return unix.Lgetxattr(path, "user.test", b) }); err == nil {
			line += fmt.Sprintf(" attribute %q", b)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if f, ok := first[st.Ino]; ok {
				line += " is " + f
			} else {
				first[st.Ino] = name
			}
		}
		out = append(out, line)
		return nil
	}))
	return out
}

// plant makes a tree of all kinds of files in dir.
func plant(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir+"/sub/deep", 0o755))
	must(t, os.Mkdir(dir+"/closed", 0o500))
	must(t, os.WriteFile(dir+"/file", []byte("content"), 0o640))
	must(t, os.WriteFile(dir+"/empty", nil, 0o600))
	must(t, os.WriteFile(dir+"/set-id", []byte("x"), 0o755))
	must(t, os.Chmod(dir+"/set-id", 0o755|os.ModeSetuid|os.ModeSetgid))
	must(t, os.Link(dir+"/file", dir+"/sub/link"))
	must(t, os.Symlink("../nowhere", dir+"/sub/symlink"))
	must(t, unix.Mkfifo(dir+"/sub/fifo", 0o600))
	must(t, os.WriteFile(dir+"/sub/deep/sparse", nil, 0o600))
	must(t, os.Truncate(dir+"/sub/deep/sparse", 8<<20))
	if err := unix.Setxattr(dir+"/file", "user.test", []byte("value"), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	old := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, name := range []string{"/file", "/sub/deep", "/sub", "/closed", ""} {
		must(t, os.Chtimes(dir+name, old, old))
	}
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir+"/src")
	want := describe(t, dir+"/src")
	must(t, Tree(never, dir+"/src", dir+"/dst"))
	if got := describe(t, dir+"/dst"); !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	// A tree in itself is not part of itself.
	must(t, Tree(never, dir+"/dst", dir+"/dst/sub/again"))
	if got := describe(t, dir+"/dst/sub/again"); len(got) != len(want) {
		t.Errorf("%d entries, want %d: %q", len(got), len(want), got)
	}
	if err := Tree(never, dir+"/src", dir+"/dst"); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("over another: %v", err)
	}
	if err := Tree(never, dir+"/src/file", dir+"/x"); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("of a file: %v", err)
	}
}

// TestStopped: what was not finished leaves nothing behind.
func TestStopped(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir+"/src")
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := Tree(func() error {
		if calls++; calls == 4 {
			cancel()
		}
		return ctx.Err()
	}, dir+"/src", dir+"/dst")
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("%v is left", entries)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir+"/src")
	must(t, File(dir+"/src/set-id", dir+"/clone"))
	must(t, os.Remove(dir+"/src/set-id"))
	got, err := os.ReadFile(dir + "/clone")
	must(t, err)
	st, err := os.Stat(dir + "/clone")
	must(t, err)
	if string(got) != "x" || st.Mode() != 0o755|os.ModeSetuid|os.ModeSetgid {
		t.Errorf("%q, mode %v", got, st.Mode())
	}
	if err := File(dir+"/src/file", dir+"/clone"); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("over another: %v", err)
	}
	if err := File(dir+"/src", dir+"/other"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("of a directory: %v", err)
	}
}
