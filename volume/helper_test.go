package volume

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/internal/sim"
	"holdfast/store"
)

// stale fills the blocks of a test device: the bytes of whoever had them before.
// No test writes it, so that no file may ever show it.
const stale = sim.Stale

// testDevice is the device of a simulated disk, which can be told to fail.
type testDevice struct {
	*sim.Device
	syncs   atomic.Int64
	onSync  func() // called when a flush is done and its caller does not know yet
	failing error
	full    bool
}

func (d *testDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.failing != nil {
		return 0, d.failing
	}
	return d.Device.WriteAt(p, off)
}

func (d *testDevice) Sync() error {
	if d.failing != nil {
		return d.failing
	}
	d.syncs.Add(1)
	err := d.Device.Sync()
	if d.onSync != nil {
		d.onSync()
	}
	return err
}

func (d *testDevice) Reserve(off, n int64) error {
	if d.full {
		return syscall.ENOSPC
	}
	return nil
}

// rig is a volume with what it lies on.
type rig struct {
	t    testing.TB
	disk *sim.Disk
	dev  *testDevice // of disk
	st   *store.Pebble
	v    *Volume
	mu   sync.RWMutex // of whatever inode a test uses alone
}

func (r *rig) insert(d *sim.Disk) { r.disk, r.dev = d, &testDevice{Device: d.Device()} }

func (r *rig) options(verify func(store.Reader) error) store.Options {
	return store.Options{FS: r.disk.FS(), Verify: verify, CacheSize: 1 << 20, MemTableSize: 512 << 10}
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
	return newRigWith(t, size, Options{})
}

func newRigWith(t testing.TB, size int64, o Options) *rig {
	t.Helper()
	r := &rig{t: t}
	r.insert(sim.New(size, dataStart))
	st, err := store.Create("meta", r.options(nil))
	must(t, err)
	r.st = st
	must(t, Create(r.dev, st, o))
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
func (r *rig) crash(left sim.Choice) {
	r.t.Helper()
	at := r.disk.Cursor()
	at.Seek(r.disk.Pos())
	r.st.Close()
	r.insert(at.Crash(left))
	r.openStore()
	r.check()
	r.open()
}

// check runs CheckData and wants no problem.
func (r *rig) check() Summary {
	r.t.Helper()
	sum, err := CheckData(context.Background(), r.dev, r.st, func(p Problem) { r.t.Fatalf("check: %v", p) })
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
