package fuse

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
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
		if _, ok := res.(viewed); !ok || !st.Ok() || res.Size() != viewFrom {
			t.Fatalf("%T, %v", res, st)
		}
		res.Done()
	}
	if n := testing.AllocsPerRun(1000, view); n > 1 {
		t.Errorf("a read without a copy costs %v allocations, want the view", n)
	}
}

// newRaw returns a rawFS on a new volume, without a mount, and an open file.
func newRaw(t *testing.T) (*rawFS, uint64) {
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
	vol, err := volume.Open(t.Context(), dev, st, volume.Options{})
	must(err)
	t.Cleanup(func() { vol.Close() })
	arb := arbiter.New(arbiter.Config{})
	t.Cleanup(arb.Close)
	fsys, err := fs.New(vol, arb, fs.Options{Log: log})
	must(err)
	r := &rawFS{RawFileSystem: gofuse.NewDefaultRawFileSystem(), fs: fsys, log: log}
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
