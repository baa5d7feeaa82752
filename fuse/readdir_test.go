package fuse

import (
	"fmt"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/fs"
)

// TestReadDirInterrupted: entries that were looked up for the kernel reach it though the
// caller is interrupted between them. Else it would never forget them, and nothing would
// free them once they are unlinked.
func TestReadDirInterrupted(t *testing.T) {
	r, _ := newRaw(t)
	for k := range 300 {
		var out gofuse.EntryOut
		if st := r.Mknod(nil, &gofuse.MknodIn{InHeader: gofuse.InHeader{NodeId: 1}, Mode: 0o100644}, fmt.Sprint("f", k), &out); !st.Ok() {
			t.Fatal(st)
		}
		r.Forget(out.NodeId, 1)
	}
	cancel := make(chan struct{})
	n := 0
	st := r.readDir(cancel, &gofuse.ReadIn{InHeader: gofuse.InHeader{NodeId: 1}}, true, func(e gofuse.DirEntry, _ *fs.Dirent) bool {
		if n++; n == 10 {
			close(cancel)
		}
		return true
	})
	if !st.Ok() || n < 10 {
		t.Errorf("%v after %d entries, want OK", st, n)
	}
	st = r.readDir(cancel, &gofuse.ReadIn{InHeader: gofuse.InHeader{NodeId: 1}, Offset: 1 << 40}, false, nil)
	if st != gofuse.EINTR {
		t.Errorf("%v with nothing to tell, want EINTR", st)
	}
}
