package fs

import (
	"os"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/layout"
)

// view is a holder's memory over a range of a file.
type view struct {
	t      tester
	pieces []Piece
	files  []*os.File
	mem    [][]byte
}

// mmap maps a range of a lease as its holder does.
func (h *holder) mmap(l layout.LeaseID, ino extent.Ino, r extent.Range, write bool) *view {
	h.r.t.Helper()
	pieces, err := h.r.Map(ctx, l, ino, r, write)
	h.r.must(err)
	v := &view{t: h.r.t, pieces: pieces}
	next := extent.RoundDown(r.Off)
	for _, p := range pieces {
		if p.FileOff != next {
			h.r.t.Fatalf("the pieces of %v are %+v", r, pieces)
		}
		next += p.Len
		f, err := p.Window.Open(write)
		h.r.must(err)
		prot := unix.PROT_READ
		if write {
			prot |= unix.PROT_WRITE
		}
		mem, err := unix.Mmap(int(f.Fd()), p.Off, int(p.Len), prot, unix.MAP_SHARED)
		h.r.must(err)
		v.files, v.mem = append(v.files, f), append(v.mem, mem)
	}
	if next != extent.RoundUp(r.End) {
		h.r.t.Fatalf("the pieces of %v are %+v", r, pieces)
	}
	return v
}

func (v *view) close() {
	for i := range v.mem {
		unix.Munmap(v.mem[i])
		v.files[i].Close()
	}
}

// at returns the memory from file offset off to the end of its piece.
func (v *view) at(off int64) []byte {
	v.t.Helper()
	for i, p := range v.pieces {
		if off >= p.FileOff && off < p.FileOff+p.Len {
			return v.mem[i][off-p.FileOff:]
		}
	}
	v.t.Fatalf("%d is not in the view", off)
	return nil
}

// dead reports whether all the memory of the window has left it.
func (v *view) dead(piece int) bool {
	v.t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(v.files[piece].Fd()), &st); err != nil {
		v.t.Fatal(err)
	}
	return st.Size == 0 && st.Blocks == 0
}

// home returns what the device has of a file.
func (r *rig) home(ino extent.Ino, n int) []byte {
	r.t.Helper()
	i, err := r.get(ino)
	r.must(err)
	defer r.put(i)
	i.mu.RLock()
	defer i.mu.RUnlock()
	p := make([]byte, n)
	r.must(i.n.HomeExtents(extent.Range{Off: 0, End: int64(n)}, func(e extent.Extent) bool {
		if e.State == extent.Written {
			_, err := r.dev.ReadAt(p[e.Off:min(e.Off+e.Len, int64(n))], e.Addr.Off)
			r.must(err)
		}
		return true
	}))
	return p
}

// allocated returns what of a file has blocks, as the extents say, and wants stat(2) to
// say the same.
func (r *rig) allocated(ino extent.Ino) (out ranges) {
	r.t.Helper()
	info, err := r.Stat(ctx, ino)
	r.must(err)
	for _, e := range info.Extents {
		out = out.add(e.Range())
	}
	if info.Attr.Blocks*512 != out.bytes() {
		r.t.Errorf("%d bytes allocated, the extents are %v", info.Attr.Blocks*512, out)
	}
	return out
}

// read returns n bytes at off.
func (r *rig) read(ino extent.Ino, off int64, n int) string {
	r.t.Helper()
	p := make([]byte, n)
	k, err := r.Read(ctx, ino, p, off)
	r.must(err)
	return string(p[:k])
}
