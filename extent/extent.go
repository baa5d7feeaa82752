// Package extent holds the small types that every room shares: inode numbers,
// device addresses, byte ranges and extents.
//
// It has no locks, does no I/O, and must not know who stores or moves the bytes
// it names.
package extent

import (
	"fmt"
	"math"
	"syscall"
)

const (
	// BlockSize is the unit of allocation and of every mapping, in bytes.
	BlockSize = 4096
	// Inf as the end of a Range means "to infinity", also beyond end of file.
	Inf = math.MaxInt64
	// MaxSize is the largest size of a file in bytes.
	MaxSize = 1 << 53
)

// Ino is an inode number. It is never reused in the life of a volume.
type Ino uint64

// RootIno is the inode of the root directory.
const RootIno Ino = 1

// Segment names an address space in which blocks live. A block device is one
// segment; each window is one of its own, and its number is never used again.
type Segment uint64

// Device is the segment of the volume's device. Windows count up from there.
const Device Segment = 1

// Addr is a device address: the byte Off within Seg.
type Addr struct {
	Seg Segment
	Off int64
}

// String prints the address as segment:offset.
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.Seg, a.Off) }

// State says what reading an extent yields.
type State uint8

const (
	// Unwritten blocks are allocated and read as zeros.
	Unwritten State = iota
	// Written blocks hold the file's bytes.
	Written
)

// String prints the state for people.
func (s State) String() string {
	if s == Written {
		return "written"
	}
	return "unwritten"
}

// Extent is a run of blocks of a file: Len bytes at file offset Off lie at Addr.
type Extent struct {
	Off   int64
	Len   int64
	Addr  Addr
	State State
	// Shared: the blocks may be those of another range of a file, too, so that what
	// is written there goes to new ones.
	Shared bool
}

// Range returns the bytes of the file that the extent maps.
func (e Extent) Range() Range { return Range{e.Off, e.Off + e.Len} }

// Slice returns the part of e within r, which must overlap it.
func (e Extent) Slice(r Range) Extent {
	i := e.Range().Intersect(r)
	e.Addr.Off += i.Off - e.Off
	e.Off, e.Len = i.Off, i.Len()
	return e
}

// Range is the half-open byte range [Off, End) of a file. End == Inf means to
// infinity.
type Range struct {
	Off int64
	End int64
}

// NewRange builds a range from the form used on wires: a length of 2^64-1 means
// to infinity. It returns EINVAL for an empty range and for one that overflows.
func NewRange(off, length uint64) (Range, error) {
	switch {
	case length == 0:
		return Range{}, fmt.Errorf("range %d+0 is empty: %w", off, syscall.EINVAL)
	case off >= Inf:
		return Range{}, fmt.Errorf("range offset %d is too large: %w", off, syscall.EINVAL)
	case length == math.MaxUint64:
		return Range{int64(off), Inf}, nil
	case length > Inf-off-1:
		return Range{}, fmt.Errorf("range %d+%d overflows: %w", off, length, syscall.EINVAL)
	}
	return Range{int64(off), int64(off + length)}, nil
}

// Len returns the length in bytes, Inf for an infinite range.
func (r Range) Len() int64 {
	if r.End == Inf {
		return Inf
	}
	return r.End - r.Off
}

// Empty reports whether the range holds no byte.
func (r Range) Empty() bool { return r.End <= r.Off }

// Overlaps reports whether r and o share a byte.
func (r Range) Overlaps(o Range) bool { return r.Off < o.End && o.Off < r.End }

// Contains reports whether every byte of o is in r.
func (r Range) Contains(o Range) bool { return r.Off <= o.Off && o.End <= r.End }

// ContainsOff reports whether the byte at off is in r.
func (r Range) ContainsOff(off int64) bool { return r.Off <= off && off < r.End }

// Intersect returns what r and o share; it is Empty if they share nothing.
func (r Range) Intersect(o Range) Range {
	return Range{max(r.Off, o.Off), min(r.End, o.End)}
}

// Minus returns what is left of r without o: nothing, one or two ranges, the
// unused ones Empty.
func (r Range) Minus(o Range) (left, right Range) {
	if !r.Overlaps(o) {
		return r, Range{}
	}
	if r.Off < o.Off {
		left = Range{r.Off, o.Off}
	}
	if o.End < r.End {
		right = Range{o.End, r.End}
	}
	return left, right
}

// RoundOut widens r to whole blocks.
func (r Range) RoundOut() Range {
	return Range{RoundDown(r.Off), RoundUp(r.End)}
}

// RoundIn narrows r to the whole blocks inside it; it may become Empty.
func (r Range) RoundIn() Range {
	end := r.End
	if end != Inf {
		end = RoundDown(end)
	}
	return Range{RoundUp(r.Off), end}
}

// String prints the range as [off,end).
func (r Range) String() string {
	if r.End == Inf {
		return fmt.Sprintf("[%d,∞)", r.Off)
	}
	return fmt.Sprintf("[%d,%d)", r.Off, r.End)
}

// RoundDown rounds off down to a block boundary.
func RoundDown(off int64) int64 { return off &^ (BlockSize - 1) }

// RoundUp rounds off up to a block boundary. What would pass Inf stays Inf.
func RoundUp(off int64) int64 {
	if off > Inf-BlockSize {
		return Inf
	}
	return (off + BlockSize - 1) &^ (BlockSize - 1)
}
