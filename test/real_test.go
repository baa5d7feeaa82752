package test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestRealInput: what people have goes in and comes out as it was, and programs that have never heard of Holdfast run on it.
func TestRealInput(t *testing.T) {
	t.Parallel()
	v := serve(t, "--size", "4G")
	t.Run("inputs", func(t *testing.T) {
		t.Run("the Go source tree", func(t *testing.T) {
			t.Parallel()
			from := goSource(t)
			mustRun(t, "cp", "-a", from, v.path("src"))
			wantSameTree(t, from, v.path("src"))
		})
		t.Run("a program built inside", func(t *testing.T) {
			t.Parallel()
			buildInside(t, v)
		})
		t.Run("a git repository", func(t *testing.T) {
			t.Parallel()
			need(t, "git")
			cloneInside(t, v)
		})
	})
	v.stop(t)
	v.check(t)
	v.start(t)
	t.Run("after a remount", func(t *testing.T) {
		from := goSource(t)
		wantSameTree(t, from, v.path("src"))
		if r := run(t, v.path("built", "umem")); r.status != 2 || r.err != "usage: umem FILE\n" {
			t.Errorf("the program that was built: exit status %d, %q", r.status, r.err)
		}
		if _, err := os.Stat(v.path("clone")); err == nil {
			mustRun(t, "git", "-C", v.path("clone"), "fsck", "--full", "--strict")
		}
	})
}

// goSource returns where the sources of Go are, or of its runtime in a short run.
func goSource(t *testing.T) string {
	t.Helper()
	src := filepath.Join(strings.TrimSpace(mustRun(t, "go", "env", "GOROOT")), "src")
	if testing.Short() {
		src = filepath.Join(src, "runtime")
	}
	return src
}

// wantSameTree compares names, types, modes, owners, times to the nanosecond, links and every byte.
func wantSameTree(t *testing.T, from, to string) {
	t.Helper()
	files, dirs := 0, 0
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs++
			if err := sameNames(path, filepath.Join(to, rel)); err != nil {
				t.Error(err)
			}
		} else {
			files++
		}
		if err := sameFile(path, filepath.Join(to, rel)); err != nil {
			t.Errorf("%s: %v", rel, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d files in %d directories are the same", files, dirs)
}

func sameNames(a, b string) error {
	as, err := os.ReadDir(a)
	bs, berr := os.ReadDir(b)
	if err := errors.Join(err, berr); err != nil {
		return err
	}
	if len(as) != len(bs) {
		return fmt.Errorf("%s has %d entries, the copy %d", a, len(as), len(bs))
	}
	for i := range as {
		if as[i].Name() != bs[i].Name() {
			return fmt.Errorf("%s: %s in one, %s in the other", a, as[i].Name(), bs[i].Name())
		}
	}
	return nil
}

func sameFile(a, b string) error {
	var as, bs syscall.Stat_t
	if err := errors.Join(syscall.Lstat(a, &as), syscall.Lstat(b, &bs)); err != nil {
		return err
	}
	isDir := as.Mode&syscall.S_IFMT == syscall.S_IFDIR
	switch {
	case as.Mode != bs.Mode:
		return fmt.Errorf("mode %o, was %o", bs.Mode, as.Mode)
	case os.Geteuid() == 0 && (as.Uid != bs.Uid || as.Gid != bs.Gid): // others give files to nobody
		return fmt.Errorf("owner %d:%d, was %d:%d", bs.Uid, bs.Gid, as.Uid, as.Gid)
	case as.Mtim != bs.Mtim:
		return fmt.Errorf("mtime %v, was %v", bs.Mtim, as.Mtim)
	case !isDir && as.Size != bs.Size:
		return fmt.Errorf("size %d, was %d", bs.Size, as.Size)
	}
	switch as.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		at, err := os.Readlink(a)
		bt, berr := os.Readlink(b)
		if err := errors.Join(err, berr); err != nil || at != bt {
			return fmt.Errorf("link to %q, was %q: %w", bt, at, err)
		}
	case syscall.S_IFREG:
		ab, err := os.ReadFile(a)
		bb, berr := os.ReadFile(b)
		if err := errors.Join(err, berr); err != nil {
			return err
		}
		if !bytes.Equal(ab, bb) {
			return fmt.Errorf("content differs from %d on", differAt(ab, bb))
		}
	}
	return nil
}

// checkout returns the root of this module's source.
func checkout(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildInside copies this project's sources in and builds them there: sources, cache, temporary files and result are all on the
// mount. Only the modules it needs come from outside, and nothing from the network.
func buildInside(t *testing.T, v *volume) {
	root := checkout(t)
	in := v.path("project")
	if err := os.Mkdir(in, 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && e.Name() != "test" {
			mustRun(t, "cp", "-a", filepath.Join(root, e.Name()), in)
		}
	}
	for _, d := range []string{"built", "cache", "tmp"} {
		if err := os.Mkdir(v.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"GOCACHE=" + v.path("cache"), "GOTMPDIR=" + v.path("tmp"), "GOPROXY=off", "CGO_ENABLED=0", "GOFLAGS=-mod=mod -buildvcs=false"}
	// All of it takes minutes on two cores, with an empty cache. An example, the library and what of the standard library they need
	// are 76 packages.
	r := runIn(t, in, env, "go", "build", "-o", v.path("built", "umem"), "./examples/umem")
	if r.status != 0 {
		t.Fatalf("go build inside the mount: %s%s", r.out, r.err)
	}
}

// cloneInside makes a repository of this project's sources on the mount, clones it there and checks the clone.
func cloneInside(t *testing.T, v *volume) {
	root, repo := checkout(t), v.path("repo")
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t", "HOME=" + v.mnt}
	git := func(dir string, args ...string) string {
		t.Helper()
		r := runIn(t, dir, env, "git", args...)
		if r.status != 0 {
			t.Fatalf("git %s: %s%s", strings.Join(args, " "), r.out, r.err)
		}
		return r.out
	}
	git("", "init", "-q", repo)
	mustRun(t, "cp", "-a", filepath.Join(root, "layout"), filepath.Join(root, "docs"), filepath.Join(root, "go.sum"), repo)
	for i := range 20 { // a history, then packs
		if err := os.WriteFile(filepath.Join(repo, "changing"), pattern(byte(i), 3*blockSize), 0o644); err != nil {
			t.Fatal(err)
		}
		git(repo, "add", "-A")
		git(repo, "commit", "-q", "-m", fmt.Sprint("commit ", i))
	}
	git(repo, "gc", "-q")
	git("", "clone", "-q", "--no-hardlinks", repo, v.path("clone"))
	git(v.path("clone"), "fsck", "--full", "--strict")
	if s := git(v.path("clone"), "status", "--porcelain"); s != "" {
		t.Errorf("the clone differs from what was committed:\n%s", s)
	}
	if a, b := git(repo, "rev-parse", "HEAD"), git(v.path("clone"), "rev-parse", "HEAD"); a != b {
		t.Errorf("the clone is at %s, want %s", b, a)
	}
}
