package volume

import (
	"errors"
	"slices"
	"syscall"

	"holdfast/extent"
)

// read reads p from addr, and returns a SumError if a block that it is a part of does
// not match its checksum.
func (s *sums) read(p []byte, addr int64) error {
	for len(p) > 0 {
		k, err := int64(0), error(nil)
		if in := addr % extent.BlockSize; in == 0 && len(p) >= extent.BlockSize {
			k = extent.RoundDown(int64(len(p)))
			err = s.readBlocks(p[:k], addr)
		} else {
			b := bounce.Get().(*[len(zeros)]byte)
			if err = s.readBlocks(b[:extent.BlockSize], addr-in); err == nil {
				k = int64(copy(p, b[in:extent.BlockSize]))
			}
			bounce.Put(b)
		}
		if err != nil {
			return err
		}
		p, addr = p[k:], addr+k
	}
	return nil
}

func (s *sums) readBlocks(b []byte, addr int64) error {
	if _, err := s.v.dev.ReadAt(b, addr); err != nil {
		return err
	}
	return s.verify(b, addr)
}

// write writes p to addr, in blocks that the store does not call written.
func (s *sums) write(p []byte, addr int64) error {
	for len(p) > 0 {
		k, err := extent.RoundDown(int64(len(p))), error(nil)
		if addr%extent.BlockSize == 0 && k > 0 {
			err = s.writeBlocks(p[:k], addr)
		} else {
			k, err = s.patch(p, addr)
		}
		if err != nil {
			return err
		}
		p, addr = p[k:], addr+k
	}
	return nil
}

func (s *sums) writeBlocks(p []byte, addr int64) error {
	if err := s.v.write(p, addr); err != nil {
		return err
	}
	return s.set(p, addr)
}

// patch writes of p what belongs to the block that addr is in.
func (s *sums) patch(p []byte, addr int64) (int64, error) {
	room := bounce.Get().(*[len(zeros)]byte)
	defer bounce.Put(room)
	b, in := room[:extent.BlockSize], addr%extent.BlockSize
	if err := s.readBlocks(b, addr-in); err != nil {
		return 0, err
	}
	k := copy(b[in:], p)
	return int64(k), s.writeBlocks(b, addr-in)
}

// settled reports whether the store, as it is or as a crash brings it back, may say
// that the file has written something to the blocks of e. What is there must match its
// checksum then, so that it is not overwritten where it is. It needs n exclusive, after
// endCommit.
func (n *Inode) settled(e mapping) bool {
	return e.stored && (e.state == extent.Written || n.dirty.overlaps(e.rng()) || n.v.durable.Load() < n.recorded)
}

// endCommit records what a commit that is under way is about to record of r, which is
// to be altered. It needs n exclusive.
func (n *Inode) endCommit(r extent.Range) error {
	if n.v.sums == nil || !n.committing.overlaps(r) {
		return nil
	}
	return n.recordNow()
}

// cowParts returns what of r, rounded out, has blocks that must not be altered, because they are
// shared or have checksums. What others reach directly stays where it is. It needs n
// exclusive.
func (n *Inode) cowParts(r extent.Range) (out []mapping) {
	if r = r.RoundOut(); r.Empty() {
		return nil
	}
	shared := n.sharedParts(r)
	if n.v.sums == nil {
		return shared
	}
	s := &n.v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	n.m.in(r, func(e mapping) bool {
		switch {
		case e.shared: // for certain, now
			out = append(out, e)
		case n.settled(e):
			pos := e.off
			s.held.in(extent.Range{Off: e.home, End: e.home + e.len}, func(h extent.Range, _ []uint32) {
				at := extent.Range{Off: e.off + h.Off - e.home, End: e.off + h.End - e.home}
				if pos < at.Off {
					out = append(out, e.slice(extent.Range{Off: pos, End: at.Off}))
				}
				pos = at.End
			})
			if pos < e.end() {
				out = append(out, e.slice(extent.Range{Off: pos, End: e.end()}))
			}
		}
		return true
	})
	return out
}

// writeParts is cowParts where r is to be written, in windows where they are over it.
func (n *Inode) writeParts(r extent.Range) []mapping {
	return slices.DeleteFunc(n.cowParts(r), mapping.inWindow)
}

// zeroParts is cowParts where r is to become zeros: what becomes unwritten only is not
// altered.
func (n *Inode) zeroParts(r extent.Range) []mapping {
	in := r.RoundIn()
	if n.v.sums == nil || in.Empty() {
		return n.cowParts(r)
	}
	out := n.cowParts(extent.Range{Off: r.Off, End: in.Off})
	for _, e := range n.cowParts(in) {
		if e.shared || e.win.Seg != 0 {
			out = append(out, e)
		}
	}
	return append(out, n.cowParts(extent.Range{Off: in.End, End: r.End})...)
}

// yields reports whether err, of a fork of r, leaves another way: what cannot be
// refused is written where it is, if there is no space, and has no checksum from then on.
func (n *Inode) yields(err error, r extent.Range) bool {
	return n.v.sums != nil && errors.Is(err, syscall.ENOSPC) && len(n.sharedParts(r)) == 0
}

// storeSummed is store for the home of e.
func (n *Inode) storeSummed(e mapping, p []byte, off int64) error {
	addr := e.home + off - e.off
	var err error
	if n.settled(e) {
		err = n.overwriteSettled(p, addr)
	} else {
		err = n.v.sums.write(p, addr)
	}
	if err != nil {
		return n.locate(err, e)
	}
	n.wrote()
	return nil
}

// overwriteSettled writes p to blocks that cannot be replaced by others. They have no
// checksum from then on, until they are.
func (n *Inode) overwriteSettled(p []byte, addr int64) error {
	s, end := n.v.sums, addr+int64(len(p))
	var edge [1]byte
	for _, at := range [...]int64{addr, end} { // damage must not become content
		if at%extent.BlockSize != 0 {
			if err := s.read(edge[:], at); err != nil {
				return err
			}
		}
	}
	if err := s.forget(extent.Range{Off: addr, End: end}.RoundOut()); err != nil {
		return err
	}
	return n.v.write(p, addr)
}

// storeFreshSummed is storeFresh.
func (n *Inode) storeFreshSummed(e mapping, p []byte) error {
	room := bounce.Get().(*[len(zeros)]byte)
	defer bounce.Put(room)
	put := n.v.sums.writeBlocks
	if n.settled(e) {
		put = n.overwriteSettled
	}
	whole := e.rng().RoundOut()
	for pos := whole.Off; pos < whole.End; {
		b := room[:extent.BlockSize]
		if pos >= e.off && e.end()-pos >= extent.BlockSize {
			b = p[pos-e.off:][:extent.RoundDown(e.end()-pos)]
		} else {
			clear(b)
			from := max(pos, e.off)
			copy(b[from-pos:], p[from-e.off:])
		}
		if err := put(b, e.home+pos-e.off); err != nil {
			return n.locate(err, e)
		}
		pos += int64(len(b))
	}
	n.wrote()
	return nil
}

// recordSums brings the checksums of what is written in todo into the store, before
// the extents.
func (n *Inode) recordSums(todo *rangeSet) error {
	var blocks []extent.Range
	for _, r := range todo.list() {
		n.m.in(r, func(e mapping) bool {
			if e.state == extent.Written {
				blocks = append(blocks, extent.Range{Off: e.home, End: e.home + e.len})
			}
			return true
		})
	}
	return n.v.sums.record(blocks)
}

// locate says in a SumError, which came from reading blocks of e, where in the file it
// is, and tells of it.
func (n *Inode) locate(err error, e mapping) error {
	var bad *SumError
	if !errors.As(err, &bad) || bad.Ino != 0 {
		return err
	}
	bad.Ino, bad.Off = n.Ino, e.off-e.home+bad.addr
	n.v.sums.damaged.Add(1)
	n.v.log.Error("data does not match its checksum", "inode", bad.Ino, "offset", bad.Off, "address", bad.addr)
	return bad
}
