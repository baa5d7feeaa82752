package fuse

import (
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// TestStatfsFiles: df -i shows the files that there are, and room for more.
func TestStatfsFiles(t *testing.T) {
	r, _ := newRaw(t)
	want := func(used uint64) {
		t.Helper()
		var out gofuse.StatfsOut
		if st := r.StatFs(nil, &gofuse.InHeader{NodeId: 1}, &out); !st.Ok() {
			t.Fatal(st)
		}
		if out.Files-out.Ffree != used || out.Ffree == 0 || out.Ffree > out.Bfree {
			t.Errorf("%d files, %d free, %d blocks free; want %d used", out.Files, out.Ffree, out.Bfree, used)
		}
	}
	want(2) // the root and the file
	var entry gofuse.EntryOut
	if st := r.Mkdir(nil, &gofuse.MkdirIn{InHeader: gofuse.InHeader{NodeId: 1}, Mode: 0o755}, "d", &entry); !st.Ok() {
		t.Fatal(st)
	}
	want(3)
	if st := r.Rmdir(nil, &gofuse.InHeader{NodeId: 1}, "d"); !st.Ok() {
		t.Fatal(st)
	}
	r.Forget(entry.NodeId, 1)
	want(2)
}
