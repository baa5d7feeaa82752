package volume

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"holdfast/extent"
)

const mib = 1 << 20

func TestWriteSyncReopen(t *testing.T) {
	r := newRig(t, 16*mib)
	n := r.create("f")
	data := bytes.Repeat([]byte("holdfast"), 3000)
	must(t, n.Write(data, 100))
	want := append(make([]byte, 100), data...)
	if got := r.read(n); !bytes.Equal(got, want) {
		t.Fatal("content differs before the sync")
	}
	r.sync(n)
	r.reopen()
	r.check()
	if s := r.v.Statfs(); s.Files != 2 {
		t.Errorf("%d files after the reopen, want the root and f", s.Files)
	}
	n = r.load(n.Ino)
	if got := r.read(n); !bytes.Equal(got, want) {
		t.Fatalf("content differs after the reopen: %d bytes", len(got))
	}
	if e, err := r.v.LookupEntry(extent.RootIno, "f"); err != nil || e.Ino != n.Ino {
		t.Fatalf("entry %+v, %v", e, err)
	}
	if _, err := r.v.Load(999999); !errors.Is(err, syscall.ENOENT) {
		t.Fatalf("load of what is not there: %v", err)
	}
}
