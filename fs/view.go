package fs

import "holdfast/extent"

// viewPieces is of how many extents a View may be. Read reads what is more scattered.
const viewPieces = 8

// View is a part of a file for system calls to read where it lies. Until Close
// its bytes can be written over, as beside any read, but no change of the mapping
// or the size goes on.
type View struct {
	f      *FS
	i      *inode
	room   [viewPieces][]byte
	pieces [][]byte
	size   int
}

// View returns the n bytes at off, or what the file has of them. They are for
// system calls only, see device.Viewer, and the caller closes the view soon. It
// returns nil if there is none of these bytes, for whatever reason: Read says why.
func (f *FS) View(ino extent.Ino, off, n int64) *View {
	i, err := f.get(ino)
	if err != nil {
		return nil
	}
	v := &View{f: f, i: i}
	i.mu.RLock()
	if !v.find(off, n) {
		v.Close()
		return nil
	}
	f.accessed(i)
	return v
}

func (v *View) find(off, n int64) (ok bool) {
	size := v.i.n.Attr.Size
	if v.i.regular() != nil || off < 0 || off >= size {
		return false
	}
	n = min(n, size-off)
	v.size = int(n)
	v.pieces, ok = v.i.n.View(v.room[:0], extent.Range{Off: off, End: off + n})
	return ok
}

// Pieces are the bytes, in order.
func (v *View) Pieces() [][]byte { return v.pieces }

// Size is how many bytes they are.
func (v *View) Size() int { return v.size }

// Close ends the view. It must be called once.
func (v *View) Close() {
	v.i.mu.RUnlock()
	v.f.put(v.i)
}
