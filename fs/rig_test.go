package fs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/device"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/store"
	"holdfast/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// rig is a filesystem on a real device file, with a real store in memory and a
// real arbiter. It is checked offline when the test ends.
type rig struct {
	*FS
	t      tester
	dir    string
	mem    *vfs.MemFS
	dev    device.Device
	st     *store.Pebble
	opts   Options
	arbs   arbiter.Config
	size   int64
	vopts  volume.Options // that it is made with
	opened volume.Options // and with which it is opened
	ticks  chan time.Time
	// spoiled says that the test has damaged content on the device.
	spoiled bool

	mu  sync.Mutex
	now time.Time // guarded by mu: what the clock says, one millisecond later each time
}

// tester is what testing.T and rapid.T share.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

const (
	testSize  = 64 << 20
	punchHole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
)

// newRig starts a filesystem that the test ends.
func newRig(t testing.TB, change ...func(*rig)) *rig {
	t.Helper()
	r := makeRig(t, t.TempDir(), change...)
	t.Cleanup(r.finish)
	return r
}

func makeRig(t tester, dir string, change ...func(*rig)) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, mem: vfs.NewMem(), size: testSize, ticks: make(chan time.Time), now: time.Unix(1e9, 0)}
	r.opts = Options{Ticks: r.ticks, Now: r.clock}
	for _, fn := range change {
		fn(r)
	}
	dev, err := device.Create(filepath.Join(dir, "device"), r.size)
	r.must(err)
	r.dev = dev
	st, err := store.Create("meta", store.Options{FS: r.mem})
	r.must(err)
	r.st = st
	r.must(volume.Create(r.dev, st, r.vopts))
	r.start()
	return r
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(time.Millisecond)
	return r.now
}

func (r *rig) start() {
	r.t.Helper()
	v, err := volume.Open(ctx, r.dev, r.st, r.opened)
	r.must(err)
	f, err := New(v, arbiter.New(r.arbs), r.opts)
	r.must(err)
	r.FS = f
}

func (r *rig) stop() {
	r.t.Helper()
	r.must(r.Close(ctx))
	r.arb.Close()
	r.must(r.vol.Close())
}

// reopen restarts the filesystem from its device and store.
func (r *rig) reopen() {
	r.t.Helper()
	r.stop()
	r.start()
}

// finish stops the filesystem and looks at what it left.
func (r *rig) finish() {
	r.t.Helper()
	if used := r.windowBytes.Load(); used != 0 && len(r.arb.Leases(arbiter.Filter{})) == 0 {
		r.t.Errorf("%d bytes of windows are left with no lease", used)
	}
	r.stop()
	if used := r.windowBytes.Load(); used != 0 {
		r.t.Errorf("%d bytes of windows are left after Close", used)
	}
	check := volume.CheckData
	if r.spoiled {
		check = volume.Check
	}
	sum, err := check(ctx, r.dev, r.st, func(p volume.Problem) { r.t.Errorf("check: %v", p) })
	r.must(err)
	if n := r.vol.Statfs().Files; n != int64(sum.Files+sum.Directories+sum.Others) {
		r.t.Errorf("%d files are counted, and there are: %v", n, sum)
	}
	r.must(r.st.Close())
	r.must(r.dev.Close())
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// file makes a file with content and returns its number; the kernel has one lookup of it.
func (r *rig) file(name string, content []byte) extent.Ino {
	r.t.Helper()
	a, err := r.Mknod(ctx, Caller{}, extent.RootIno, name, syscall.S_IFREG|0o644, 0)
	r.must(err)
	r.write(a.Ino, content, 0)
	return a.Ino
}

func (r *rig) write(ino extent.Ino, p []byte, off int64) {
	r.t.Helper()
	_, err := r.Write(ctx, Caller{}, ino, p, off, false, false)
	r.must(err)
}

// content returns all of a file.
func (r *rig) content(ino extent.Ino) []byte {
	r.t.Helper()
	a, err := r.GetAttr(ctx, Caller{}, ino)
	r.must(err)
	p := make([]byte, a.Size+1)
	n, err := r.Read(ctx, ino, p, 0)
	r.must(err)
	return p[:n]
}

// flushed returns when the flusher has flushed once.
func (r *rig) flushed() {
	r.ticks <- r.clock()
	r.ticks <- r.clock() // when it takes the second, the first is done
}

// holder is a session with what its leases are told.
type holder struct {
	r      *rig
	id     layout.SessionID
	events chan arbiter.Event
}

func (h *holder) Notify(ev arbiter.Event) { h.events <- ev }

// session opens a session of a process that exists nowhere.
func (r *rig) session(pid int32) *holder {
	r.t.Helper()
	id, err := r.arb.OpenSession(arbiter.SessionInfo{Kind: "test", PID: pid})
	r.must(err)
	return &holder{r: r, id: id, events: make(chan arbiter.Event, 64)}
}

// caller is the holder as the one who asks for a change.
func (h *holder) caller() Caller { return Caller{Session: h.id} }

func (h *holder) acquire(req arbiter.AcquireRequest) layout.LeaseID {
	h.r.t.Helper()
	req.MayUnbreakable = true
	l, err := h.r.arb.Acquire(ctx, h.id, req, h)
	h.r.must(err)
	return l.ID
}

// lease takes a shared lease.
func (h *holder) lease(ino extent.Ino, rng extent.Range, access layout.Access) layout.LeaseID {
	h.r.t.Helper()
	return h.acquire(arbiter.AcquireRequest{File: ino, Range: rng, Access: access})
}

func (h *holder) release(l layout.LeaseID) {
	h.r.t.Helper()
	h.r.must(h.r.arb.CloseLease(ctx, l))
}

// pin registers a context and pins a range through it.
func (h *holder) pin(l layout.LeaseID, rng extent.Range, access layout.Access) (layout.ContextID, layout.PinID) {
	h.r.t.Helper()
	c, err := h.r.arb.Register(h.id, testContext{})
	h.r.must(err)
	p, err := h.r.arb.Pin(ctx, h.id, c, l, rng, access)
	h.r.must(err)
	return c, p
}

type testContext struct{}

func (testContext) Info() arbiter.ContextInfo {
	return arbiter.ContextInfo{Kind: "test", Name: "test", Can: arbiter.Capabilities{ByWindow: true}}
}

// wantErr fails unless err is the errno.
func wantErr(t tester, err error, want syscall.Errno, what string, args ...any) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", fmt.Sprintf(what, args...), err, want)
	}
}

func rng(off, end int64) extent.Range { return extent.Range{Off: off, End: end} }
