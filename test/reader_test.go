package test

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/client"
)

// TestOrdinaryReader: who may only read a file can map all of it, and takes no space of
// the volume by that, however sparse it is. He sees what others write into the holes.
//
// It fails if a mapping for reading allocates:
//
//	df shows 67104768 bytes less after a reader has mapped a sparse file
func TestOrdinaryReader(t *testing.T) {
	t.Parallel()
	const size, at = 64 << 20, 5 << 20
	v := serve(t)
	path := v.write(t, "sparse", pattern(8, blockSize))
	must(t, os.Truncate(path, size))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	want := append(pattern(8, blockSize), make([]byte, size-blockSize)...)
	free, used := v.free(t), blocksOf(t, path)

	a := newActor(t)
	if os.Geteuid() == 0 {
		a.do("BecomeOrdinary", Do{})
	}
	a.do("OpenReadOnly", Do{Path: path})
	for _, o := range []client.Options{{Access: client.Write}, {Prepare: true}} {
		_, err := a.try("Lease", Do{Len: size, Lease: o})
		wantErrno(t, "a lease to write or to allocate", err, syscall.EACCES)
	}
	lease := uint64(a.do("Lease", Do{Len: size}).N)
	a.do("Map", Do{})
	wantMem := func(off, n int64) {
		t.Helper()
		if got := a.do("Mem", Do{Off: off, Len: n}).Data; !bytes.Equal(got, want[off:off+n]) {
			t.Errorf("the window differs at %d", off+int64(differAt(got, want[off:])))
		}
	}
	wantMem(0, 1<<20)
	wantMem(size-1<<20, 1<<20)
	must(t, f.Sync())
	if now := v.free(t); now != free {
		t.Errorf("df shows %d bytes less after a reader has mapped a sparse file", free-now)
	}
	if now := blocksOf(t, path); now != used {
		t.Errorf("the file has %d bytes after a reader has mapped it, %d before", now, used)
	}

	_, err = f.WriteAt([]byte("by the mount"), at)
	must(t, err)
	copy(want[at:], "by the mount")
	wantMem(at-blockSize, 3*blockSize)
	events := v.events(t)
	a.do("CloseLease", Do{})
	events.waitLease(arbiter.EventRelease, lease)
	must(t, f.Sync())
	if now := blocksOf(t, path); now != used+blockSize {
		t.Errorf("the file has %d bytes after one block was written, %d before", now, used)
	}
	if now := v.free(t); now != free-blockSize {
		t.Errorf("df shows %d bytes less after one block was written", free-now)
	}
	var data []int64
	for pos := int64(0); ; {
		pos, err = f.Seek(pos, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		must(t, err)
		data = append(data, pos)
		pos, err = f.Seek(pos, unix.SEEK_HOLE)
		must(t, err)
	}
	if len(data) != 2 || data[0] != 0 || data[1] != at {
		t.Errorf("there is data at %d, want %d", data, []int64{0, at})
	}
	wantContent(t, path, want)
	must(t, f.Close())
	v.stop(t)
	v.check(t)
	v.start(t)
	wantContent(t, v.path("sparse"), want)
}

// blocksOf returns the bytes of the blocks that a file has, as the server knows it now.
func blocksOf(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_FORCE_SYNC, unix.STATX_BLOCKS, &st))
	return int64(st.Blocks) * 512
}
