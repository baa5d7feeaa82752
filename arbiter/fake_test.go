package arbiter

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"holdfast/extent"
	"holdfast/layout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStorage notes what it is asked to do, and can be made to fail or to be slow.
type fakeStorage struct {
	mu       sync.Mutex
	refs     map[extent.Ino]int
	holds    map[uint64]extent.Range
	lastHold uint64
	log      []string

	prepare func() error
	unmap   func() error
	cut     func() error
	hold    func() error
	orphan  func() error
}

func newFakeStorage() *fakeStorage {
	return &fakeStorage{refs: map[extent.Ino]int{}, holds: map[uint64]extent.Range{}}
}

func (s *fakeStorage) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func call(fn func() error) error {
	if fn == nil {
		return nil
	}
	return fn()
}

func (s *fakeStorage) Prepare(_ context.Context, _ extent.Ino, r extent.Range, _ layout.Access, _ PrepareFlags) error {
	return call(s.prepare)
}

func (s *fakeStorage) Hold(_ extent.Ino, r extent.Range, _ uint32) (uint64, error) {
	if err := call(s.hold); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastHold++
	s.holds[s.lastHold] = r
	return s.lastHold, nil
}

func (s *fakeStorage) Orphan(_ extent.Ino, hold uint64, r extent.Range) error {
	if err := call(s.orphan); err != nil {
		return err
	}
	s.note("orphan %d %v", hold, r)
	return nil
}

func (s *fakeStorage) Unhold(hold uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.holds[hold]; !ok {
		panic(fmt.Sprintf("hold %d is not held", hold))
	}
	delete(s.holds, hold)
}

func (s *fakeStorage) Unmap(_ context.Context, file extent.Ino, lease layout.LeaseID, r extent.Range) error {
	s.note("unmap %d %v", lease, r)
	return call(s.unmap)
}

func (s *fakeStorage) Cut(_ context.Context, file extent.Ino, lease layout.LeaseID, r extent.Range) error {
	s.note("cut %d %v", lease, r)
	return call(s.cut)
}

func (s *fakeStorage) Get(file extent.Ino) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs[file]++
	return nil
}

func (s *fakeStorage) Put(file extent.Ino) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs[file]--; s.refs[file] < 0 {
		panic(fmt.Sprintf("file %d is put more often than got", file))
	}
}

func (s *fakeStorage) Path(file extent.Ino) string { return fmt.Sprintf("/file%d", file) }

func (s *fakeStorage) count() (refs, holds int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.refs {
		refs += n
	}
	return refs, len(s.holds)
}

// fakeHolder passes on what it is told.
type fakeHolder chan Event

func newHolder() fakeHolder { return make(fakeHolder, 100) }

func (h fakeHolder) Notify(ev Event) { h <- ev }

type fakeContext string

func (c fakeContext) Info() ContextInfo { return ContextInfo{Kind: "fake", Name: string(c)} }

// world is an arbiter with a fake storage under it.
type world struct {
	*Arbiter
	t       *testing.T
	storage *fakeStorage
}

func newWorld(t *testing.T, cfg Config) *world {
	if cfg.BreakTime == 0 {
		cfg.BreakTime = 10 * time.Second
	}
	if cfg.Lineage == nil {
		cfg.Lineage = func(int32) (int32, int32, error) { return 0, 0, syscall.ESRCH }
	}
	w := &world{New(cfg), t, newFakeStorage()}
	w.Attach(w.storage)
	t.Cleanup(w.Close)
	return w
}

func (w *world) open(pid int32) layout.SessionID {
	w.t.Helper()
	id, err := w.OpenSession(SessionInfo{PID: pid, Name: fmt.Sprintf("prog%d", pid), Kind: "fake"})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) context(s layout.SessionID) layout.ContextID {
	w.t.Helper()
	id, err := w.Register(s, fakeContext("x"))
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) lease(s layout.SessionID, r extent.Range, h Holder, opt ...func(*AcquireRequest)) layout.LeaseID {
	w.t.Helper()
	req := AcquireRequest{File: 5, Range: r, Access: layout.Write, MayUnbreakable: true}
	for _, o := range opt {
		o(&req)
	}
	l, err := w.Acquire(w.t.Context(), s, req, h)
	if err != nil {
		w.t.Fatal(err)
	}
	return l.ID
}

func unbreakable(r *AcquireRequest) { r.Unbreakable = true }

func onFile(file extent.Ino) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.File = file }
}

var whole = extent.Range{Off: 0, End: extent.Inf}

func blocks(from, to int64) extent.Range {
	return extent.Range{Off: from * extent.BlockSize, End: to * extent.BlockSize}
}
