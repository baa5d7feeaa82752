package test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMetadataRots flips bits in the files of the metadata of a volume at rest. Then the server refuses to start, or what it shows is
// right or EUCLEAN or EIO, and what is changed there goes well or fails with one of these or EROFS. It does not panic, lives, and ends.
func TestMetadataRots(t *testing.T) {
	t.Parallel()
	places := 16
	if testing.Short() {
		places = 6
	}
	v := serve(t, "--size", "16M")
	tree := rotTree(t, v.mnt)
	v.stop(t)
	v.start(t) // which removes what is only history
	v.stop(t)
	whole := filepath.Join(filepath.Dir(v.dir), "whole")
	mustRun(t, "cp", "-a", "--sparse=always", v.dir, whole)
	files, total := metadataFiles(t, whole)
	var refused, damaged, harmless int
	for k := range places {
		at := total * int64(2*k+1) / int64(2*places)
		must(t, os.RemoveAll(v.dir))
		mustRun(t, "cp", "-a", "--sparse=always", whole, v.dir)
		place := flip(t, v.dir, files, at)
		v.log = &lockedBuffer{}
		switch err := v.tryStart(); {
		case err != nil:
			refused++
		default:
			n := readRotten(t, v, tree) + changeRotten(t, v, tree)
			if n > 0 {
				damaged++
			} else {
				harmless++
			}
			v.ask(t, "leases")
			// With an error, where it could not keep what was changed.
			v.server.Process.Signal(syscall.SIGTERM)
			select {
			case <-v.server.done:
			case <-time.After(patience):
				t.Error("the server does not end")
			}
		}
		r := run(t, v.bin, "check", v.dir)
		t.Logf("%s: refused %d, damaged %d, harmless %d, check %d", place, refused, damaged, harmless, r.status)
		for what, text := range map[string]string{"server": v.log.String(), "check": r.out + r.err} {
			if strings.Contains(text, "panic") || strings.Contains(text, "a request failed in the server") {
				t.Errorf("%s: the %s says\n%s", place, what, text)
			}
		}
		if t.Failed() {
			t.Fatalf("with %s", place)
		}
	}
	t.Logf("refused %d times, damage met %d times, harmless %d times", refused, damaged, harmless)
	if refused+damaged < places/2 {
		t.Errorf("%d flipped bits of %d did no harm", harmless, places)
	}
}

const rotDirs, rotFiles = 4, 60

// rotFile is what must be in a file.
type rotFile struct{ data, value []byte }

// rotTree makes a tree and returns its files by path below dir. Names and values cannot be compressed, so the metadata has many blocks.
func rotTree(t *testing.T, dir string) map[string]rotFile {
	t.Helper()
	tree, random := map[string]rotFile{}, rand.NewChaCha8([32]byte{})
	for d := range rotDirs {
		sub := fmt.Sprint("dir", d)
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
		for k := range rotFiles {
			noise := make([]byte, 240)
			random.Read(noise)
			name := filepath.Join(sub, fmt.Sprintf("%d-%x", k, noise[:100]))
			tree[name] = rotFile{pattern(byte(d*rotFiles+k), 100+k*200), noise[100:]}
			must(t, os.WriteFile(filepath.Join(dir, name), tree[name].data, 0o644))
			must(t, unix.Setxattr(filepath.Join(dir, name), "user.number", noise[100:], 0))
		}
	}
	return tree
}

// metadataFiles returns the files of the metadata, below the directory of the volume, and how many bytes they have together.
func metadataFiles(t *testing.T, dir string) (names []string, total int64) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "meta"))
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if info.Mode().IsRegular() {
			names, total = append(names, filepath.Join("meta", e.Name())), total+info.Size()
		}
	}
	return names, total
}

// flip flips a bit of the byte that is the at-th of all files together.
func flip(t *testing.T, dir string, files []string, at int64) (place string) {
	t.Helper()
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		if at < int64(len(data)) {
			data[at] ^= 1 << (at % 8)
			must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
			return fmt.Sprintf("byte %d of %s flipped", at, name)
		}
		at -= int64(len(data))
	}
	t.Fatal("no such byte")
	return ""
}

// rotten reports whether err is one that damage may cause.
func rotten(err error, also ...syscall.Errno) bool {
	return slices.ContainsFunc(append(also, syscall.EUCLEAN, syscall.EIO), func(e syscall.Errno) bool { return errors.Is(err, e) })
}

// readRotten looks at everything and returns how often that failed.
func readRotten(t *testing.T, v *volume, tree map[string]rotFile) (failed int) {
	t.Helper()
	for name, want := range tree {
		data, err := os.ReadFile(v.path(name))
		failed += wantRotten(t, "content of "+name, err, bytes.Equal(data, want.data))
		value := make([]byte, 1000)
		n, err := unix.Getxattr(v.path(name), "user.number", value)
		failed += wantRotten(t, "value of "+name, err, bytes.Equal(value[:max(n, 0)], want.value))
	}
	for d := range rotDirs {
		entries, err := os.ReadDir(v.path(fmt.Sprint("dir", d)))
		failed += wantRotten(t, fmt.Sprint("names in directory ", d), err, len(entries) == rotFiles)
	}
	return failed
}

// wantRotten: what was read is right, or there was an error as damage causes it; it returns 1 for that.
func wantRotten(t *testing.T, what string, err error, right bool) int {
	t.Helper()
	switch {
	case err == nil && !right:
		t.Errorf("wrong %s", what)
	case err != nil && !rotten(err):
		t.Errorf("%s: %v", what, err)
	case err != nil:
		return 1
	}
	return 0
}

// changeRotten changes a third of what there is, and returns how often that failed.
func changeRotten(t *testing.T, v *volume, tree map[string]rotFile) (failed int) {
	t.Helper()
	k := 0
	for name := range tree {
		path := v.path(name)
		if k++; k%3 != 0 {
			continue
		}
		for _, err := range []error{
			rewriteEnd(path),
			os.Truncate(path, 50),
			unix.Setxattr(path, "user.number", []byte("other"), 0),
			os.Chmod(path, 0o600),
			os.Link(path, path+".link"),
			os.Rename(path, v.path(fmt.Sprintf("dir%d", k%rotDirs), fmt.Sprint("moved", k))),
			os.Remove(path + ".link"),
			os.WriteFile(path+".new", pattern(1, 5000), 0o644),
			os.Chtimes(v.path(filepath.Dir(name)), time.Time{}, time.Unix(1, 0)),
		} {
			switch {
			case err == nil:
			case rotten(err, syscall.EROFS), failed > 0 && errors.Is(err, os.ErrNotExist): // the link was not made
				failed++
			default:
				t.Errorf("change: %v", err)
			}
		}
	}
	if err := fsyncTree(v.mnt); err != nil && !rotten(err, syscall.EROFS) {
		t.Errorf("fsync: %v", err)
	}
	return failed
}

func rewriteEnd(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(pattern(9, 3000))
	return errors.Join(err, f.Close())
}
