package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/extent"
)

// What a crash may have done wrong.
var (
	ErrRefused = errors.New("what a crash left cannot be opened")
	ErrUnclean = errors.New("check finds damage")
	ErrNames   = errors.New("the names are of no moment that the crash may go back to")
	ErrLost    = errors.New("bytes that were durable are lost")
	ErrForeign = errors.New("bytes that are not the file's can be read")
	ErrHalf    = errors.New("an operation is half done")
	ErrShrunk  = errors.New("the volume is smaller than it was")
	ErrLeaked  = errors.New("the free space does not add up")
	// ErrReleased is a block that somebody may reach, and a file could get.
	ErrReleased = errors.New("what is held is free")
)

// span is from where to where in the log of the disk something happened. What
// left no event has begun where it ended.
type span struct{ begin, end int }

// began reports whether a crash at cut may show some of it.
func (s span) began(cut int) bool { return s.begin < cut }

// over reports whether it was complete when the power failed at cut.
func (s span) over(cut int) bool { return s.end <= cut }

// change is one step in the life of a file's content.
type change struct {
	span
	what changeKind
	r    extent.Range // what was written, or made zeros
	gen  uint32       // of the stamps that were written
	size int64        // of the file afterwards
	// once is what of r becomes zeros or goes at one moment: before it all of its old
	// bytes are there, after it none.
	once extent.Range
	edit func([]byte) []byte
}

type changeKind uint8

const (
	wrote changeKind = iota
	zeroed
	resized
	synced // all before it is durable when it is over
	edited // all is as before, or what edit makes of it
)

func (c *change) covers(off int64) bool { return c.r.Off <= off && off < c.r.End }

// fileModel is the life of a file.
type fileModel struct {
	id      uint32
	ino     extent.Ino
	size    int64
	changes []change
	memo    map[int][]byte // content before the change of that number
}

// content returns the bytes of the file before change n. The caller must not alter
// them.
func (f *fileModel) content(n int) []byte {
	if b, ok := f.memo[n]; ok {
		return b
	}
	var b []byte
	from := 0
	for k := range f.memo {
		if k <= n && k >= from {
			from, b = k, f.memo[k]
		}
	}
	b = bytes.Clone(b)
	for i := from; i < n; i++ {
		c := &f.changes[i]
		if c.what == edited {
			b = c.edit(b)
			continue
		}
		b = resize(b, c.size)
		switch r := c.r.Intersect(extent.Range{Off: 0, End: c.size}); {
		case r.Empty():
		case c.what == wrote:
			copy(b[r.Off:], stamped(f.id, c.gen, r))
		case c.what == zeroed:
			clear(b[r.Off:r.End])
		}
	}
	f.memo[n] = b
	return b
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// largest returns the largest size that the file may ever have had.
func (f *fileModel) largest() (size int64) {
	for _, c := range f.changes {
		size = max(size, c.size)
	}
	return size
}

// at returns the number of the first change that is not durable for sure at a cut,
// and of the first that had not begun.
func (f *fileModel) at(cut int) (durable, begun int) {
	for i := range f.changes {
		c := &f.changes[i]
		if c.what == synced && c.over(cut) {
			durable = i
		}
		if c.began(cut) {
			begun = i + 1
		}
	}
	return durable, max(durable, begun)
}

// verify holds what a crash at cut left against the promises: the content, and where
// the last block ends.
func (f *fileModel) verify(got []byte, blocks int64, cut int) error {
	first, all := f.at(cut)
	begun := all
	// What was edited is the one or the other.
	for i := begun - 1; i >= first; i-- {
		if f.changes[i].what != edited {
			continue
		}
		if f.verifySince(got, blocks, i+1, begun, f.inPlace(begun, all)) == nil {
			return nil
		}
		begun = i
	}
	return f.verifySince(got, blocks, first, begun, f.inPlace(begun, all))
}

// inPlace returns what the changes from begun to all may have done to blocks that the file had, though
// no record says so: overwritten them, and zeroed parts of them.
func (f *fileModel) inPlace(begun, all int) (out []change) {
	for _, c := range f.changes[begun:all] {
		switch c.what {
		case wrote:
			out = append(out, c)
		case zeroed:
			if c.once.Empty() { // it keeps its blocks, as a write does
				out = append(out, c)
				continue
			}
			head, tail := c, c
			head.r.End, tail.r.Off = c.once.Off, c.once.End
			out = append(out, head, tail)
		}
	}
	return out
}

// verifySince is verify for a file whose changes before first are durable, and those
// from begun on not there but for what they have done in place.
func (f *fileModel) verifySince(got []byte, blocks int64, first, begun int, inPlace []change) error {
	durable := f.content(first)
	var since []change
	for _, c := range f.changes[first:begun] {
		if c.what != synced {
			since = append(since, c)
		}
	}
	size := int64(len(got))
	last := len(since) - 1
	for last >= 0 && since[last].size != size {
		last--
	}
	if last < 0 && size != int64(len(durable)) {
		return fmt.Errorf("file %d: size %d, was %d: %w", f.id, size, len(durable), ErrLost)
	}
	if err := f.verifyBytes(got, durable, slices.Concat(since, inPlace)); err != nil {
		return err
	}
	for i := range since {
		if err := f.verifyOnce(got, durable, since, i); err != nil {
			return err
		}
	}
	if last >= 0 && since[last].what == zeroed && blocks > extent.RoundUp(size) &&
		!slices.ContainsFunc(since[last:], func(c change) bool { return c.size > size }) {
		return fmt.Errorf("file %d was cut to %d, but has blocks up to %d: %w", f.id, size, blocks, ErrHalf)
	}
	return nil
}

func (f *fileModel) verifyBytes(got, durable []byte, since []change) error {
	for off := int64(0); off < int64(len(got)); off++ {
		if off%4096 == 0 && off+4096 <= int64(min(len(got), len(durable))) && bytes.Equal(got[off:off+4096], durable[off:off+4096]) {
			off += 4095
			continue
		}
		if f.allowed(got, off, durable, since) {
			continue
		}
		kind := ErrForeign
		s, ok := unstamp(got[off&^(wordSize-1):])
		if got[off] == 0 || ok && s.file == f.id && s.off == off&^(wordSize-1) && off < int64(len(durable)) && durable[off] != 0 {
			kind = ErrLost // zeros, or what was there before
		}
		return fmt.Errorf("file %d of %d bytes: byte %d is %s: %w", f.id, len(got), off, whose(got, off), kind)
	}
	return nil
}

// allowed reports whether a byte is one that may be there.
func (f *fileModel) allowed(got []byte, off int64, durable []byte, since []change) bool {
	b := got[off]
	if off < int64(len(durable)) && b == durable[off] || off >= int64(len(durable)) && b == 0 {
		return true
	}
	for i := range since {
		c := &since[i]
		if c.covers(off) && (c.what == wrote && b == stampedByte(f.id, c.gen, off) || c.what == zeroed && b == 0) {
			return true
		}
	}
	return false
}

// verifyOnce makes sure that change i of since is done or not, as far as its old
// bytes can be told: those that nothing else has altered.
func (f *fileModel) verifyOnce(got, durable []byte, since []change, i int) error {
	var before, after int64 = -1, -1
	c := &since[i]
	for off := c.once.Off; off < min(c.once.End, int64(len(durable))); off += wordSize {
		if durable[off] == 0 || slices.ContainsFunc(since, func(o change) bool { return o.what != resized && o.gen != c.gen && o.covers(off) }) {
			continue
		}
		if off < int64(len(got)) && got[off] == durable[off] {
			before = off
		} else {
			after = off
		}
	}
	if before >= 0 && after >= 0 {
		return fmt.Errorf("file %d: %v: the bytes at %d are as before, those at %d are gone: %w", f.id, c.once, before, after, ErrHalf)
	}
	return nil
}

// node is what a path leads to.
type node struct {
	ino    extent.Ino
	typ    uint32
	target string
}

// tree is all names at one moment.
type tree map[string]node

func (t tree) String() string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(t)) {
		n := t[p]
		fmt.Fprintf(&b, "%s=%d,%o,%s ", p, n.ino, n.typ, n.target)
	}
	return b.String()
}

// names is the history of the namespace.
type names struct {
	moments []moment // in order
	syncs   []nameSync
}

type moment struct {
	span
	tree string
}

// nameSync: when span is over, moments before number moment do not come back.
type nameSync struct {
	span
	moment int
}

func (n *names) verify(got tree, cut int) error {
	first := 0
	for _, s := range n.syncs {
		if s.over(cut) {
			first = max(first, s.moment)
		}
	}
	have := got.String()
	for i, m := range n.moments {
		if i > first && !m.began(cut) {
			break
		}
		if i >= first && m.tree == have {
			return nil
		}
	}
	return fmt.Errorf("%s; durable was %s: %w", have, n.moments[first].tree, ErrNames)
}
