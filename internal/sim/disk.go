// Package sim is a disk on which the power can fail: device and metadata store of
// a volume lie on the same one, so that a cut meets both at once.
//
// A Disk keeps one log of all that is written to it, of every flush, and of every
// name that comes or goes. A Cursor goes to any position of that log and makes the
// disks that a power cut there may leave: what was flushed is there, and of the
// rest any part, down to single sectors. Which part, a Choice says; it is decided
// by nothing else, so that a crash can be had again.
//
// What a file's sync promises is what POSIX says and no more: a name is there for
// sure only after a sync of its directory. Before that names come in the order of
// their making, as a journal does it; old ones may stay. Pebble is not made for a
// disk that has the later of two names and not the earlier.
//
// It must not know what a volume is.
//
// Lock order: Disk.mu is a leaf; the hook of Before is called without it.
package sim

import (
	"fmt"
	"maps"
	"sync"
)

// Sector is what a disk writes as a whole or not at all.
const Sector = 512

// Stale is what the blocks of a new device hold from a given offset on: bytes of
// whoever had them before.
const Stale = 0x65

// Numbers of objects: the device, the root directory, then what is created.
const (
	deviceObj = iota
	rootObj
	firstObj
)

// OpKind says what an operation does.
type OpKind uint8

// The kinds of operations. Naming is a change of a directory.
const (
	Read OpKind = iota
	Write
	Flush
	Naming
)

func (k OpKind) String() string { return [...]string{"read", "write", "flush", "naming"}[k] }

// Op is an operation on the disk.
type Op struct {
	Kind OpKind
	// Name is the file's or directory's, and empty for the device.
	Name string
	Off  int64
	Len  int
}

// Device reports whether the operation is one on the device.
func (o Op) Device() bool { return o.Name == "" }

func (o Op) String() string {
	if o.Device() {
		o.Name = "device"
	}
	return fmt.Sprintf("%v %s [%d,+%d)", o.Kind, o.Name, o.Off, o.Len)
}

// Disk is a device and a filesystem. Its methods may be called concurrently.
type Disk struct {
	mu     sync.Mutex
	base   *image // what is there for sure at the beginning of the log
	now    *image // what reads see
	log    []event
	locks  map[string]bool
	before func(Op) error
}

// event is an entry of the log.
type event struct {
	kind eventKind
	obj  int // file or directory
	off  int64
	data []byte
	name string // linked or unlinked
	from string // of a rename within the directory
	to   int    // what name leads to; 0 is nothing
	size int64  // of the device or file afterwards
}

type eventKind uint8

const (
	evWrite eventKind = iota
	evName
	evSize // the device or file is longer
	evFlush
	// evFailed is a flush that failed: what was written stays in doubt for good.
	evFailed
)

// image is a state of the disk.
type image struct {
	files map[int]*content
	dirs  map[int]map[string]int
	next  int
}

func (i *image) clone() *image {
	out := &image{files: make(map[int]*content, len(i.files)), dirs: make(map[int]map[string]int, len(i.dirs)), next: i.next}
	for n, f := range i.files {
		out.files[n] = f.clone()
	}
	for n, d := range i.dirs {
		out.dirs[n] = maps.Clone(d)
	}
	return out
}

// New makes a disk with a device of size bytes, which are zeros up to stale and
// old bytes of others from there on, and an empty filesystem.
func New(size, stale int64) *Disk {
	img := &image{
		files: map[int]*content{deviceObj: newContent(size, stale)},
		dirs:  map[int]map[string]int{rootObj: {}},
		next:  firstObj,
	}
	return onImage(img)
}

func onImage(img *image) *Disk {
	return &Disk{base: img, now: img.clone(), locks: make(map[string]bool)}
}

// Pos is the position in the log that the next event gets.
func (d *Disk) Pos() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

// Settle makes everything durable and empties the log.
func (d *Disk) Settle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.base, d.log = d.now.clone(), nil
}

// Before sets a function that is called before each operation. Its error is the
// operation's: then a half of what was to be written is, and what was to be flushed
// never will be for sure.
func (d *Disk) Before(hook func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = hook
}

func (d *Disk) ask(o Op) error {
	d.mu.Lock()
	hook := d.before
	d.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(o)
}

// add appends to the log and to what reads see. It needs mu.
func (d *Disk) add(e event) {
	d.now.apply(&e)
	if f := d.now.files[e.obj]; f != nil {
		e.size = f.size
	}
	d.log = append(d.log, e)
}

// apply does all of an event.
func (i *image) apply(e *event) {
	switch e.kind {
	case evWrite:
		i.files[e.obj].write(e.data, e.off)
	case evName:
		i.name(e, true)
	case evSize:
		i.files[e.obj].grow(e.size)
	}
}

// name changes a directory; removals says whether names may go.
func (i *image) name(e *event, removals bool) {
	dir := i.dirs[e.obj]
	if e.from != "" && removals {
		delete(dir, e.from)
	}
	if e.to != 0 {
		dir[e.name] = e.to
	} else if removals {
		delete(dir, e.name)
	}
}

// write is the way of all bytes to the disk.
func (d *Disk) write(obj int, o Op, p []byte) (int, error) {
	o.Kind, o.Len = Write, len(p)
	err := d.ask(o)
	if err != nil {
		p = p[:len(p)/2]
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(p) > 0 {
		d.add(event{kind: evWrite, obj: obj, off: o.Off, data: append([]byte(nil), p...)})
	}
	return len(p), err
}

// extend makes the device or a file longer. A fault leaves it as it is.
func (d *Disk) extend(obj int, size int64) error {
	if err := d.ask(Op{Kind: Write, Off: size}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(event{kind: evSize, obj: obj, size: size})
	return nil
}

func (d *Disk) flush(obj int, o Op) error {
	o.Kind = Flush
	err := d.ask(o)
	d.mu.Lock()
	defer d.mu.Unlock()
	e := event{kind: evFlush, obj: obj}
	if err != nil {
		e.kind = evFailed
	}
	d.add(e)
	return err
}

func (d *Disk) read(obj int, o Op, p []byte) (int, error) {
	o.Kind, o.Len = Read, len(p)
	if err := d.ask(o); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.files[obj].read(p, o.Off), nil
}

func (e *event) describe(i int) string {
	on := fmt.Sprintf("file %d", e.obj)
	if e.obj == deviceObj {
		on = "device"
	}
	switch e.kind {
	case evWrite:
		return fmt.Sprintf("%d write %s [%d,+%d)", i, on, e.off, len(e.data))
	case evName:
		return fmt.Sprintf("%d directory %d: %s → %d, from %q", i, e.obj, e.name, e.to, e.from)
	case evSize:
		return fmt.Sprintf("%d %s has %d bytes", i, on, e.size)
	case evFlush:
		return fmt.Sprintf("%d flush %s", i, on)
	}
	return fmt.Sprintf("%d failed flush %s", i, on)
}

// Corrupt flips the bits of mask in a byte of a file, or of the device if name is
// empty, on the medium itself: no write says so.
func (d *Disk) Corrupt(name string, off int64, mask byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	obj := deviceObj
	if name != "" {
		_, _, obj = d.find(name)
	}
	if _, ok := d.now.files[obj]; !ok || name != "" && obj == 0 {
		return missing("corrupt", name)
	}
	for _, i := range [...]*image{d.base, d.now} {
		var p [1]byte
		if i.files[obj].read(p[:], off) == 1 {
			p[0] ^= mask
			i.files[obj].write(p[:], off)
		}
	}
	return nil
}

// Clone returns a disk that holds what reads see now, all of it durable.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return onImage(d.now.clone())
}
