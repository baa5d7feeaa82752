// Package localtest runs the socket server for tests without a mount: its files are
// plain files of a directory, its windows real memory, its arbiter the real one.
package localtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/local"
	"holdfast/window"
)

// Granule is the size of a window. A longer mapping is made of several.
const Granule = 16 * extent.BlockSize

// FS stands for the filesystem. Each file is a plain one, and its number theirs.
type FS struct {
	t   testing.TB
	dir string
	arb *arbiter.Arbiter

	mu      sync.Mutex
	files   map[extent.Ino]string
	windows map[piece]*shared
	seg     extent.Segment
	holds   uint64
	commits int
	size    int64 // of the volume
}

type piece struct {
	ino extent.Ino
	off int64
}

type shared struct {
	w     *window.Window
	users map[layout.LeaseID]extent.Range // what of the window each has mapped
}

func newFS(t testing.TB, arb *arbiter.Arbiter) *FS {
	f := &FS{t: t, dir: t.TempDir(), arb: arb, files: make(map[extent.Ino]string), windows: make(map[piece]*shared), seg: extent.Device}
	arb.Attach(f)
	return f
}

// Create makes a file with the content.
func (f *FS) Create(name string, content []byte) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, content, 0o666); err != nil {
		f.t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[extent.Ino(st.Ino)] = path
	return path
}

// Identity is an identity function of local.Config.
func (f *FS) Identity(fd int) (extent.Ino, bool) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, false
	}
	_, ok := f.path(extent.Ino(st.Ino))
	return extent.Ino(st.Ino), ok
}

func (f *FS) path(ino extent.Ino) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.files[ino]
	return p, ok
}

// Attr implements local.FS.
func (f *FS) Attr(_ context.Context, ino extent.Ino) (uint32, int64, error) {
	path, ok := f.path(ino)
	if !ok {
		return 0, 0, syscall.ENOENT
	}
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Uid, st.Size, err
}

// OnHold implements local.FS.
func (f *FS) OnHold(context.Context, extent.Ino) (layout.OnHold, error) { return 0, nil }

// Map implements local.FS.
func (f *FS) Map(_ context.Context, lease layout.LeaseID, ino extent.Ino, r extent.Range, _ bool) ([]local.Piece, error) {
	if err := f.arb.Mapped(lease); err != nil {
		return nil, err
	}
	path, ok := f.path(ino)
	if !ok {
		return nil, syscall.ENOENT
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var pieces []local.Piece
	for at := r.Off; at < r.End; {
		start := at - at%Granule
		s, err := f.windowAt(path, piece{ino, start})
		if err != nil {
			return nil, err
		}
		end := min(start+Granule, r.End)
		had := s.users[lease]
		if had.Empty() {
			had = extent.Range{Off: at, End: end}
		}
		s.users[lease] = extent.Range{Off: min(had.Off, at), End: max(had.End, end)}
		pieces = append(pieces, local.Piece{Window: s.w, Off: at - start, FileOff: at, Len: end - at})
		at = end
	}
	return pieces, nil
}

func (f *FS) windowAt(path string, p piece) (*shared, error) {
	if s := f.windows[p]; s != nil {
		return s, nil
	}
	f.seg++
	w, err := window.New(f.seg, filepath.Base(path), Granule)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	buf := make([]byte, Granule)
	if n, err := file.ReadAt(buf, p.off); n > 0 {
		if _, err := w.WriteAt(buf[:n], 0); err != nil {
			return nil, err
		}
	} else if err == nil {
		return nil, errors.New("empty read")
	}
	s := &shared{w, make(map[layout.LeaseID]extent.Range)}
	f.windows[p] = s
	return s, nil
}

// Commit implements local.FS.
func (f *FS) Commit(_ context.Context, _ layout.LeaseID, ino extent.Ino, r extent.Range, size int64) error {
	path, ok := f.path(ino)
	if !ok {
		return syscall.ENOENT
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commits++
	if st, err := os.Stat(path); err != nil {
		return err
	} else if size > st.Size() {
		if err := os.Truncate(path, size); err != nil {
			return err
		}
	}
	return f.writeBack(path, ino, r)
}

// writeBack writes the windows over r to the file, within its size.
func (f *FS) writeBack(path string, ino extent.Ino, r extent.Range) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	for p, s := range f.windows {
		part := r.Intersect(extent.Range{Off: p.off, End: min(p.off+Granule, st.Size())})
		if p.ino != ino || part.Empty() {
			continue
		}
		buf := make([]byte, part.Len())
		if _, err := s.w.ReadAt(buf, part.Off-p.off); err != nil {
			return err
		}
		if _, err := file.WriteAt(buf, part.Off); err != nil {
			return err
		}
	}
	return nil
}

// Truncate implements local.FS.
func (f *FS) Truncate(ctx context.Context, c arbiter.Caller, ino extent.Ino, size int64) error {
	return f.change(ctx, c, ino, extent.Range{Off: size, End: extent.Inf}, func(path string) error { return os.Truncate(path, size) })
}

// Reshape implements local.FS.
func (f *FS) Reshape(ctx context.Context, c arbiter.Caller, ino extent.Ino, mode uint32, r extent.Range) error {
	return f.change(ctx, c, ino, r, func(path string) error {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		return unix.Fallocate(int(file.Fd()), mode, r.Off, r.Len())
	})
}

func (f *FS) change(ctx context.Context, c arbiter.Caller, ino extent.Ino, r extent.Range, apply func(path string) error) error {
	ch, err := f.arb.Break(ctx, c, ino, r.RoundOut(), layout.Subtractive)
	if err != nil {
		return err
	}
	defer ch.Done()
	path, ok := f.path(ino)
	if !ok {
		return syscall.ENOENT
	}
	return apply(path)
}

// Class implements local.FS.
func (f *FS) Class(context.Context, extent.Ino, extent.Range) (layout.Class, error) {
	return layout.Additive, nil
}

// Grow implements local.FS.
func (f *FS) Grow(_ context.Context, size int64) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size < f.size {
		return 0, syscall.EINVAL
	}
	f.size = size
	return size, nil
}

// Defrag implements local.FS.
func (f *FS) Defrag(context.Context, arbiter.Caller, extent.Ino, bool) (any, error) {
	return nil, syscall.EOPNOTSUPP
}

// Evacuate implements local.FS.
func (f *FS) Evacuate(context.Context, arbiter.Caller, int64, bool) (any, error) {
	return nil, syscall.EOPNOTSUPP
}

// Orphans implements local.FS.
func (f *FS) Orphans() []local.Orphan { return nil }

// OrphanedBytes implements local.FS.
func (f *FS) OrphanedBytes() map[uint32]int64 { return map[uint32]int64{7: 4096} }

// Scrub implements local.FS.
func (f *FS) Scrub(_ context.Context, cursor []byte, bytes int64) (any, error) {
	return map[string]any{"next": cursor, "bytes": bytes}, nil
}

// Stat implements local.FS.
func (f *FS) Stat(ctx context.Context, ino extent.Ino) (any, error) {
	_, size, err := f.Attr(ctx, ino)
	return map[string]any{"file": ino, "size": size}, err
}

// Prepare implements arbiter.Storage.
func (f *FS) Prepare(context.Context, extent.Ino, extent.Range, layout.Access, arbiter.PrepareFlags) error {
	return nil
}

// Hold implements arbiter.Storage.
func (f *FS) Hold(extent.Ino, extent.Range, uint32) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds++
	return f.holds, nil
}

// Unhold implements arbiter.Storage.
func (f *FS) Unhold(uint64) {}

// Orphan implements arbiter.Storage.
func (f *FS) Orphan(extent.Ino, uint64, extent.Range) error { return nil }

// Unmap implements arbiter.Storage.
func (f *FS) Unmap(_ context.Context, ino extent.Ino, lease layout.LeaseID, r extent.Range) error {
	path, ok := f.path(ino)
	if !ok {
		return syscall.ENOENT
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writeBack(path, ino, r); err != nil {
		return err
	}
	for p, s := range f.windows {
		w := extent.Range{Off: p.off, End: p.off + Granule}
		if p.ino != ino || !r.Overlaps(w) {
			continue
		}
		if r.Contains(s.users[lease]) {
			delete(s.users, lease)
		}
		if len(s.users) > 0 {
			continue
		}
		delete(f.windows, p)
		if err := s.w.Detach(); err != nil {
			return err
		}
	}
	return nil
}

// Cut implements arbiter.Storage.
func (f *FS) Cut(ctx context.Context, ino extent.Ino, lease layout.LeaseID, r extent.Range) error {
	return f.Unmap(ctx, ino, lease, r)
}

// Get implements arbiter.Storage.
func (f *FS) Get(extent.Ino) error { return nil }

// Put implements arbiter.Storage.
func (f *FS) Put(extent.Ino) {}

// Path implements arbiter.Storage.
func (f *FS) Path(ino extent.Ino) string {
	path, _ := f.path(ino)
	return path
}

// Windows counts the windows that are open.
func (f *FS) Windows() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.windows)
}
