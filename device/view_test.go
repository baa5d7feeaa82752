package device

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// through returns what a system call finds in the memory p.
func through(t *testing.T, p []byte) ([]byte, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	n, err := unix.Writev(int(w.Fd()), [][]byte{p})
	if err != nil {
		return nil, err
	}
	got := make([]byte, n)
	_, err = r.Read(got)
	return got, err
}

func TestView(t *testing.T) {
	d, path := create(t)
	want := bytes.Repeat([]byte("abcd"), 4096)
	if _, err := d.WriteAt(want, 8000); err != nil {
		t.Fatal(err)
	}
	v := d.View(8000, int64(len(want)))
	if got, err := through(t, v); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, err := d.WriteAt([]byte("new"), 8000); err != nil {
		t.Fatal(err)
	}
	if got, err := through(t, v); err != nil || string(got[:4]) != "newd" {
		t.Errorf("after a write: %.4q, %v", got, err)
	}
	for _, r := range [][2]int64{{-1, 10}, {8000, 0}, {size - 9, 10}, {1<<63 - 1, 10}, {0, size}} { // the last is not cached
		if d.View(r[0], r[1]) != nil {
			t.Errorf("a view at %d of %d bytes", r[0], r[1])
		}
	}
	// A file that is cut short is an error of the call, and no view any more.
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := through(t, v); !errors.Is(err, unix.EFAULT) {
		t.Errorf("behind the end of the host's file: %v", err)
	}
	if d.View(8000, 100) != nil {
		t.Error("a view behind the end of the host's file")
	}
	d.Close()
	if d.View(0, 100) != nil {
		t.Error("a view of a closed device")
	}
}
