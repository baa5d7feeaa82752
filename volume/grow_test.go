package volume

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"testing"

	"holdfast/internal/sim"
	"holdfast/store"
)

// TestGrow: what is new is free at once, for a file that met ENOSPC, and after a
// crash.
func TestGrow(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	n := r.create("f")
	must(t, n.Write(fill('a', 2*mib), 0))
	r.sync(n)
	if err := n.Write(fill('b', 1), 2*mib); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write to a full volume: %v", err)
	}
	for _, size := range []int64{0, -1, dataStart + mib} {
		if err := r.v.Grow(size); !errors.Is(err, syscall.EINVAL) {
			t.Fatalf("grow to %d: %v", size, err)
		}
	}
	must(t, r.v.Grow(dataStart+2*mib))
	must(t, r.v.Grow(dataStart+5*mib+4095))
	if s := r.v.Statfs(); s.Total != 5*mib || s.Free != 3*mib {
		t.Fatalf("%+v", s)
	}
	must(t, n.Write(fill('b', 3*mib), 2*mib))
	r.sync(n)
	r.crash(sim.None)
	if s := r.v.Statfs(); s.Total != 5*mib || s.Free != 0 {
		t.Fatalf("after a crash: %+v", s)
	}
	if got := r.read(r.load(n.Ino)); !bytes.Equal(got, append(fill('a', 2*mib), fill('b', 3*mib)...)) {
		t.Fatal("after a crash the file is another")
	}
}

// TestGrowIsFinished: a store that is ahead of the superblock in size is what a crash leaves, whichever way;
// an old copy of either is not, nor is a device that is too small.
func TestGrowIsFinished(t *testing.T) {
	const size, larger = dataStart + 2*mib, dataStart + 4*mib
	r := newRig(t, size)
	must(t, r.v.Close())
	was, err := readStoreSuper(r.st)
	must(t, err)
	put := func(n int64, generations uint64) {
		s := was
		s.size, s.generation = n, was.generation+generations
		b := r.v.batch()
		b.Put(superKey, s.encode())
		must(t, r.v.st.Apply(b))
	}
	put(larger, 0)
	if err := Verify(r.dev, r.st); !errors.Is(err, ErrTruncated) {
		t.Fatalf("a device that has not grown: %v", err)
	}
	must(t, r.dev.Grow(larger))
	put(larger, 1)
	if err := Verify(r.dev, r.st); !errors.Is(err, ErrMismatch) {
		t.Fatalf("an old copy of the device: %v", err)
	}
	put(dataStart+mib, 1)
	if err := Verify(r.dev, r.st); !errors.Is(err, ErrMismatch) {
		t.Fatalf("an old copy of a store of a smaller volume: %v", err)
	}
	put(dataStart+mib, 0) // it was being made smaller
	must(t, Verify(r.dev, r.st))
	put(larger, 0)
	r.check()
	// An open that ends before it has raised the device's generation, too.
	writes := 0
	r.disk.Before(func(o sim.Op) error {
		if o.Device() && o.Kind == sim.Write {
			writes++
		}
		if writes == 2 {
			return store.ErrFailed
		}
		return nil
	})
	if _, err := Open(context.Background(), r.dev, r.st, Options{}); !errors.Is(err, store.ErrFailed) {
		t.Fatal(err)
	}
	r.disk.Before(nil)
	r.crash(sim.None)
	if i := r.v.Info(); i.Size != larger || i.Free != 4*mib {
		t.Fatalf("%+v", i)
	}
	if s, err := readDeviceSuper(r.dev); err != nil || s.size != larger {
		t.Fatalf("superblock of the device: %+v, %v", s, err)
	}
}

// TestGrowFails: a refusal of the host changes nothing; a failure behind it stops
// all writing, and the next open has one size or the other.
func TestGrowFails(t *testing.T) {
	r := newRig(t, dataStart+2*mib)
	refused := errors.New("refused")
	r.disk.Before(func(o sim.Op) error {
		if o.Device() && o.Kind == sim.Write {
			return refused
		}
		return nil
	})
	if err := r.v.Grow(dataStart + 4*mib); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	r.disk.Before(nil)
	if i := r.v.Info(); i.Size != dataStart+2*mib || i.FailReason != "" {
		t.Fatalf("%+v", i)
	}
	must(t, r.v.Grow(dataStart+3*mib))
	r.v.st = sealed(&faultStore{r.st, 0})
	if err := r.v.Grow(dataStart + 4*mib); !errors.Is(err, store.ErrFailed) {
		t.Fatal(err)
	}
	if err := r.v.Grow(dataStart + 4*mib); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("after a failure: %v", err)
	}
	r.crash(sim.None)
	if i := r.v.Info(); i.Size != dataStart+3*mib {
		t.Fatalf("%+v", i)
	}
}
