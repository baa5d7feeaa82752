// Package window makes windows: memory objects through which a holder touches
// the bytes of one file directly, and whose pages the kernel lets him pin for
// long.
//
// A window is a memfd with all its pages allocated beforehand, so that no fault
// of a holder can meet a missing page, and sealed against growth. The server
// reaches its bytes with pread and pwrite only, never through a mapping, so that
// nothing a holder does to the object (truncate, punch, seal, a page fault he
// handles himself) can stop or kill it: he gets ErrDamaged back at worst.
//
// A window ends by Detach: its pages leave the object before their content is
// used anywhere else. A late DMA then lands in a page that belongs to nobody, a
// late store of the CPU is a SIGBUS in the holder, and because the object is
// never used again, an old mapping never shows a later owner's bytes.
//
// The package must not know files, leases or sessions. It starts no goroutine.
// Lock: Window.mu is a leaf; no call that can wait for a holder is made under it.
package window

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/extent"
)

// ErrDamaged says that a holder has altered the window's object itself (cut it
// short, sealed it) so that the server cannot read or write its bytes. It is an
// EIO: what was not written back before is lost, to this file alone.
var ErrDamaged = fmt.Errorf("window was damaged by a holder: %w", syscall.EIO)

// ErrDetached is returned for a window that was detached.
var ErrDetached = fmt.Errorf("window is detached: %w", syscall.ESTALE)

// Window is one memory object. It is safe for concurrent use.
type Window struct {
	seg  extent.Segment
	size int64
	id   ID

	mu   sync.RWMutex // held shared over each use of file, so that Detach cannot close it under one
	file *os.File     // nil once detached
}

// New makes a window of size bytes, whole blocks, all zero and all allocated.
// The name shows in /proc/PID/maps of its holders.
func New(seg extent.Segment, name string, size int64) (*Window, error) {
	if size <= 0 || size%extent.BlockSize != 0 {
		return nil, fmt.Errorf("window of %d bytes is not whole blocks: %w", size, syscall.EINVAL)
	}
	if err := fits(size); err != nil {
		return nil, err
	}
	f, err := memfd("holdfast:" + name)
	if err != nil {
		return nil, fmt.Errorf("create window of %d bytes: %w", size, err)
	}
	if err := prepare(f, size); err != nil {
		f.Close()
		return nil, fmt.Errorf("create window of %d bytes: %w", size, err)
	}
	id, err := idOf(int(f.Fd()))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("create window of %d bytes: %w", size, err)
	}
	return &Window{seg: seg, size: size, id: id, file: f}, nil
}

// fits refuses what can never fit in memory. The kernel would not: it allocates
// page after page until it has to kill somebody.
func fits(size int64) error {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	if total := uint64(si.Totalram) * uint64(si.Unit); uint64(size) > total {
		return fmt.Errorf("window of %d bytes on a machine with %d bytes of memory: %w", size, total, syscall.ENOMEM)
	}
	return nil
}

// maxName is what memfd_create(2) takes.
const maxName = 249

func memfd(name string) (*os.File, error) {
	if len(name) > maxName {
		name = name[:maxName]
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // a kernel before 6.3 does not know the last flag
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// prepare allocates every page and closes what a holder of a read-only
// descriptor could use to become a writer: only the server's user may open it again.
func prepare(f *os.File, size int64) error {
	fd := int(f.Fd())
	if err := ignoringEINTR(func() error { return unix.Fallocate(fd, 0, 0, size) }); err != nil {
		if errors.Is(err, unix.ENOSPC) { // of memory, not of the volume
			err = unix.ENOMEM
		}
		return os.NewSyscallError("fallocate", err)
	}
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	// Not F_SEAL_SHRINK: Detach truncates. Not F_SEAL_SEAL: a later F_SEAL_WRITE
	// is the proof that no page is pinned any more.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err != nil {
		return os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return nil
}

// Segment returns the address space that the window is.
func (w *Window) Segment() extent.Segment { return w.seg }

// Size returns the size in bytes.
func (w *Window) Size() int64 { return w.size }

// ReadAt fills p from offset off. It returns ErrDamaged if a holder cut the object short.
func (w *Window) ReadAt(p []byte, off int64) (int, error) {
	return w.transfer(p, off, unix.Pread)
}

// WriteAt writes p at offset off. It returns ErrDamaged if a holder sealed the object or cut it short.
func (w *Window) WriteAt(p []byte, off int64) (int, error) {
	return w.transfer(p, off, unix.Pwrite)
}

func (w *Window) transfer(p []byte, off int64, call func(int, []byte, int64) (int, error)) (int, error) {
	if off < 0 || off > w.size || int64(len(p)) > w.size-off {
		return 0, fmt.Errorf("window access [%d,%d) beyond its %d bytes: %w", off, off+int64(len(p)), w.size, syscall.EINVAL)
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.file == nil {
		return 0, ErrDetached
	}
	fd := int(w.file.Fd())
	for done := 0; done < len(p); {
		n, err := call(fd, p[done:], off+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, fmt.Errorf("%w (%w)", ErrDamaged, err)
		case n == 0:
			return done, fmt.Errorf("%w (%w at %d)", ErrDamaged, io.ErrUnexpectedEOF, off+int64(done))
		default:
			done += n
		}
	}
	return len(p), nil
}

// Open returns a descriptor to hand out, read-only or for both. It is an open
// file of its own: no flag that its holder sets on it (O_APPEND, say) concerns
// the server's. The caller closes it.
func (w *Window) Open(write bool) (*os.File, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.file == nil {
		return nil, ErrDetached
	}
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", w.file.Fd()), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a descriptor of window %d: %w", w.seg, err)
	}
	return os.NewFile(uintptr(fd), w.file.Name()), nil
}

// DetachRange takes the pages of [off, off+n) out of the object. Existing pins
// keep pages that belong to nobody; a late touch by the CPU finds a fresh zero
// page. The range must not be used for anything any more.
func (w *Window) DetachRange(off, n int64) error {
	if off < 0 || n <= 0 || off%extent.BlockSize != 0 || n%extent.BlockSize != 0 || off > w.size-n {
		return fmt.Errorf("detach [%d,%d) of a window of %d bytes: %w", off, off+n, w.size, syscall.EINVAL)
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.file == nil {
		return nil
	}
	return w.damaged(punch(int(w.file.Fd()), off, n))
}

// Detach takes all pages out of the object and closes it. It can be called again.
// When it returns ErrDamaged, a holder's seals kept the pages in the object: they
// stay charged until he lets go of it, but nobody else will ever meet them.
func (w *Window) Detach() error {
	w.mu.Lock()
	f := w.file
	w.file = nil
	w.mu.Unlock()
	if f == nil {
		return nil
	}
	fd := int(f.Fd())
	err := ignoringEINTR(func() error { return unix.Ftruncate(fd, 0) })
	if err != nil { // sealed against shrinking by a holder
		err = punch(fd, 0, w.size)
	}
	return errors.Join(w.damaged(err), f.Close())
}

func (w *Window) damaged(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("detach pages of window %d: %w (%w)", w.seg, ErrDamaged, err)
}

func punch(fd int, off, n int64) error {
	return ignoringEINTR(func() error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
