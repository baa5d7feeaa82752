package volume

import (
	"encoding/binary"
	"fmt"
	"math"
	"syscall"

	"holdfast/extent"
)

// The values of the store: fixed little-endian layouts.

var le = binary.LittleEndian

// Attr is what a file is, apart from its content. Times are nanoseconds since
// the epoch.
type Attr struct {
	Mode                       uint32 // with the type, S_IFMT
	UID, GID, Nlink, Rdev      uint32
	Xattrs                     uint32 // how many extended attributes there are
	Size                       int64
	Atime, Mtime, Ctime, Btime int64
	Target                     string     // of a symbolic link
	Parent                     extent.Ino // of a directory
}

// IsRegular reports whether the file has blocks.
func (a *Attr) IsRegular() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFREG }

// IsDir reports whether it is a directory.
func (a *Attr) IsDir() bool { return a.Mode&syscall.S_IFMT == syscall.S_IFDIR }

const attrFixed = 6*4 + 6*8

func encodeAttr(a *Attr) []byte {
	b := make([]byte, 0, attrFixed+len(a.Target))
	for _, v := range [...]uint32{a.Mode, a.UID, a.GID, a.Nlink, a.Rdev, a.Xattrs} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range [...]int64{a.Size, a.Atime, a.Mtime, a.Ctime, a.Btime, int64(a.Parent)} {
		b = le.AppendUint64(b, uint64(v))
	}
	return append(b, a.Target...)
}

func decodeAttr(b []byte) (Attr, error) {
	if len(b) < attrFixed {
		return Attr{}, fmt.Errorf("inode record of %d bytes: %w", len(b), ErrCorrupt)
	}
	u32 := func(i int) uint32 { return le.Uint32(b[4*i:]) }
	i64 := func(i int) int64 { return int64(le.Uint64(b[24+8*i:])) }
	a := Attr{
		Mode: u32(0), UID: u32(1), GID: u32(2), Nlink: u32(3), Rdev: u32(4), Xattrs: u32(5),
		Size: i64(0), Atime: i64(1), Mtime: i64(2), Ctime: i64(3), Btime: i64(4),
		Parent: extent.Ino(i64(5)), Target: string(b[attrFixed:]),
	}
	if a.Size < 0 || a.Size > extent.MaxSize {
		return Attr{}, fmt.Errorf("inode record with size %d: %w", a.Size, ErrCorrupt)
	}
	return a, nil
}

// Entry is what a name in a directory leads to. Cookie is the entry's place in
// the order of ReadDir; it is never used again.
type Entry struct {
	Ino    extent.Ino
	Type   uint32 // the type bits of the mode, S_IFMT
	Cookie uint64
}

func encodeEntry(e Entry) []byte {
	b := le.AppendUint64(make([]byte, 0, 20), uint64(e.Ino))
	return le.AppendUint64(le.AppendUint32(b, e.Type), e.Cookie)
}

func decodeEntry(b []byte) (Entry, error) {
	if len(b) != 20 {
		return Entry{}, fmt.Errorf("directory entry of %d bytes: %w", len(b), ErrCorrupt)
	}
	return Entry{extent.Ino(le.Uint64(b)), le.Uint32(b[8:]), le.Uint64(b[12:])}, nil
}

func encodeCookie(e Entry, name string) []byte {
	b := le.AppendUint64(make([]byte, 0, 12+len(name)), uint64(e.Ino))
	return append(le.AppendUint32(b, e.Type), name...)
}

func decodeCookie(k, b []byte) (Entry, string, error) {
	n, ok := numbers(k, 2)
	if !ok || len(b) < 13 {
		return Entry{}, "", fmt.Errorf("cookie record of %d bytes: %w", len(b), ErrCorrupt)
	}
	return Entry{extent.Ino(le.Uint64(b)), le.Uint32(b[8:]), n[1]}, string(b[12:]), nil
}

// sharedBit in the state of an extent's record says that its blocks may have other
// owners. All records of a block with several owners carry it.
const sharedBit = 0x80

func encodeExtent(e extent.Extent) []byte {
	b := make([]byte, 0, 25)
	for _, v := range [...]uint64{uint64(e.Off), uint64(e.Addr.Seg), uint64(e.Addr.Off)} {
		b = le.AppendUint64(b, v)
	}
	state := byte(e.State)
	if e.Shared {
		state |= sharedBit
	}
	return append(b, state)
}

// decodeExtent checks all that can be checked without the device's size.
func decodeExtent(k, b []byte) (extent.Ino, extent.Extent, error) {
	n, ok := numbers(k, 2)
	if !ok || len(b) != 25 {
		return 0, extent.Extent{}, fmt.Errorf("extent record %x of %d bytes: %w", k, len(b), ErrCorrupt)
	}
	ino, end, off, addr := extent.Ino(n[0]), n[1], le.Uint64(b), le.Uint64(b[16:])
	e := extent.Extent{
		Off: int64(off), Len: int64(end - off),
		Addr:   extent.Addr{Seg: extent.Segment(le.Uint64(b[8:])), Off: int64(addr)},
		State:  extent.State(b[24] &^ sharedBit),
		Shared: b[24]&sharedBit != 0,
	}
	const odd = extent.BlockSize - 1
	switch {
	case off >= end || end > extent.MaxSize, addr > math.MaxInt64-(end-off), (off|end|addr)&odd != 0:
		return ino, e, fmt.Errorf("inode %d: extent [%d,%d) at %d: %w", ino, off, end, addr, ErrCorrupt)
	case e.State > extent.Written || e.Addr.Seg != extent.Device:
		return ino, e, fmt.Errorf("inode %d: extent [%d,%d) of segment %d, state %d: %w",
			ino, off, end, e.Addr.Seg, e.State, ErrCorrupt)
	}
	return ino, e, nil
}

func encodeOrphan(o Orphan) []byte {
	return le.AppendUint32(le.AppendUint64(nil, uint64(o.Len)), o.UID)
}

func decodeOrphan(k, b []byte) (Orphan, error) {
	n, ok := numbers(k, 1)
	if !ok || len(b) != 12 {
		return Orphan{}, fmt.Errorf("record of orphaned blocks %x of %d bytes: %w", k, len(b), ErrCorrupt)
	}
	length := le.Uint64(b)
	if length == 0 || length > n[0] || n[0] > math.MaxInt64 || (length|n[0])&(extent.BlockSize-1) != 0 {
		return Orphan{}, fmt.Errorf("orphaned blocks end at %d, length %d: %w", n[0], length, ErrCorrupt)
	}
	return Orphan{Addr: int64(n[0] - length), Len: int64(length), UID: le.Uint32(b[8:])}, nil
}

func encodeNumber(n uint64) []byte { return le.AppendUint64(nil, n) }

func decodeNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("number of %d bytes: %w", len(b), ErrCorrupt)
	}
	return le.Uint64(b), nil
}

// owner is one use of blocks: [addr, addr+len) holds the bytes of ino that end at
// end.
type owner struct {
	addr extent.Addr
	len  int64
	ino  extent.Ino
	end  int64
}

func decodeOwner(k, b []byte) (owner, error) {
	n, ok := numbers(k, 4)
	if !ok || len(b) != 8 {
		return owner{}, fmt.Errorf("owner record %x of %d bytes: %w", k, len(b), ErrCorrupt)
	}
	length := le.Uint64(b)
	const odd = extent.BlockSize - 1
	if length == 0 || length > recordMax || length > n[1] || length > n[3] || n[1] > math.MaxInt64 || n[3] > extent.MaxSize ||
		(length|n[1]|n[3])&odd != 0 {
		return owner{}, fmt.Errorf("owner record ends at %d:%d, length %d: %w", n[0], n[1], length, ErrCorrupt)
	}
	return owner{
		addr: extent.Addr{Seg: extent.Segment(n[0]), Off: int64(n[1] - length)},
		len:  int64(length), ino: extent.Ino(n[2]), end: int64(n[3]),
	}, nil
}
