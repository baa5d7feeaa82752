package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
)

// smallHost mounts a host filesystem of size bytes.
func smallHost(t *testing.T, size string) string {
	t.Helper()
	testserver.NeedRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("none", dir, "tmpfs", 0, "mode=755,size="+size))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes files of 256 KiB until that fails, and returns how many there are.
func fill(dir string) (n int, err error) {
	for ; ; n++ {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("fill", n)))
		if err != nil {
			return n, err
		}
		_, err = f.Write(pattern(byte(n), 64*blockSize))
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return n, err
		}
	}
}

// wantReason waits for the log to say that the volume is read-only, and why.
func (v *volume) wantReason(t *testing.T) {
	t.Helper()
	eventually(t, "the log says why the volume is read-only", func() bool {
		return strings.Contains(v.log.String(), "volume is read-only from now on")
	})
}

// TestHostFull: where the host has less space than the volume, a write that it has no
// room for is ENOSPC and nothing else is wrong; room that is made can be used.
func TestHostFull(t *testing.T) {
	t.Parallel()
	host := smallHost(t, "24m")
	device := filepath.Join(host, "device")
	v := serve(t, "--size", "256M", "--device", device)
	n, err := fill(v.mnt)
	if !errors.Is(err, syscall.ENOSPC) || n < 8 {
		t.Fatalf("after %d files: %v", n, err)
	}
	for i := range n {
		wantContent(t, v.path(fmt.Sprint("fill", i)), pattern(byte(i), 64*blockSize))
	}
	for i := range n / 2 {
		must(t, os.Remove(v.path(fmt.Sprint("fill", i))))
	}
	must(t, os.Remove(v.path(fmt.Sprint("fill", n)))) // the one there was no room for
	must(t, syncDir(v.mnt))
	must(t, os.Mkdir(v.path("again"), 0o755))
	if k, err := fill(v.path("again")); !errors.Is(err, syscall.ENOSPC) || k < n/4 {
		t.Errorf("after half was deleted: %d files of %d, %v", k, n, err)
	}
	if strings.Contains(v.log.String(), "read-only") {
		t.Error("the volume is read-only")
	}
	v.stop(t)
	mustRun(t, v.bin, "check", "--device", device, v.dir)
}

// TestHostFullOfOthers: a host that has no room for the metadata either makes the
// volume read-only, with a reason; the server lives, and what was synced is there
// then and after a restart.
func TestHostFullOfOthers(t *testing.T) {
	t.Parallel()
	host := smallHost(t, "24m")
	v := newVolume(t, "--size", "8M")
	v.dir = filepath.Join(host, "vol")
	v.start(t)
	want := pattern(3, 10*blockSize)
	path := v.write(t, "kept", want)
	f, err := os.Open(path)
	must(t, err)
	must(t, errors.Join(f.Sync(), f.Close(), syncDir(v.mnt)))
	hog, err := os.Create(filepath.Join(host, "hog"))
	must(t, err)
	for err == nil {
		_, err = hog.Write(make([]byte, blockSize))
	}
	must(t, hog.Close())
	for n := 0; ; n++ {
		err := os.WriteFile(v.path(fmt.Sprint("name", n)), nil, 0o644)
		if err == nil {
			err = syncDir(v.mnt)
		}
		if err != nil {
			t.Logf("file %d: %v", n, err)
			break
		}
		if n > 20_000 {
			t.Fatal("metadata needs no space")
		}
	}
	wantErrno(t, "the next change", os.Mkdir(v.path("dir"), 0o755), syscall.EROFS)
	wantContent(t, path, want)
	v.wantReason(t)
	must(t, os.Remove(filepath.Join(host, "hog")))
	v.kill()
	v.check(t)
	v.start(t)
	wantContent(t, path, want)
	must(t, os.Mkdir(v.path("dir"), 0o755))
	v.stop(t)
	v.check(t)
}

// TestDeviceCutShort: the device's file is truncated under the server. What is gone is
// EIO, never zeros; the rest can be read; nothing is written any more.
func TestDeviceCutShort(t *testing.T) {
	t.Parallel()
	v := serve(t, "--size", "64M")
	first, last := v.write(t, "first", pattern(1, blockSize)), v.write(t, "last", pattern(2, 8<<20))
	must(t, syncDir(v.mnt))
	device := filepath.Join(v.dir, "device")
	must(t, os.Truncate(device, 2<<20))
	f, err := os.OpenFile(last, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(make([]byte, blockSize), 8<<20-blockSize)
	wantErrno(t, "read of what is gone", err, syscall.EIO)
	_, err = f.WriteAt(make([]byte, blockSize), 8<<20-blockSize)
	wantErrno(t, "write", err, syscall.EIO)
	wantErrno(t, "the next change", os.Mkdir(v.path("dir"), 0o755), syscall.EROFS)
	v.wantReason(t)
	_, err = f.ReadAt(make([]byte, blockSize), 4<<20)
	wantErrno(t, "read of what is gone", err, syscall.EIO)
	wantContent(t, first, pattern(1, blockSize))
	if st, err := os.Stat(device); err != nil || st.Size() != 2<<20 {
		t.Errorf("the device has %d bytes now, %v", st.Size(), err)
	}
	f.Close()
	v.kill()
	if r := run(t, v.bin, "check", v.dir); r.status == 0 || !strings.Contains(r.out+r.err, "smaller") {
		t.Errorf("check of a volume without its end: status %d\n%s%s", r.status, r.out, r.err)
	}
	if err := v.tryStart(); err == nil {
		t.Error("a volume without its end is served")
	}
}
