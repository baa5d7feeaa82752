package device

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"holdfast/internal/group"

	"golang.org/x/sys/unix"
)

var errShort = fmt.Errorf("device was cut short: %w", syscall.EIO)

// File is a Device that lies in a regular file or is a block device. I/O goes
// through the host's page cache, never through memory that this process touches, so
// that an error of the medium or a file that was cut short comes back as an error.
type File struct {
	f     *os.File
	size  atomic.Int64
	block bool // a block device
	// view is all of it, mapped; nil if that could not be done, and after Close.
	view atomic.Pointer[[]byte]

	growMu sync.Mutex
	old    [][]byte // views of when it was smaller, in use until Close; guarded by growMu

	failed atomic.Pointer[error] // the first failure; set once
	sync   group.Group

	termMu sync.Mutex
	term   uint64
}

var _ Device = (*File)(nil)

// Create makes a sparse file of size bytes at path, which must not exist, and
// opens it. Its space is claimed by Reserve as the volume grows into it.
func Create(path string, size int64) (*File, error) {
	if size <= 0 {
		return nil, fmt.Errorf("create device %s of %d bytes: %w", path, size, syscall.EINVAL)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create device: %w", err)
	}
	d, err := newFile(f, func() error {
		if err := f.Truncate(size); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return syncDir(filepath.Dir(path))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create device %s: %w", path, err), os.Remove(path))
	}
	return d, nil
}

// Open opens the regular file or block device at path. It alters nothing. It
// returns ErrInUse while another server has it open, and ErrKind if it is
// something else.
func Open(path string) (*File, error) {
	// A block device opened with O_EXCL is refused while the kernel has it mounted.
	flag := os.O_RDWR
	if st, err := os.Stat(path); err == nil && isBlock(st.Mode()) {
		flag |= os.O_EXCL
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, syscall.EBUSY):
		return nil, fmt.Errorf("open device %s: %w: %w", path, ErrInUse, err)
	case err != nil:
		return nil, fmt.Errorf("open device: %w", err)
	}
	d, err := newFile(f, nil)
	if err != nil {
		return nil, fmt.Errorf("open device %s: %w", path, err)
	}
	return d, nil
}

func isBlock(m os.FileMode) bool {
	return m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0
}

// newFile locks f, runs prepare and learns the size. It closes f on failure.
func newFile(f *os.File, prepare func() error) (*File, error) {
	d := &File{f: f}
	if err := d.start(prepare); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d.mapView()
	return d, nil
}

func (d *File) start(prepare func() error) error {
	st, err := d.f.Stat()
	if err != nil {
		return err
	}
	d.block = isBlock(st.Mode())
	if !d.block && !st.Mode().IsRegular() {
		return fmt.Errorf("%w (%s)", ErrKind, st.Mode())
	}
	// flock, not fcntl: it belongs to the open file, so that a second open in this
	// process meets it too and no stray close gives it up.
	err = retry(func() error { return unix.Flock(int(d.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrInUse
	case err != nil:
		return fmt.Errorf("lock: %w", err)
	}
	if prepare != nil {
		if err := prepare(); err != nil {
			return err
		}
	}
	size, err := d.hostSize()
	d.size.Store(size)
	return err
}

// hostSize asks the host how many bytes there are.
func (d *File) hostSize() (int64, error) {
	if d.block {
		return blockSize(d.f.Fd())
	}
	st, err := d.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// FD is the descriptor, for mechanisms that do I/O themselves. It stays open
// until Close.
func (d *File) FD() uintptr { return d.f.Fd() }

// Size implements Device.
func (d *File) Size() int64 { return d.size.Load() }

// ReadAt implements Device.
func (d *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.Size()-int64(len(p)) {
		return 0, d.outside("read", off, int64(len(p)))
	}
	n, err := d.f.ReadAt(p, off)
	if err != nil {
		err = fmt.Errorf("read device at %d: %w: %w", off, syscall.EIO, err)
		if errors.Is(err, io.EOF) {
			d.fail(err) // the file was cut short under us
		}
		return n, err
	}
	return n, nil
}

// Forget lets the next read of [off, off+n) see the medium, and not what the host has
// cached of it, as far as the host does that: what is not written yet it keeps.
func (d *File) Forget(off, n int64) {
	// It is advice: there is nothing to do if it is not taken.
	_ = unix.Fadvise(int(d.f.Fd()), off, n, unix.FADV_DONTNEED)
}

// WriteAt implements Device.
func (d *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.Size()-int64(len(p)) {
		return 0, d.outside("write", off, int64(len(p)))
	}
	if err := d.usable(); err != nil {
		return 0, err
	}
	n, err := d.f.WriteAt(p, off)
	if err != nil {
		return n, d.fail(fmt.Errorf("write at %d: %w", off, err))
	}
	return n, nil
}

// Sync implements Device.
func (d *File) Sync() error {
	return d.sync.Do(func() error {
		if err := d.usable(); err != nil {
			return err
		}
		if err := retry(func() error { return unix.Fdatasync(int(d.f.Fd())) }); err != nil {
			return d.fail(fmt.Errorf("sync: %w", err))
		}
		return nil
	})
}

// Reserve implements Device. A host that cannot reserve lets it succeed; a full
// host then shows up as a failed write.
func (d *File) Reserve(off, n int64) error {
	if off < 0 || n <= 0 || off > d.Size()-n {
		return d.outside("reserve", off, n)
	}
	if err := d.failure(); err != nil || d.block {
		return err
	}
	err := retry(func() error { return unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n) })
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("reserve %d bytes of the host's space: %w", n, err)
	}
	return nil
}

// Discard implements Device. A host that cannot discard lets it succeed.
func (d *File) Discard(off, n int64) error {
	if off < 0 || n <= 0 || off > d.Size()-n {
		return d.outside("discard", off, n)
	}
	if err := d.failure(); err != nil {
		return err
	}
	err := retry(func() error {
		if d.block {
			return blockDiscard(d.f.Fd(), off, n)
		}
		return unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, off, n)
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("discard %d bytes at %d: %w", n, off, err)
	}
	return nil
}

// Fence implements Device. The lock already keeps every other server out, so
// only the order of terms is left to guard.
func (d *File) Fence(term uint64) error {
	d.termMu.Lock()
	defer d.termMu.Unlock()
	if term < d.term {
		return fmt.Errorf("fence term %d after %d: %w", term, d.term, ErrStaleTerm)
	}
	d.term = term
	return nil
}

// Close implements Device.
func (d *File) Close() error { return errors.Join(d.unmapView(), d.f.Close()) }

// outside is the error for a range that is not on the device. Writing there
// would make a regular file grow.
func (d *File) outside(what string, off, n int64) error {
	return fmt.Errorf("%s device [%d,+%d) of %d bytes: %w", what, off, n, d.Size(), syscall.EINVAL)
}

func (d *File) failure() error {
	if p := d.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// usable returns why nothing may be written any more. A write to a file that was cut
// short would make it long again, and what was lost read as zeros.
func (d *File) usable() error {
	if err := d.failure(); err != nil || d.block {
		return err
	}
	size := d.Size() // before the host's, which may grow meanwhile
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(int(d.f.Fd()), &st) }); err != nil {
		return d.fail(fmt.Errorf("size: %w", err))
	}
	if st.Size < size {
		return d.fail(fmt.Errorf("%w: the file has %d bytes of %d", errShort, st.Size, size))
	}
	return nil
}

func (d *File) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrFailed, err)
	d.failed.CompareAndSwap(nil, &err)
	return d.failure()
}

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func blockSize(fd uintptr) (int64, error) {
	var n uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0, fmt.Errorf("size of block device: %w", e)
	}
	return int64(n), nil
}

func blockDiscard(fd uintptr, off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, unix.BLKDISCARD, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}
