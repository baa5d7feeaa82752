package volume

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"

	"holdfast/extent"
)

// TestRecoveryRestarts cuts an operation off in the middle, and the recovery from
// that, too, after ever more of its batches: the last gets it done.
func TestRecoveryRestarts(t *testing.T) {
	const extents, at = 150, 3 * extent.BlockSize
	all := extent.Range{Off: 0, End: (2*extents - 1) * extent.BlockSize}
	some := extent.Range{Off: at, End: at + 2*extent.BlockSize}
	for name, c := range map[string]struct {
		do   func(r *rig, a, b *Inode) error
		want func(a, b []byte) []byte // of b
	}{
		"clone": {
			func(r *rig, a, b *Inode) error { return r.v.Clone(a, all, b, at) },
			func(a, b []byte) []byte { return append(bytes.Clone(b[:at]), a...) },
		},
		"collapse": {
			func(r *rig, _, b *Inode) error { return b.Collapse(some) },
			func(_, b []byte) []byte { return slices.Delete(bytes.Clone(b), int(some.Off), int(some.End)) },
		},
		"insert": {
			func(r *rig, _, b *Inode) error { return b.Insert(some) },
			func(_, b []byte) []byte {
				return slices.Insert(bytes.Clone(b), int(some.Off), make([]byte, some.Len())...)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dataStart+4*mib)
			a, b := r.numbered("a", extents), r.striped("b", extents, 'b')
			want := c.want(r.read(a), r.read(b))
			r.v.st = sealed(&faultStore{r.st, 4})
			if err := c.do(r, a, b); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			must(t, r.st.Sync())
			tries := 0
			for err := errors.New("not yet"); err != nil; tries++ {
				if s := r.check(); s.Unfinished != 1 {
					t.Fatalf("after %d tries: %+v", tries, s)
				}
				_, err = Open(context.Background(), r.dev, &faultStore{r.st, tries}, Options{})
				must(t, r.st.Sync())
			}
			if tries < 3 {
				t.Fatalf("done after %d tries", tries)
			}
			r.powerCut()
			if got := r.read(r.load(b.Ino)); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, or others than the %d wanted", len(got), len(want))
			}
			if i, s := r.v.Info(), r.check(); i.Free != i.Total-s.Used || i.Shared != s.Shared {
				t.Fatalf("%+v, %+v", i, s)
			}
		})
	}
}

// TestRecoveryOfNothing: unfinished work on a file that is not there is damage, and
// refuses the volume.
func TestRecoveryOfNothing(t *testing.T) {
	for _, kind := range []intentKind{cloning, collapsing, inserting} {
		r := newRig(t, dataStart+4*mib)
		b := r.v.batch()
		b.Put(intentKey(777), intent{kind: kind, src: 777, r: extent.Range{Off: 0, End: 4096}}.encode())
		must(t, r.v.st.Apply(b))
		if _, err := Open(context.Background(), r.dev, r.st, Options{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: %v", kind, err)
		}
	}
}
