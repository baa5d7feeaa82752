package device

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const size = 1 << 20

func create(t *testing.T) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	d, err := Create(path, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestReadWriteReopen(t *testing.T) {
	d, path := create(t)
	want := []byte("some bytes")
	if _, err := d.WriteAt(want, 4090); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, 4090); err != nil || !bytes.Equal(got, want) || d.Size() != size {
		t.Fatalf("%q, %v, size %d", got, err, d.Size())
	}
	if _, err := Create(path, size); !errors.Is(err, os.ErrExist) {
		t.Fatalf("create over a device: %v", err)
	}
}

func TestInUse(t *testing.T) {
	d, path := create(t)
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Fatalf("second open: %v", err)
	}
	// A stray open and close in this process must not give the lock up.
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Fatalf("second open: %v", err)
	}
	d.Close()
	if d, err = Open(path); err != nil {
		t.Fatal(err)
	}
	d.Close()
}

func TestNotADevice(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		fifo: ErrKind, "/dev/null": ErrKind, dir: syscall.EISDIR, filepath.Join(dir, "nothing"): os.ErrNotExist,
	} {
		if _, err := Open(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

// TestOutside: what is not on the device is refused and does not make it grow.
func TestOutside(t *testing.T) {
	d, path := create(t)
	p := make([]byte, 10)
	for _, off := range []int64{-1, size - 9, size, 1<<63 - 1} {
		_, rerr := d.ReadAt(p, off)
		_, werr := d.WriteAt(p, off)
		for what, err := range map[string]error{"read": rerr, "write": werr, "reserve": d.Reserve(off, 10), "discard": d.Discard(off, 10)} {
			if !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s at %d: %v", what, off, err)
			}
		}
	}
	if st, err := os.Stat(path); err != nil || st.Size() != size {
		t.Fatalf("size %d, %v", st.Size(), err)
	}
	if _, err := d.WriteAt(p, size-10); err != nil {
		t.Fatal("no failure sticks:", err)
	}
}

// TestCutShort: a file that is truncated under the server is an error, not a
// signal and not a short read. It does not become long again, with zeros in it.
func TestCutShort(t *testing.T) {
	for what, op := range map[string]func(d *File) error{
		"read":  func(d *File) error { _, err := d.ReadAt(make([]byte, 4096), size-4096); return err },
		"write": func(d *File) error { _, err := d.WriteAt(make([]byte, 4096), size-4096); return err },
		"sync":  (*File).Sync,
	} {
		d, path := create(t)
		if err := os.Truncate(path, size/2); err != nil {
			t.Fatal(err)
		}
		if err := op(d); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := d.WriteAt([]byte("x"), size-1); !errors.Is(err, ErrFailed) {
			t.Errorf("write after %s: %v", what, err)
		}
		if st, err := os.Stat(path); err != nil || st.Size() != size/2 {
			t.Errorf("after %s: size %d, %v", what, st.Size(), err)
		}
		if _, err := d.ReadAt(make([]byte, 1), 0); err != nil {
			t.Errorf("what is there cannot be read after %s: %v", what, err)
		}
	}
}

func TestReserveAndDiscard(t *testing.T) {
	d, path := create(t)
	if n := blocks(t, path); n > size/2 {
		t.Fatalf("%d bytes allocated at first", n)
	}
	if err := d.Reserve(0, size); err != nil {
		t.Fatal(err)
	}
	if n := blocks(t, path); n < size {
		t.Skipf("the filesystem of %s does not reserve", path)
	}
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, size), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(0, size/2); err != nil {
		t.Fatal(err)
	}
	if n := blocks(t, path); n > size*3/4 {
		t.Errorf("%d bytes allocated after the discard", n)
	}
	p := make([]byte, 1)
	if _, err := d.ReadAt(p, size/2); err != nil || p[0] != 1 {
		t.Errorf("behind the discarded: %v, %v", p, err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != size {
		t.Errorf("size %d, %v", st.Size(), err)
	}
}

// TestFailureSticks: after a failed write the device takes nothing more, although
// the host would.
func TestFailureSticks(t *testing.T) {
	d, _ := create(t)
	// A limit on the size of files makes the host refuse the write, for real.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size / 2, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := d.WriteAt([]byte("x"), size-1)
	if rerr := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); rerr != nil {
		t.Fatal(rerr)
	}
	if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) || !errors.Is(err, syscall.EFBIG) {
		t.Fatal(err)
	}
	_, werr := d.WriteAt([]byte("x"), 0)
	for what, err := range map[string]error{"write": werr, "sync": d.Sync(), "reserve": d.Reserve(0, 1), "discard": d.Discard(0, 1)} {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("%s after a failure: %v", what, err)
		}
	}
	if _, err := d.ReadAt(make([]byte, 1), 0); err != nil {
		t.Errorf("read after a failure: %v", err)
	}
}

func TestFence(t *testing.T) {
	d, _ := create(t)
	if err := errors.Join(d.Fence(2), d.Fence(2), d.Fence(3)); err != nil {
		t.Fatal(err)
	}
	if err := d.Fence(2); !errors.Is(err, ErrStaleTerm) {
		t.Fatal(err)
	}
}
