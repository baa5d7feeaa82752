package volume

import (
	"encoding/binary"

	"holdfast/extent"
)

// The keys of the store. Numbers in keys are big endian, so that keys sort as
// numbers do.
//
// Extents and owners are keyed by where they end: the first key past a point is
// then the one that covers it, which a store that only scans forward can find.
const (
	prefixSuper   = 's' // → superblock
	prefixCounter = 'c' // name → next number
	prefixInode   = 'i' // ino → attributes
	prefixEntry   = 'd' // dir, name → ino, type, cookie
	prefixCookie  = 'e' // dir, cookie → ino, type, name
	prefixExtent  = 'x' // ino, end → offset, address, state
	prefixOwner   = 'r' // segment, address of the end, ino, end in the file → length
	prefixOrphan  = 'o' // ino → nothing: no name leads to it any more
	prefixIntent  = 't' // ino → what was begun and takes several batches
	prefixXattr   = 'a' // ino, name → value of an extended attribute
	prefixWindow  = 'w' // segment, lease, offset in the file → end, window, holder: an Exposure
	prefixHeld    = 'h' // address of the end → length, account of an orphan; nothing → the boot that orphans are of
	prefixSums    = 'k' // address of the first of sumBlocks blocks by their length → checksums of their data
)

func key(prefix byte, parts ...uint64) []byte {
	k := make([]byte, 1, 1+8*len(parts))
	k[0] = prefix
	for _, p := range parts {
		k = binary.BigEndian.AppendUint64(k, p)
	}
	return k
}

func inodeKey(ino extent.Ino) []byte  { return key(prefixInode, uint64(ino)) }
func orphanKey(ino extent.Ino) []byte { return key(prefixOrphan, uint64(ino)) }
func intentKey(ino extent.Ino) []byte { return key(prefixIntent, uint64(ino)) }
func orphanedKey(end int64) []byte    { return key(prefixHeld, uint64(end)) }
func sumKey(k int64) []byte           { return key(prefixSums, uint64(k)) }

func extentKey(ino extent.Ino, end int64) []byte {
	return key(prefixExtent, uint64(ino), uint64(end))
}

func ownerKey(a extent.Addr, length int64, ino extent.Ino, end int64) []byte {
	return key(prefixOwner, uint64(a.Seg), uint64(a.Off+length), uint64(ino), uint64(end))
}

func entryKey(dir extent.Ino, name string) []byte {
	return append(key(prefixEntry, uint64(dir)), name...)
}

func cookieKey(dir extent.Ino, cookie uint64) []byte {
	return key(prefixCookie, uint64(dir), cookie)
}

func counterKey(name string) []byte { return append([]byte{prefixCounter}, name...) }

// after is the first key past all that begin with prefix and parts, none of which
// is all ones.
func after(prefix byte, parts ...uint64) []byte {
	if len(parts) == 0 {
		return []byte{prefix + 1}
	}
	parts[len(parts)-1]++
	return key(prefix, parts...)
}

// numbers reads the n numbers behind the prefix of k, at most four.
func numbers(k []byte, n int) (out [4]uint64, ok bool) {
	if len(k) != 1+8*n {
		return out, false
	}
	for i := range n {
		out[i] = binary.BigEndian.Uint64(k[1+8*i:])
	}
	return out, true
}
