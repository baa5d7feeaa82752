package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// stale fills the blocks of a test device: the bytes of whoever had them before.
// No test writes it, so that no file may ever show it.
const stale = 0xA5

// memDevice is a device that records what was not synced, so that a crash can
// lose or tear any of it.
type memDevice struct {
	mu      sync.Mutex
	now     []byte
	safe    []byte
	pending []pendingWrite
	syncs   int
	onSync  func()
	failing error
	full    bool
}

type pendingWrite struct {
	off int64
	p   []byte
}

var _ device.Device = (*memDevice)(nil)

func newMemDevice(size int64) *memDevice {
	d := &memDevice{now: make([]byte, size)}
	if size > dataStart {
		copy(d.now[dataStart:], fill(stale, int(size-dataStart)))
	}
	d.safe = append([]byte(nil), d.now...)
	return d
}

func (d *memDevice) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.now[off:off+int64(len(p))]), nil
}

func (d *memDevice) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing != nil {
		return 0, d.failing
	}
	copy(d.now[off:off+int64(len(p))], p)
	d.pending = append(d.pending, pendingWrite{off, append([]byte(nil), p...)})
	return len(p), nil
}

func (d *memDevice) Sync() error {
	if d.onSync != nil {
		d.onSync()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing != nil {
		return d.failing
	}
	for _, w := range d.pending {
		copy(d.safe[w.off:], w.p)
	}
	d.pending = nil
	d.syncs++
	return nil
}

func (d *memDevice) Reserve(off, n int64) error {
	if d.full {
		return syscall.ENOSPC
	}
	return nil
}

// Discard leaves the worst that it may: somebody's bytes.
func (d *memDevice) Discard(off, n int64) error {
	_, err := d.WriteAt(fill(stale, int(n)), off)
	return err
}

func (d *memDevice) Size() int64        { return int64(len(d.now)) }
func (d *memDevice) Fence(uint64) error { return nil }
func (d *memDevice) Close() error       { return nil }

// crash returns the device as it is after a power cut: each sector written since
// the last sync is there or not.
func (d *memDevice) crash(rng *rand.Rand) *memDevice {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := &memDevice{now: append([]byte(nil), d.safe...)}
	for _, w := range d.pending {
		for i := 0; i < len(w.p); i += 512 {
			if rng.IntN(2) == 0 {
				copy(after.now[w.off+int64(i):], w.p[i:min(i+512, len(w.p))])
			}
		}
	}
	after.safe = append([]byte(nil), after.now...)
	return after
}

// rig is a volume with what it lies on.
type rig struct {
	t   testing.TB
	dev *memDevice
	fs  *vfs.MemFS
	st  *store.Pebble
	v   *Volume
	mu  sync.RWMutex // of whatever inode a test uses alone
}

func (r *rig) options(verify func(store.Reader) error) store.Options {
	return store.Options{FS: r.fs, Verify: verify, CacheSize: 1 << 20, MemTableSize: 512 << 10}
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func newRig(t testing.TB, size int64) *rig {
	t.Helper()
	r := &rig{t: t, dev: newMemDevice(size), fs: vfs.NewCrashableMem()}
	st, err := store.Create("meta", r.options(nil))
	must(t, err)
	r.st = st
	must(t, Create(r.dev, st, Options{}))
	r.open()
	t.Cleanup(func() { r.st.Close() })
	return r
}

func (r *rig) open() {
	r.t.Helper()
	v, err := Open(context.Background(), r.dev, r.st, Options{})
	must(r.t, err)
	r.v = v
}

// reopen closes all and opens it again.
func (r *rig) reopen() {
	r.t.Helper()
	must(r.t, r.v.Close())
	must(r.t, r.st.Close())
	r.openStore()
	r.open()
}

func (r *rig) openStore() {
	r.t.Helper()
	st, err := store.Open("meta", r.options(func(s store.Reader) error { return Verify(r.dev, s) }))
	must(r.t, err)
	r.st = st
}

// crash cuts the power of store and device at once and opens what is left.
func (r *rig) crash(rng *rand.Rand) {
	r.t.Helper()
	fs := r.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
	dev := r.dev.crash(rng)
	r.st.Close()
	r.fs, r.dev = fs, dev
	r.openStore()
	r.check()
	r.open()
}

// check runs Check and wants no problem.
func (r *rig) check() Summary {
	r.t.Helper()
	sum, err := Check(context.Background(), r.dev, r.st, func(p Problem) { r.t.Fatalf("check: %v", p) })
	must(r.t, err)
	return sum
}

// create makes a regular file with a name in the root.
func (r *rig) create(name string) *Inode {
	r.t.Helper()
	ino, err := r.v.NewIno()
	must(r.t, err)
	n := r.v.New(ino, Attr{Mode: syscall.S_IFREG | 0o644, Nlink: 1})
	tx := r.v.Begin()
	tx.PutInode(n)
	tx.PutEntry(extent.RootIno, name, Entry{Ino: ino, Type: syscall.S_IFREG})
	must(r.t, tx.Commit())
	return n
}

func (r *rig) sync(n *Inode) {
	r.t.Helper()
	must(r.t, r.v.Sync(context.Background(), n, &r.mu))
}

func (r *rig) load(ino extent.Ino) *Inode {
	r.t.Helper()
	n, err := r.v.Load(ino)
	must(r.t, err)
	return n
}

// read returns all of n.
func (r *rig) read(n *Inode) []byte {
	r.t.Helper()
	b := make([]byte, n.Attr.Size)
	k, err := n.ReadAt(b, 0)
	must(r.t, err)
	if k != len(b) {
		r.t.Fatalf("read %d of %d bytes", k, len(b))
	}
	return b
}

func extentsOf(t fataler, n *Inode) string {
	t.Helper()
	s := ""
	must(t, n.Extents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
		s += fmt.Sprintf("%v@%v %v; ", e.Range(), e.Addr, e.State)
		return true
	}))
	return s
}
