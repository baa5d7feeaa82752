package fuse

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/arbiter"
	"holdfast/device"
	"holdfast/fs"
	"holdfast/store"
	"holdfast/volume"
)

// TestAllocs: on the way through this package and fs, a read allocates the one
// object in which the library wants the answer, and an overwrite nothing. A large
// read is answered without a copy.
func TestAllocs(t *testing.T) {
	raw, node := newRaw(t)
	r := &gated{rawFS: raw}
	data := make([]byte, 4096)
	write := func() {
		in := &gofuse.WriteIn{InHeader: gofuse.InHeader{NodeId: node}, Offset: 4096, Size: uint32(len(data))}
		if n, st := r.Write(nil, in, data); n != in.Size || !st.Ok() {
			t.Fatal(n, st)
		}
	}
	write() // allocates the blocks
	if n := testing.AllocsPerRun(1000, write); n > 0 {
		t.Errorf("an overwrite costs %v allocations, want none", n)
	}
	read := func() {
		in := &gofuse.ReadIn{InHeader: gofuse.InHeader{NodeId: node}, Offset: 4096, Size: 4096}
		if res, st := r.Read(nil, in, data); !st.Ok() || res.Size() != 4096 {
			t.Fatal(st)
		}
	}
	if n := testing.AllocsPerRun(1000, read); n > 1 {
		t.Errorf("a read costs %v allocations, want the library's one", n)
	}
	data = make([]byte, viewFrom)
	write()
	view := func() {
		in := &gofuse.ReadIn{InHeader: gofuse.InHeader{NodeId: node}, Offset: 4096, Size: viewFrom}
		res, st := r.Read(nil, in, data)
		if _, ok := res.(passing); !ok || !st.Ok() || res.Size() != viewFrom {
			t.Fatalf("%T, %v", res, st)
		}
		if r.mu.TryLock() {
			t.Fatal("the gate could shut before the reply is written")
		}
		res.Done()
		if !r.mu.TryLock() {
			t.Fatal("the gate cannot shut when the reply is written")
		}
		r.mu.Unlock()
	}
	if n := testing.AllocsPerRun(1000, view); n > 2 {
		t.Errorf("a read without a copy costs %v allocations, want the view and its answer", n)
	}
}

// newRaw returns a rawFS on a new volume, without a mount, and an open file.
func newRaw(t *testing.T) (*rawFS, uint64) {
	t.Helper()
	return newRawOn(t, &disk{})
}

// disk counts what is made durable.
type disk struct {
	*device.File
	flushes, syncs atomic.Int64
}

func (d *disk) Sync() error {
	d.flushes.Add(1)
	return d.File.Sync()
}

// journal is the store of a disk.
type journal struct {
	store.Store
	d *disk
}

func (j journal) Sync() error {
	j.d.syncs.Add(1)
	return j.Store.Sync()
}

// newRawOn is newRaw on a disk that counts.
func newRawOn(t *testing.T, d *disk) (*rawFS, uint64) {
	t.Helper()
	dir := t.TempDir()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dev, err := device.Create(filepath.Join(dir, "device"), 64<<20)
	must(err)
	t.Cleanup(func() { dev.Close() })
	st, err := store.Create(filepath.Join(dir, "meta"), store.Options{})
	must(err)
	t.Cleanup(func() { st.Close() })
	must(volume.Create(dev, st, volume.Options{}))
	d.File = dev
	vol, err := volume.Open(t.Context(), d, journal{st, d}, volume.Options{})
	must(err)
	t.Cleanup(func() { vol.Close() })
	arb := arbiter.New(arbiter.Config{})
	t.Cleanup(arb.Close)
	fsys, err := fs.New(vol, arb, fs.Options{Log: log})
	must(err)
	r := &rawFS{RawFileSystem: gofuse.NewDefaultRawFileSystem(), fs: fsys, log: log, prune: newPruner(fsys, 0)}
	var out gofuse.CreateOut
	if st := r.Create(nil, &gofuse.CreateIn{InHeader: gofuse.InHeader{NodeId: 1}, Mode: 0o100644}, "file", &out); !st.Ok() {
		t.Fatal(st)
	}
	t.Cleanup(func() {
		r.Release(nil, &gofuse.ReleaseIn{InHeader: gofuse.InHeader{NodeId: out.NodeId}})
		r.Forget(out.NodeId, 1)
		if err := fsys.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r, out.NodeId
}

// TestSyncWritesReachTheDisk: with O_SYNC and O_DSYNC each write is flushed to the
// device and synced in the store before it returns; without, none is.
func TestSyncWritesReachTheDisk(t *testing.T) {
	var d disk
	r, node := newRawOn(t, &d)
	for _, c := range []struct {
		flags         uint32
		off           uint64
		flushes, sync bool
	}{
		{0, 0, false, false}, {syscall.O_DSYNC, 0, true, true}, {syscall.O_SYNC, 0, true, true},
		{syscall.O_DSYNC, 1 << 20, true, true}, {syscall.O_SYNC | syscall.O_APPEND, 0, true, true}, {syscall.O_APPEND, 0, false, false},
	} {
		flushes, syncs := d.flushes.Load(), d.syncs.Load()
		in := &gofuse.WriteIn{InHeader: gofuse.InHeader{NodeId: node}, Flags: c.flags, Offset: c.off}
		if n, st := r.Write(nil, in, []byte("data")); n != 4 || !st.Ok() {
			t.Fatalf("flags %#x: %d, %v", c.flags, n, st)
		}
		if got := d.flushes.Load() > flushes; got != c.flushes {
			t.Errorf("flags %#x at %d: device flushed: %v", c.flags, c.off, got)
		}
		if got := d.syncs.Load() > syncs; got != c.sync {
			t.Errorf("flags %#x at %d: store synced: %v", c.flags, c.off, got)
		}
	}
}
