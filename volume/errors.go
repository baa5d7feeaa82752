package volume

import (
	"errors"
	"fmt"
	"syscall"

	"holdfast/extent"
)

// Why a device or a store is refused. Nothing was altered.
var (
	// ErrBlank says that the device holds nothing yet; Create makes it a volume.
	ErrBlank = errors.New("device is blank, not a volume yet")
	// ErrForeign says that the device or the store holds something else.
	ErrForeign = errors.New("not a Holdfast volume")
	// ErrExists says that there is a volume already.
	ErrExists = errors.New("a volume exists here already")
	// ErrVersion says that another release's format is on the device or in the store.
	ErrVersion = errors.New("format version is not supported by this release")
	// ErrTruncated says that the device is smaller than its volume.
	ErrTruncated = errors.New("device is smaller than the volume on it")
	// ErrMismatch says that the store belongs to another device.
	ErrMismatch = errors.New("metadata store and device belong to different volumes")
	// ErrGeneration says that store and device are of one volume but of different
	// times: one of them is an old copy.
	ErrGeneration = errors.New("metadata store and device are of different generations")
	// ErrNoSums says that the volume was made without checksums of data.
	ErrNoSums = errors.New("volume was made without checksums of data, and cannot get them")
	// ErrTooSmall says that a device is too small for a volume.
	ErrTooSmall = errors.New("device is too small for a volume")
)

// Why an operation failed.
var (
	// ErrCorrupt says that a record makes no sense. holdfast check tells more.
	ErrCorrupt = fmt.Errorf("volume metadata is damaged: %w", syscall.EUCLEAN)
	// ErrSum says that what the device holds is not what was written to it.
	ErrSum = fmt.Errorf("data does not match its checksum: %w", syscall.EIO)
	// ErrNoName says that no name leads to an inode.
	ErrNoName = fmt.Errorf("file has no name: %w", syscall.ENOENT)
	// ErrReadOnly says that the volume stopped writing after an I/O error.
	ErrReadOnly = fmt.Errorf("volume is read-only after an I/O error: %w", syscall.EROFS)
	// ErrUnmapped says that a range has blocks missing or unwritten.
	ErrUnmapped = fmt.Errorf("range is not fully allocated: %w", syscall.EINVAL)
	// ErrIsolated says that a window is over a part of a range already.
	ErrIsolated = fmt.Errorf("range is in a window already: %w", syscall.EINVAL)
	// ErrSegment says that blocks lie in a window that is not attached.
	ErrSegment = fmt.Errorf("window is not attached: %w", syscall.EIO)
	// ErrOwners says that other files have the blocks, too, than was thought.
	ErrOwners = fmt.Errorf("blocks have other owners by now: %w", syscall.EAGAIN)
	// ErrDeleted says that the inode's blocks are gone.
	ErrDeleted = fmt.Errorf("inode was deleted: %w", syscall.ESTALE)
)

// SumError is ErrSum for a block of a file.
type SumError struct {
	Ino  extent.Ino
	Off  int64 // in the file
	addr int64
}

func (e *SumError) Error() string {
	return fmt.Sprintf("inode %d: block at %d: %v", e.Ino, e.Off, ErrSum)
}

// Unwrap returns ErrSum.
func (e *SumError) Unwrap() error { return ErrSum }
