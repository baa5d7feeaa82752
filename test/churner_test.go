package test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A churner writes files until the server is gone, and keeps a log, outside of the
// mount, of what must be there from then on. Each word of its files says which file
// it is of and where it belongs.

const churnMax = 20 * blockSize // of a file

// word is what lies at off, a multiple of 8, of version of file id.
func churnWord(id uint32, version uint8, off int64) uint64 {
	return uint64(id)<<32 | uint64(version)<<24 | uint64(off/8)
}

func churnData(id uint32, version uint8, off, n int64) []byte {
	var b []byte
	for end := off + n; off < end; off += 8 {
		b = binary.LittleEndian.AppendUint64(b, churnWord(id, version, off))
	}
	return b
}

// promise is a line of the log: the first size bytes of a file are durable in that
// version. Size 0 is none: the file is about to change.
type promise struct {
	name    string
	id      uint32
	version uint8
	size    int64
}

type churner struct {
	dir string
	log *os.File
	id  uint32 // of the last file
}

// Churn writes into the directory Path until the server is gone, with the log Name. Off is the
// number of its first file.
func (*Deeds) Churn(d Do, _ *Done) error {
	log, err := os.OpenFile(d.Name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return errorText(err)
	}
	defer log.Close()
	c := &churner{dir: d.Path, log: log, id: uint32(d.Off)}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return errorText(err)
	}
	steps := []func() error{c.replace, c.overwrite, c.grow, c.careless, c.replace, c.truncate, c.remove}
	for n := 0; ; n++ {
		if err := steps[n%len(steps)](); err != nil {
			return errorText(err)
		}
	}
}

func (c *churner) promise(p promise) error {
	_, err := fmt.Fprintln(c.log, p.name, p.id, p.version, p.size)
	return err
}

func (c *churner) path(id uint32) string { return filepath.Join(c.dir, fmt.Sprint(id)) }

// size is how long a file is at first.
func (c *churner) size(id uint32) int64 { return 8 + int64(id)*9720%churnMax&^7 }

// fresh writes a new file under a name of its own, and syncs it if asked to.
func (c *churner) fresh(suffix string, sync bool) error {
	c.id++
	f, err := os.OpenFile(c.path(c.id)+suffix, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(churnData(c.id, 1, 0, c.size(c.id))); err != nil || !sync {
		return err
	}
	return f.Sync()
}

// replace is how files should be made.
func (c *churner) replace() error {
	if err := c.fresh(".tmp", true); err != nil {
		return err
	}
	p := c.path(c.id)
	if err := errors.Join(os.Rename(p+".tmp", p), syncDir(c.dir)); err != nil {
		return err
	}
	return c.promise(promise{filepath.Base(p), c.id, 1, c.size(c.id)})
}

// careless syncs nothing: anything but strange bytes may be there.
func (c *churner) careless() error {
	if err := c.fresh("", false); err != nil {
		return err
	}
	return os.Truncate(c.path(c.id), c.size(c.id)/2)
}

// change alters the last file, which is durable before and after.
func (c *churner) change(version uint8, size int64, alter func(*os.File) error) error {
	name := fmt.Sprint(c.id)
	if err := c.promise(promise{name: name, id: c.id}); err != nil {
		return err
	}
	f, err := os.OpenFile(c.path(c.id), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := alter(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return c.promise(promise{name, c.id, version, size})
}

func (c *churner) overwrite() error {
	size := c.size(c.id)
	return c.change(2, size, func(f *os.File) error {
		_, err := f.WriteAt(churnData(c.id, 2, 0, size), 0)
		return err
	})
}

func (c *churner) grow() error {
	size := c.size(c.id)
	return c.change(2, 2*size, func(f *os.File) error {
		_, err := f.WriteAt(churnData(c.id, 2, size, size), size)
		return err
	})
}

func (c *churner) truncate() error {
	size := c.size(c.id) / 2 &^ 7
	return c.change(1, size, func(f *os.File) error { return f.Truncate(size) })
}

func (c *churner) remove() error {
	if err := c.promise(promise{name: fmt.Sprint(c.id), id: c.id}); err != nil {
		return err
	}
	return os.Remove(c.path(c.id))
}

// readPromises returns what a log says last of each file.
func readPromises(log string) (map[string]promise, error) {
	f, err := os.Open(log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make(map[string]promise)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var p promise
		if _, err := fmt.Sscan(lines.Text(), &p.name, &p.id, &p.version, &p.size); err != nil {
			return nil, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		out[p.name] = p
	}
	return out, lines.Err()
}

// verifyChurn holds a churner's directory against its log. It returns how many files
// were promised.
func verifyChurn(dir string, promises map[string]promise) (kept int, err error) {
	for name, p := range promises {
		if p.size == 0 {
			continue
		}
		kept++
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return kept, err
		}
		if int64(len(data)) != p.size {
			return kept, fmt.Errorf("%s/%s: %d bytes of %d", dir, name, len(data), p.size)
		}
		for off := int64(0); off < p.size; off += 8 {
			if got := binary.LittleEndian.Uint64(data[off:]); got != churnWord(p.id, p.version, off) {
				return kept, fmt.Errorf("%s/%s: %#x at %d of %d", dir, name, got, off, p.size)
			}
		}
	}
	return kept, verifyOwn(dir)
}

// verifyOwn: whatever files are there show zeros or their own bytes at their place.
func verifyOwn(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var id uint32
		if _, err := fmt.Sscan(e.Name(), &id); err != nil { // also of 17.tmp
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		for off := 0; off+8 <= len(data); off += 8 {
			got := binary.LittleEndian.Uint64(data[off:])
			if got != 0 && (uint32(got>>32) != id || int64(got&0xffffff) != int64(off/8)) {
				return fmt.Errorf("%s/%s: %#x at %d is not its own", dir, e.Name(), got, off)
			}
		}
	}
	return nil
}
