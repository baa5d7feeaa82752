// Package device gives positional I/O on the volume's one device: a regular
// file or a block device, locked against a second server.
//
// It knows bytes and offsets. It must not know what lies where, who owns it or
// whether anyone may read it: that is volume's business.
//
// Lock order: none is held across calls. The group of Sync is a leaf.
package device

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrInUse says that another server holds the device.
	ErrInUse = errors.New("device is in use by another process")
	// ErrKind says that the path is neither a regular file nor a block device.
	ErrKind = errors.New("not a regular file or block device")
	// ErrFailed says that an earlier write or sync failed. What the host still
	// holds of what was written is unknown, and asking again would hide it, so the
	// device takes no more writes until it is opened anew.
	ErrFailed = fmt.Errorf("device has failed: %w", syscall.EIO)
	// ErrStaleTerm says that Fence was called with a term that has passed.
	ErrStaleTerm = errors.New("term has passed")
)

// Device is the one segment of a volume that survives a restart.
//
// All methods may be called from many goroutines at once.
type Device interface {
	// ReadAt fills p from off, as io.ReaderAt. Reads go on after a failed write.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes p at off, as io.WriterAt. It is durable after the next Sync
	// that starts when WriteAt has returned.
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes durable all writes that returned before it was called. Callers
	// that come while one runs share the next.
	Sync() error
	// Reserve makes sure that the host has space for [off, off+n), or returns
	// ENOSPC. Content does not change.
	Reserve(off, n int64) error
	// Discard tells the host that the content of [off, off+n) is not needed. What
	// the range reads as afterwards is undefined.
	Discard(off, n int64) error
	// Size is the size in bytes; offsets beyond are refused with EINVAL.
	Size() int64
	// Grow makes the device have at least size bytes, durably: ENOSPC if it cannot
	// have them. It may have more, and never has less than before.
	Grow(size int64) error
	// Fence makes writes of every server of a lower term impossible, in flight
	// ones included, before it returns. It returns ErrStaleTerm if a higher term
	// was already set.
	Fence(term uint64) error
	// Close gives up the lock. It does not sync.
	Close() error
}
