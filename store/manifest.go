package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble's manifest is a list of edits, each a record of one or more chunks. One is synced before the
// next is written.
const (
	editHeader = 7 // CRC 4, length 2, type 1

	editFullChunk  = 1
	editFirstChunk = 2
	editLastChunk  = 4

	editComparer = 1 // fields of an edit, in this order
	editLog      = 2
)

// editChunk returns the end and the type of the chunk at pos. ok is false if there is none that is whole.
func editChunk(b []byte, pos int) (end int, kind byte, ok bool) {
	if pos+editHeader > len(b) || b[pos+6] < editFullChunk || b[pos+6] > editLastChunk {
		return 0, 0, false
	}
	end = pos + editHeader + int(binary.LittleEndian.Uint16(b[pos+4:]))
	if end > len(b) || end > pos-pos%logBlock+logBlock {
		return 0, 0, false
	}
	c := crc32.Checksum(b[pos+6:end], castagnoli)
	return end, b[pos+6], binary.LittleEndian.Uint32(b[pos:]) == c>>15|c<<17+0xa282ead8
}

// manifestDamage returns where a manifest is damaged, or -1, and the first log that is needed beside the
// tables, 0 if it names none. Pebble takes the first chunk that is not whole for the end of what a power
// cut has left, and goes back to what was before it. But nothing was written behind what was not synced.
func manifestDamage(b []byte) (log uint64, at int) {
	var edit []byte
	pos := 0
	for {
		if logBlock-pos%logBlock < editHeader {
			pos += logBlock - pos%logBlock
		}
		end, kind, ok := editChunk(b, pos)
		if !ok {
			break
		}
		if kind == editFullChunk || kind == editFirstChunk {
			edit = edit[:0]
		}
		edit = append(edit, b[pos+editHeader:end]...)
		if kind == editFullChunk || kind == editLastChunk {
			if n := firstLog(edit); n != 0 {
				log = n
			}
		}
		pos = end
	}
	for at := pos + 1; at+editHeader <= len(b); at++ {
		if _, kind, ok := editChunk(b, at); ok && (kind == editFullChunk || kind == editFirstChunk) {
			return log, pos
		}
	}
	return log, -1
}

// firstLog returns the first log that is needed after an edit, 0 if it does not say.
func firstLog(edit []byte) uint64 {
	field, n := binary.Uvarint(edit)
	if n > 0 && field == editComparer {
		size, m := binary.Uvarint(edit[n:])
		if m <= 0 || uint64(len(edit)-n-m) < size {
			return 0
		}
		edit = edit[n+m+int(size):]
		field, n = binary.Uvarint(edit)
	}
	if n <= 0 || field != editLog {
		return 0
	}
	log, m := binary.Uvarint(edit[n:])
	if m <= 0 {
		return 0
	}
	return log
}

// goneSuffix makes the name of a file that says that a log was removed, once no edit needed it any more. Names are durable
// in their order, so it is there before the log is not.
const goneSuffix = ".gone"

// retire notes that a log goes.
func retire(fsys vfs.FS, log string) error {
	num, ok := logNumber(fsys.PathBase(log))
	if !ok {
		return nil
	}
	dir := fsys.PathDir(log)
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	last, older := retired(names)
	if last >= num {
		return nil
	}
	f, err := fsys.Create(strings.TrimSuffix(log, logSuffix)+goneSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	errs := []error{f.Close()}
	for _, name := range older {
		errs = append(errs, fsys.Remove(fsys.PathJoin(dir, name)))
	}
	return errors.Join(errs...)
}

// retired returns the last log that was removed, 0 if none, and what says so of it and others.
func retired(names []string) (last uint64, files []string) {
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, goneSuffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
			last, files = max(last, n), append(files, name)
		}
	}
	return last, files
}

// checkManifest refuses a store whose manifest has lost an edit. Of the last one, which nothing is behind, that shows
// by the logs: it was there before the first of them that it needs no more was removed.
func checkManifest(dir string, fsys vfs.FS) error {
	desc, err := pebble.Peek(dir, fsys)
	if err != nil || !desc.Exists {
		return err
	}
	manifest := fsys.PathBase(desc.ManifestFilename)
	b, err := readAll(fsys, fsys.PathJoin(dir, manifest))
	if err != nil {
		return err
	}
	log, at := manifestDamage(b)
	if at >= 0 {
		return fmt.Errorf("manifest %s at byte %d: %w", manifest, at, ErrDamaged)
	}
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	if last, _ := retired(names); last != 0 && log <= last {
		return fmt.Errorf("manifest %s needs logs from %06d on, and those up to %06d were removed: %w", manifest, log, last, ErrDamaged)
	}
	return nil
}
