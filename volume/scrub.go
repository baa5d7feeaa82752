package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"holdfast/extent"
)

// Scrubbing looks for damage on a volume that is in use: in steps, so that it holds
// nothing for long. Its caller goes through the records, then through the files.

// forgetful is a device that can have the host read from the medium again.
type forgetful interface{ Forget(off, n int64) }

// cursorMax is the longest key at which a step over the records ends.
const cursorMax = 160

// ScrubRecords looks whether the records behind the key after make sense, some of
// them, and calls report for those that do not. It returns the key to go on with, nil at
// the end. The first step looks at the superblocks, too.
func (v *Volume) ScrubRecords(ctx context.Context, after []byte, report func(Problem)) (next []byte, n int, err error) {
	const step = 2000
	if after == nil {
		if err := v.scrubSuper(); err != nil {
			report(Problem{BadSuperblock, 0, err.Error()})
		}
		after = []byte{1} // what begins with zero is the store's own
	}
	ended := true
	var last byte
	err = v.st.Reader.Scan(append(slices.Clone(after), 0), nil, func(k, val []byte) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n++
		last = k[0]
		body, err := unseal(k, val)
		if err == nil {
			err = makesSense(k, body)
		}
		if err != nil {
			report(Problem{BadRecord, 0, err.Error()})
		}
		if n >= step && len(k) <= cursorMax {
			next, ended = slices.Clone(k), false
		}
		return ended, nil
	})
	if err != nil && ctx.Err() == nil {
		// The store cannot go on there: with the next kind of records, then.
		report(Problem{BadRecord, 0, err.Error()})
		return []byte{max(last, after[0]) + 1}, n, nil
	}
	return next, n, err
}

func (v *Volume) scrubSuper() error {
	v.growMu.Lock()
	defer v.growMu.Unlock()
	v.evict(0, extent.BlockSize)
	s, err := readDeviceSuper(v.dev)
	if err == nil && s != v.id {
		err = fmt.Errorf("the device says it is %s of %d bytes, generation %d: %w", s.uuid, s.size, s.generation, ErrMismatch)
	}
	return err
}

// makesSense decodes a record.
func makesSense(k, b []byte) (err error) {
	switch k[0] {
	case prefixSuper:
		_, err = decodeSuper(b)
	case prefixInode:
		_, err = decodeAttr(b)
	case prefixEntry:
		_, err = decodeEntry(b)
	case prefixCookie:
		_, _, err = decodeCookie(k, b)
	case prefixExtent:
		_, _, err = decodeExtent(k, b)
	case prefixOwner:
		_, err = decodeOwner(k, b)
	case prefixCounter:
		_, err = decodeNumber(b)
	case prefixIntent:
		_, err = decodeIntent(b)
	case prefixSums:
		_, _, err = decodeSums(k, b)
	case prefixWindow:
		_, err = decodeExposure(k, b)
	case prefixHeld:
		if len(k) > len(bootKey) {
			_, err = decodeOrphan(k, b)
		}
	case prefixOrphan, prefixXattr:
	default:
		err = fmt.Errorf("unknown key %q: %w", k, ErrCorrupt)
	}
	return err
}

// NextFile returns the first regular file with a number above ino, or 0.
func (v *Volume) NextFile(ctx context.Context, ino extent.Ino) (next extent.Ino, err error) {
	err = v.st.Reader.Scan(inodeKey(ino+1), after(prefixInode), func(k, val []byte) (bool, error) {
		n, ok := numbers(k, 1)
		body, err := unseal(k, val)
		if !ok || err != nil {
			return true, ctx.Err() // ScrubRecords tells
		}
		if a, err := decodeAttr(body); err == nil && a.IsRegular() {
			next = extent.Ino(n[0])
		}
		return next == 0, ctx.Err()
	})
	return next, err
}

// Scrubbed is what Scrub has found in a part of a file.
type Scrubbed struct {
	Verified int64          // bytes that match their checksums
	Unsummed int64          // bytes that have none, and could be read
	Damaged  []extent.Range // what does not match
	Failed   []extent.Range // what the device cannot read
	Next     int64          // where to go on; extent.Inf at the end
}

// Scrub reads what is written at home of the first extent at pos or behind it, as far as
// there is room, and compares it with its checksums. It needs n shared.
func (n *Inode) Scrub(pos int64, room []byte) (s Scrubbed, err error) {
	m, err := n.extents()
	if err != nil {
		return s, err
	}
	s.Next = extent.Inf
	m.in(extent.Range{Off: pos, End: extent.Inf}, func(e mapping) bool {
		if e.state != extent.Written {
			return true
		}
		e.len = min(e.len, int64(len(room)))
		err = n.scrub(e, room[:e.len], &s)
		s.Next = e.end()
		return false
	})
	return s, err
}

func (n *Inode) scrub(e mapping, p []byte, s *Scrubbed) error {
	n.v.evict(e.home, e.len)
	if _, err := n.v.dev.ReadAt(p, e.home); err != nil {
		if e.len > extent.BlockSize { // which of them is it?
			for off := e.off; off < e.end(); off += extent.BlockSize {
				b := extent.Range{Off: off, End: off + extent.BlockSize}
				if err := n.scrub(e.slice(b), p[:extent.BlockSize], s); err != nil {
					return err
				}
			}
			return nil
		}
		s.Failed = addRange(s.Failed, e.rng())
		return nil
	}
	if n.v.sums == nil {
		s.Unsummed += e.len
		return nil
	}
	return sumParts(extent.Range{Off: e.home, End: e.home + e.len}, func(k int64, part extent.Range) error {
		c, err := n.v.sums.get(k)
		if err != nil {
			return err
		}
		for a := part.Off; a < part.End; a += extent.BlockSize {
			off := e.off + a - e.home
			switch i := sumAt(a); {
			case !c.have.has(i):
				s.Unsummed += extent.BlockSize
			case c.sums[i] == blockSum(p[a-e.home:][:extent.BlockSize]):
				s.Verified += extent.BlockSize
			default:
				s.Damaged = addRange(s.Damaged, extent.Range{Off: off, End: off + extent.BlockSize})
			}
		}
		return nil
	})
}

// Unsummed returns what of the first written extent at pos or behind it has no checksum at home, and
// where to go on; that is extent.Inf at the end. It needs n shared.
func (n *Inode) Unsummed(pos int64) (out []extent.Range, next int64, err error) {
	const most = 1 << 30 // of it is looked at
	m, err := n.extents()
	next = extent.Inf
	if err != nil || n.v.sums == nil {
		return nil, next, err
	}
	m.in(extent.Range{Off: pos, End: extent.Inf}, func(e mapping) bool {
		if e.state != extent.Written {
			return true
		}
		e.len = min(e.len, most)
		next = e.end()
		err = sumParts(extent.Range{Off: e.home, End: e.home + e.len}, func(k int64, part extent.Range) error {
			c, err := n.v.sums.get(k)
			for a := part.Off; a < part.End && err == nil; a += extent.BlockSize {
				if off := e.off + a - e.home; !c.have.has(sumAt(a)) {
					out = addRange(out, extent.Range{Off: off, End: off + extent.BlockSize})
				}
			}
			return err
		})
		return false
	})
	return out, next, err
}

// addRange adds r, which lies behind all others.
func addRange(all []extent.Range, r extent.Range) []extent.Range {
	if k := len(all) - 1; k >= 0 && all[k].End == r.Off {
		all[k].End = r.End
		return all
	}
	return append(all, r)
}

// evict makes the next read one from the medium, if the device can do that.
func (v *Volume) evict(off, n int64) {
	if d, ok := v.dev.(forgetful); ok {
		d.Forget(off, n)
	}
}

// PathOf looks for a name of ino, and returns a path that leads to it, or ErrNoName. It
// goes through all names, so it is for what is seldom asked.
func (v *Volume) PathOf(ctx context.Context, ino extent.Ino) (string, error) {
	return pathOf(ctx, v.st.sealedReader, ino)
}

func pathOf(ctx context.Context, st sealedReader, ino extent.Ino) (string, error) {
	at, path := ino, ""
	for depth := 0; at != extent.RootIno; depth++ {
		lower, upper := []byte{prefixEntry}, after(prefixEntry)
		if a, err := st.Get(inodeKey(at)); err == nil {
			if a, err := decodeAttr(a); err == nil && a.IsDir() {
				lower, upper = key(prefixEntry, uint64(a.Parent)), after(prefixEntry, uint64(a.Parent))
			}
		}
		found := extent.Ino(0)
		err := st.Scan(lower, upper, func(k, b []byte) (bool, error) {
			e, err := decodeEntry(b)
			if err == nil && e.Ino == at && len(k) > 9 {
				n, _ := numbers(k[:9], 1)
				found, path = extent.Ino(n[0]), "/"+string(k[9:])+path
			}
			return found == 0, errors.Join(err, ctx.Err())
		})
		if err == nil && (found == 0 || depth > extent.BlockSize) {
			err = ErrNoName
		}
		if err != nil {
			return "", fmt.Errorf("path of inode %d: %w", ino, err)
		}
		at = found
	}
	return path, nil
}

// Missing reports whether err says that a file is not there any more.
func Missing(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE)
}
