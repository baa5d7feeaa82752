package crashtest

import (
	"encoding/binary"
	"fmt"

	"holdfast/extent"
	"holdfast/internal/sim"
)

// A stamp is what a workload writes: every eight bytes of a file say which file
// they are of, from which write, and where in the file they belong. None of them is
// zero, nor what a new device holds.
type stamp struct {
	file, gen uint32
	off       int64 // of the word
}

const (
	wordSize = 8
	fileBits = 10
	genBits  = 22
	offBits  = 24 // in words
	high     = 0x8080808080808080
)

func (s stamp) word() [wordSize]byte {
	v := uint64(s.file)<<(genBits+offBits) | uint64(s.gen)<<offBits | uint64(s.off/wordSize)
	var b [wordSize]byte
	for i := range b { // seven bits a byte
		b[i] = byte(v>>(7*i)) | 0x80
	}
	return b
}

// unstamp reads a stamp, if it is one.
func unstamp(b []byte) (stamp, bool) {
	if len(b) < wordSize || binary.LittleEndian.Uint64(b)&high != high {
		return stamp{}, false
	}
	var v uint64
	for i := range wordSize {
		v |= uint64(b[i]&0x7f) << (7 * i)
	}
	return stamp{
		file: uint32(v >> (genBits + offBits)),
		gen:  uint32(v >> offBits & (1<<genBits - 1)),
		off:  int64(v&(1<<offBits-1)) * wordSize,
	}, true
}

// stamped returns the bytes that write gen puts into r of a file.
func stamped(file, gen uint32, r extent.Range) []byte {
	out := make([]byte, 0, r.Len()+2*wordSize)
	first := r.Off / wordSize * wordSize
	for off := first; off < r.End; off += wordSize {
		w := stamp{file, gen, off}.word()
		out = append(out, w[:]...)
	}
	return out[r.Off-first : r.End-first]
}

func stampedByte(file, gen uint32, off int64) byte {
	return stamp{file, gen, off &^ (wordSize - 1)}.word()[off%wordSize]
}

// whose says for people what lies at off of got.
func whose(got []byte, off int64) string {
	at := off &^ (wordSize - 1)
	if s, ok := unstamp(got[at:]); ok {
		return fmt.Sprintf("file %d's, of its write %d to %d", s.file, s.gen, s.off)
	}
	switch got[off] {
	case 0:
		return "a zero"
	case sim.Stale:
		return "of before the volume was made"
	}
	return fmt.Sprintf("%#x, of a torn word", got[off])
}
