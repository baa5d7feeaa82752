package fs

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"holdfast/extent"
)

// TestManyNames: a directory of 100,000 files, of a million with HOLDFAST_LONG set.
// Each name is read once while others come and go, from wherever reading stopped.
func TestManyNames(t *testing.T) {
	files := 100_000
	switch {
	case os.Getenv("HOLDFAST_LONG") != "":
		files = 1_000_000
	case testing.Short():
		files = 10_000
	}
	r := newRig(t, func(r *rig) { r.size = 8 << 30 })
	for k := range files {
		a, err := r.Mknod(ctx, Caller{}, extent.RootIno, fmt.Sprintf("name-%d", k), syscall.S_IFREG|0o644, 0)
		r.must(err)
		r.Forget(a.Ino, 1)
	}
	r.reopen()
	seen := make([]bool, files)
	cookie, count := uint64(0), 0
	for stop := false; !stop; {
		stop = true
		var last string
		n := 0
		r.must(r.ReadDir(ctx, Caller{}, extent.RootIno, cookie, func(name string, _ extent.Ino, _ uint32, c uint64) bool {
			var k int
			if _, err := fmt.Sscanf(name, "name-%d", &k); err == nil {
				if seen[k] {
					t.Fatalf("%s twice", name)
				}
				seen[k] = true
				count++
				last, stop = name, false
			}
			cookie = c
			n++
			return n < 1000
		}))
		if last != "" { // the name that the position is of goes, and a new one comes
			r.must(r.Unlink(ctx, Caller{}, extent.RootIno, last))
			_, err := r.Mknod(ctx, Caller{}, extent.RootIno, "new-"+last, syscall.S_IFREG|0o644, 0)
			r.must(err)
		}
	}
	if count != files {
		t.Errorf("%d of %d names were seen", count, files)
	}
	if _, err := r.Lookup(ctx, Caller{}, extent.RootIno, fmt.Sprintf("name-%d", files/2)); err != nil {
		t.Error(err)
	}
	wantErr(t, r.Rmdir(ctx, Caller{}, extent.RootIno, "none"), syscall.ENOENT, "rmdir")
}
