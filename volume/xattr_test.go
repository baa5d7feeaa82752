package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"holdfast/extent"
)

// attributed makes a file with n extended attributes.
func (r *rig) attributed(name string, n int) *Inode {
	r.t.Helper()
	f := r.create(name)
	for i := 0; i < n; i += 100 {
		tx := r.v.Begin()
		for k := i; k < min(n, i+100); k++ {
			tx.PutXattr(f.Ino, fmt.Sprintf("user.%04d", k), []byte{byte(k)})
			f.Attr.Xattrs++
		}
		tx.PutInode(f)
		must(r.t, tx.Commit())
	}
	return f
}

func (r *rig) names(ino extent.Ino) (out []string) {
	r.t.Helper()
	must(r.t, r.v.Xattrs(ino, func(name string) bool {
		out = append(out, name)
		return true
	}))
	return out
}

// TestXattrs puts, replaces, reads, lists and removes attributes, and finds them
// again in the next life of the volume.
func TestXattrs(t *testing.T) {
	r := newRig(t, 8*mib)
	f, other := r.attributed("f", 3), r.attributed("g", 1)
	tx := r.v.Begin()
	tx.PutXattr(f.Ino, "user.0001", []byte("new"))
	tx.DelXattr(f.Ino, "user.0002")
	tx.PutXattr(f.Ino, "a", nil)
	tx.PutInode(f)
	must(t, tx.Commit())
	look := func() {
		t.Helper()
		if got, want := r.names(f.Ino), []string{"a", "user.0000", "user.0001"}; !slices.Equal(got, want) {
			t.Errorf("names %q, want %q", got, want)
		}
		for name, want := range map[string]string{"user.0001": "new", "user.0000": "\x00", "a": ""} {
			if got, err := r.v.Xattr(f.Ino, name); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		if _, err := r.v.Xattr(f.Ino, "user.0002"); !errors.Is(err, syscall.ENODATA) {
			t.Errorf("a removed one: %v", err)
		}
		if got := r.names(other.Ino); len(got) != 1 {
			t.Errorf("of another file: %q", got)
		}
		if sum := r.check(); sum.Xattrs != 4 {
			t.Errorf("check counts %d", sum.Xattrs)
		}
	}
	look()
	r.reopen()
	look()
	if n := r.load(f.Ino); n.Attr.Xattrs != 3 {
		t.Errorf("the record says %d", n.Attr.Xattrs)
	}
}

// TestDeleteOfXattrsRestarts cuts the delete of a file with many attributes off
// after each batch: the next open finishes it, and leaves nothing.
func TestDeleteOfXattrsRestarts(t *testing.T) {
	for after := 0; ; after++ {
		r := newRig(t, dataStart+4*mib)
		f := r.attributed("f", 300)
		f.Attr.Nlink = 0
		e, err := r.v.LookupEntry(extent.RootIno, "f")
		must(t, err)
		tx := r.v.Begin()
		tx.DelEntry(extent.RootIno, "f", e.Cookie)
		tx.PutInode(f)
		tx.PutOrphan(f.Ino)
		must(t, tx.Commit())
		r.v.st = sealed(&faultStore{r.st, after})
		err = r.v.Delete(f)
		if err == nil {
			if after < 3 {
				t.Fatalf("300 attributes in %d batches", after)
			}
			if got := r.names(f.Ino); len(got) != 0 {
				t.Fatalf("left: %d", len(got))
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		must(t, r.st.Sync())
		r.powerCut()
		if sum := r.check(); sum.Xattrs != 0 || sum.Orphans != 0 {
			t.Fatalf("after %d batches: %+v", after, sum)
		}
	}
}

// TestXattrsAreDurable: what fsync covered is there after a power cut, and never
// a count that is not true.
func TestXattrsAreDurable(t *testing.T) {
	r := newRig(t, 8*mib)
	f := r.attributed("f", 5)
	r.sync(f)
	tx := r.v.Begin()
	tx.PutXattr(f.Ino, "user.late", []byte("x"))
	f.Attr.Xattrs++
	tx.PutInode(f)
	must(t, tx.Commit())
	r.powerCut() // checks
	if got := len(r.names(f.Ino)); got != 5 && got != 6 {
		t.Errorf("%d attributes after a power cut", got)
	}
	must(t, r.v.SyncStore(context.Background()))
}
