package test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kernelVar names a tar file with the sources of Linux, as Debian's linux-source has it.
const kernelVar = "HOLDFAST_KERNEL"

// TestKernel builds Linux twice from sources that lie in the mount, into it: every object and the kernel come out the same, and the
// 80,000 files of the sources are what they were, now and after a remount. Without a tar file it has a small tree of its own.
func TestKernel(t *testing.T) {
	t.Parallel()
	need(t, "make")
	need(t, "gcc")
	archive, makeConfig, result := os.Getenv(kernelVar), "tinyconfig", "vmlinux"
	if archive == "" {
		archive, makeConfig, result = smallSource(t), "config", "program"
	}
	v := serve(t, "--size", "16G")
	host := t.TempDir()
	for _, dir := range []string{host, v.mnt} {
		t.Logf("tar into %s: %v", dir, runFor(t, time.Hour, "", nil, "tar", "-C", dir, "-xf", archive).Round(time.Second))
	}
	trees, err := os.ReadDir(host)
	must(t, err)
	plain, inside := filepath.Join(host, trees[0].Name()), v.path(trees[0].Name())
	for _, tree := range []string{plain, inside} { // some directories are not in the archive, and have the time of now
		runFor(t, time.Hour, tree, nil, "find", ".", "-type", "d", "-exec", "touch", "-d", "2001-01-01", "{}", "+")
	}
	env := []string{"KBUILD_BUILD_TIMESTAMP=2001-01-01", "KBUILD_BUILD_USER=user", "KBUILD_BUILD_HOST=host", "KBUILD_BUILD_VERSION=1"}
	var built []map[string]string
	for _, name := range []string{"first", "second"} {
		out := v.path("out") // for both: some objects tell where they were built
		must(t, os.Mkdir(out, 0o755))
		for _, target := range []string{makeConfig, result} {
			took := runFor(t, time.Hour, inside, env, "make", "-j2", "O="+out, target)
			t.Logf("make %s, %s: %v", target, name, took.Round(time.Second))
		}
		must(t, os.Rename(out, v.path(name)))
		built = append(built, objects(t, v.path(name)))
	}
	wantSameObjects(t, built[0], built[1])
	if built[0][result] == "" {
		t.Errorf("there is no %s", result)
	}
	t.Logf("%d objects are the same", len(built[0]))
	wantSameTree(t, plain, inside)
	v.stop(t)
	v.check(t)
	v.start(t)
	wantSameTree(t, plain, inside)
	wantSameObjects(t, built[0], objects(t, v.path("first")))
	wantSameObjects(t, built[0], objects(t, v.path("second")))
}

// runFor runs a program that takes its time and must succeed.
func runFor(t *testing.T, limit time.Duration, dir string, env []string, name string, args ...string) time.Duration {
	t.Helper()
	r := runWithin(t, limit, dir, env, name, args...)
	if r.status != 0 {
		t.Fatalf("%s %s: exit status %d\n%s%s", name, strings.Join(args, " "), r.status, r.out, r.err)
	}
	return r.took
}

// objects returns the hashes of what a build has made, by name.
func objects(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".cmd") || strings.HasSuffix(path, ".d") {
			return err // where it was built stands in those
		}
		ext := filepath.Ext(path)
		if ext != ".o" && ext != ".a" && ext != "" {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		found[rel], err = hashOf(path)
		return err
	})
	must(t, err)
	return found
}

func hashOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

func wantSameObjects(t *testing.T, want, got map[string]string) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%d objects, want %d", len(got), len(want))
	}
	for name, hash := range want {
		if got[name] != hash {
			t.Errorf("%s is %q, want %q", name, got[name], hash)
		}
	}
}

// smallSource makes a tar file of a program that is built as Linux is: from many small files, by make, into a directory elsewhere.
func smallSource(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	var decl, calls strings.Builder
	const parts = 60
	for i := range parts {
		sub := filepath.Join(dir, fmt.Sprint("dir", i%10))
		must(t, os.MkdirAll(sub, 0o755))
		must(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("part%d.c", i)), fmt.Appendf(nil, smallPart, i, i), 0o644))
		fmt.Fprintf(&decl, "int part%d(int);\n", i)
		fmt.Fprintf(&calls, "\tn = part%d(n);\n", i)
	}
	must(t, os.WriteFile(filepath.Join(dir, "parts.h"), []byte(decl.String()), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "main.c"), fmt.Appendf(nil, smallMain, calls.String()), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "Makefile"), []byte(smallMake), 0o644))
	archive := dir + ".tar"
	mustRun(t, "tar", "-C", filepath.Dir(dir), "-cf", archive, filepath.Base(dir))
	return archive
}

const (
	smallPart = `#include "parts.h"
int part%d(int n) { return n * 3 + %d; }
`
	smallMain = `#include <stdio.h>
#include "parts.h"
int main(void) {
	int n = 1;
%s	printf("%%d\n", n);
	return 0;
}
`
	smallMake = `parts := $(patsubst %.c,$(O)/%.o,$(wildcard dir*/*.c))
$(O)/program program: $(O)/lib.a $(O)/main.o
	$(CC) -o $(O)/program $(O)/main.o $(O)/lib.a
$(O)/lib.a: $(parts)
	ar rcD $@ $^
$(O)/%.o: %.c parts.h
	@mkdir -p $(@D)
	$(CC) -I. -O1 -c -o $@ $<
config:
	mkdir -p $(O)
`
)
