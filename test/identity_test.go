package test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestIdentity: what does not belong together is refused in clear words, and nothing is touched by the refusal.
func TestIdentity(t *testing.T) {
	t.Parallel()
	// A volume with something in it, and another one.
	mine, other := newVolume(t, "--no-mount", "--size", "64M"), newVolume(t, "--no-mount", "--size", "64M")
	for _, v := range []*volume{mine, other} {
		v.start(t)
		v.stop(t)
	}
	device := func(dir string) string { return filepath.Join(dir, "device") }
	old := filepath.Join(filepath.Dir(mine.dir), "old-device")
	mustRun(t, "cp", "--sparse=always", device(mine.dir), old)
	for range 2 {
		mine.start(t)
		mine.stop(t)
	}
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  []string // one of them is said
	}{
		{"truncated device", func(t *testing.T, dir string) { must(t, os.Truncate(device(dir), 40<<20)) }, []string{"smaller than the volume"}},
		{"foreign file", func(t *testing.T, dir string) { must(t, os.WriteFile(device(dir), pattern(6, 64<<20), 0o644)) }, []string{"not a Holdfast volume"}},
		{"empty file", func(t *testing.T, dir string) { must(t, os.Truncate(device(dir), 0)) }, []string{"not a Holdfast volume", "too small"}},
		{"file of zeros", func(t *testing.T, dir string) {
			must(t, os.Truncate(device(dir), 0))
			must(t, os.Truncate(device(dir), 64<<20))
		}, []string{"blank"}},
		{"other format version", func(t *testing.T, dir string) { raiseFormat(t, device(dir)) }, []string{"format version"}},
		{"store of another volume", func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "meta")))
			mustRun(t, "cp", "-a", filepath.Join(other.dir, "meta"), dir)
		}, []string{"different volumes"}},
		{"device of another volume", func(t *testing.T, dir string) {
			mustRun(t, "cp", "--sparse=always", device(other.dir), device(dir))
		}, []string{"different volumes"}},
		{"old copy of the device", func(t *testing.T, dir string) { mustRun(t, "cp", "--sparse=always", old, device(dir)) }, []string{"different generations"}},
		{"device lost", func(t *testing.T, dir string) { must(t, os.Remove(device(dir))) }, []string{"no device", "no such file"}},
		{"store lost", func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "meta"))) }, []string{"no metadata", "no volume"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := newVolume(t, "--no-mount")
			mustRun(t, "cp", "-a", "--sparse=always", mine.dir, v.dir)
			c.spoil(t, v.dir)
			before := treeHash(t, v.dir)
			for _, command := range []string{"serve", "check"} {
				args := []string{command, v.dir}
				if command == "serve" {
					args = append(args, "--no-mount")
				}
				r := run(t, v.bin, args...)
				// To check, what does not belong together is a problem that it found (4) or that it cannot get over (8).
				if (command == "serve" && r.status != 1) || (command == "check" && r.status != 4 && r.status != 8) {
					t.Errorf("holdfast %s: exit status %d\n%s%s", command, r.status, r.out, r.err)
				}
				wantClear(t, command, r.out+r.err, c.want)
			}
			if after := treeHash(t, v.dir); after != before {
				t.Errorf("something was touched:\nbefore:\n%s\nafter:\n%s", before, after)
			}
		})
	}
	t.Run("second server", func(t *testing.T) {
		v := newVolume(t, "--no-mount", "--size", "64M")
		v.start(t)
		for _, args := range [][]string{{"serve", "--no-mount", v.dir}, {"serve", "--no-mount", "--socket", filepath.Join(filepath.Dir(v.dir), "second"), v.dir}, {"check", v.dir}} {
			r := run(t, v.bin, args...)
			if r.status == 0 {
				t.Errorf("holdfast %s beside a server: it worked", strings.Join(args, " "))
			}
			wantClear(t, args[0], r.out+r.err, []string{"being served"})
		}
		// The first goes on as if nothing had been.
		v.ask(t, "leases")
		v.stop(t)
		v.check(t)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantClear wants a line for people that says what is wrong.
func wantClear(t *testing.T, command, text string, want []string) {
	t.Helper()
	if !slices.ContainsFunc(want, func(w string) bool { return strings.Contains(text, w) }) || strings.Contains(text, "goroutine ") {
		t.Errorf("holdfast %s says %q, want %q", command, text, want)
	}
}

// raiseFormat makes the device one of a later version of the format, which stands behind the magic number.
func raiseFormat(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	const versionAt = 8
	var version [4]byte
	_, err = f.ReadAt(version[:], versionAt)
	must(t, err)
	version[0]++
	_, err = f.WriteAt(version[:], versionAt)
	must(t, err)
}

// treeHash describes every file below dir: name, mode, time of modification, content. Taking a lock touches the file for it.
func treeHash(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Name() == "LOCK" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		fmt.Fprintf(&b, "%s %v %v %s\n", path, info.Mode(), info.ModTime().UnixNano(), hex.EncodeToString(sum[:8]))
		return nil
	})
	must(t, err)
	return b.String()
}
