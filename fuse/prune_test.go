package fuse

import (
	"fmt"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// TestPrune: above the limit the kernel is asked to forget files that nobody has open,
// and is not asked again and again if it does not.
func TestPrune(t *testing.T) {
	r, _ := newRaw(t)
	const limit = 800
	r.prune = newPruner(r.fs, limit)
	open := make(map[uint64]bool)
	asked, obeys := 0, true
	r.prune.notify = func(nodes []uint64) gofuse.Status {
		if len(nodes) > pruneBatch {
			t.Errorf("%d files in a notification", len(nodes))
		}
		asked += len(nodes)
		for _, n := range nodes {
			if open[n] {
				t.Errorf("inode %d is open", n)
			}
			if obeys {
				r.Forget(n, 1)
			}
		}
		return gofuse.OK
	}
	woken := 0
	create := func(k int) {
		var out gofuse.EntryOut
		if st := r.Mknod(nil, &gofuse.MknodIn{InHeader: gofuse.InHeader{NodeId: 1}, Mode: 0o100644}, fmt.Sprint("f", k), &out); !st.Ok() {
			t.Fatal(st)
		}
		if k%100 == 0 {
			open[out.NodeId] = true
			if st := r.Open(nil, &gofuse.OpenIn{InHeader: gofuse.InHeader{NodeId: out.NodeId}}, &gofuse.OpenOut{}); !st.Ok() {
				t.Fatal(st)
			}
		}
		select {
		case <-r.prune.wake:
			woken++
			r.prune.prune()
		default:
		}
	}
	for k := range 3 * limit {
		create(k)
		if known := r.fs.Known(); known > limit+1 {
			t.Fatalf("%d files are known", known)
		}
	}
	if asked < 2*limit-limit/8 {
		t.Errorf("asked to forget %d files", asked)
	}
	obeys, woken = false, 0
	for k := range 2 * limit {
		create(3*limit + k)
	}
	if woken < 2 || woken > 20 {
		t.Errorf("asked %d times, though the kernel forgets nothing", woken)
	}
}
