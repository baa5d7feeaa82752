package device

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestGrowFile: what is new can be read, written and viewed, views from before stay,
// and nothing makes it smaller.
func TestGrowFile(t *testing.T) {
	d, path := create(t)
	want := bytes.Repeat([]byte{'a'}, 4096)
	if _, err := d.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	before := d.View(0, 4096)
	if err := d.Grow(3 * size); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 3*size || d.Size() != 3*size {
		t.Fatalf("file %d, device %d, %v", st.Size(), d.Size(), err)
	}
	if err := errors.Join(d.Grow(size), d.Grow(3*size)); err != nil || d.Size() != 3*size {
		t.Fatalf("grow to what it has: %v, %d bytes", err, d.Size())
	}
	if _, err := d.WriteAt(want, 3*size-4096); err != nil {
		t.Fatal(err)
	}
	for _, v := range [][]byte{before, d.View(3*size-4096, 4096), d.View(0, 4096)} {
		if got, err := through(t, v); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if err := errors.Join(d.Reserve(size, size), d.Sync()); err != nil {
		t.Fatal(err)
	}
	if err := d.Grow(1 << 62); !errors.Is(err, syscall.EFBIG) && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("larger than any file: %v", err)
	}
	if _, err := d.WriteAt(want, 0); err != nil || d.Size() != 3*size {
		t.Fatalf("after a refusal: %v, %d bytes", err, d.Size())
	}
}

// TestGrowBlockDevice: a block device has grown by other means, and is asked.
func TestGrowBlockDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a loop device")
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).Output()
	if err != nil {
		t.Skip("no loop device can be had: ", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", loop).Run() })
	d, err := Open(loop)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Grow(2 * size); !errors.Is(err, syscall.ENOSPC) || d.Size() != size {
		t.Fatalf("a block device that is too small: %v, %d bytes", err, d.Size())
	}
	if err := os.Truncate(path, 2*size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", loop).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if err := d.Grow(2 * size); err != nil || d.Size() != 2*size {
		t.Fatalf("%v, %d bytes", err, d.Size())
	}
	if _, err := d.WriteAt([]byte("end"), 2*size-3); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}
