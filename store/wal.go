package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrDamaged says that the store's files are not what was written to them.
var ErrDamaged = fmt.Errorf("metadata store is damaged: %w", syscall.EUCLEAN)

// Pebble's log is made of chunks in blocks, as formatVersion fixes it. A chunk says
// how much of the log was synced when it was written.
const (
	logBlock  = 32 << 10
	logHeader = 19 // CRC 4, length 2, type 1, number of the log 4, synced 8

	logFullChunk = 9 // the first and last of the types of chunks
	logLastChunk = 12
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// logChunk returns the end of the chunk at pos, and what it says was synced. ok is
// false if there is no whole chunk of this log.
func logChunk(b []byte, num uint32, pos int) (end int, synced uint64, ok bool) {
	if pos+logHeader > len(b) || b[pos+6] < logFullChunk || b[pos+6] > logLastChunk ||
		binary.LittleEndian.Uint32(b[pos+7:]) != num {
		return 0, 0, false
	}
	end = pos + logHeader + int(binary.LittleEndian.Uint16(b[pos+4:]))
	if end > len(b) || end > pos-pos%logBlock+logBlock {
		return 0, 0, false
	}
	c := crc32.Checksum(b[pos+6:end], castagnoli)
	if binary.LittleEndian.Uint32(b[pos:]) != c>>15|c<<17+0xa282ead8 {
		return 0, 0, false
	}
	return end, binary.LittleEndian.Uint64(b[pos+11:]), true
}

// logDamage returns where a log is damaged, or -1. Pebble takes the first chunk that
// is not whole for the end of what a power cut has left, unless a later block of the
// log says otherwise: it would forget all behind it without a word. Here any chunk
// behind it may say so.
func logDamage(b []byte, num uint32) int {
	pos := 0
	for {
		if logBlock-pos%logBlock < logHeader {
			pos += logBlock - pos%logBlock
		}
		end, _, ok := logChunk(b, num, pos)
		if !ok {
			break
		}
		pos = end
	}
	for at := pos + 1; at+logHeader <= len(b); at++ {
		if _, synced, ok := logChunk(b, num, at); ok && synced > uint64(pos) {
			return pos
		}
	}
	return -1
}

const logSuffix = ".log"

// logNumber returns the number in the name of a log. ok is false if that is none of Pebble's.
func logNumber(name string) (num uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, logSuffix)
	if !ok {
		return 0, false
	}
	num, err := strconv.ParseUint(digits, 10, 64)
	return num, err == nil
}

// checkLogs refuses a store whose log has lost something that was synced.
func checkLogs(dir string, fsys vfs.FS) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		num, ok := logNumber(name)
		if !ok {
			continue
		}
		b, err := readAll(fsys, fsys.PathJoin(dir, name))
		if err != nil {
			return err
		}
		if at := logDamage(b, uint32(num)); at >= 0 {
			return fmt.Errorf("log %s at byte %d: %w", name, at, ErrDamaged)
		}
	}
	return nil
}

func readAll(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}
