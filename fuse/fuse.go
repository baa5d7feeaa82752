// Package fuse shows a filesystem to the kernel: it turns FUSE requests into
// calls of package fs, and nothing else. Node ids are inode numbers.
//
// All files are opened for direct I/O, so that reads and writes meet direct
// writers at once and no page of a file is cached where a holder's writes do not
// reach it. Memory mappings still work; what of them is in the page cache is
// dropped when fs says that a file changed by another way than this mount.
//
// There is no lock in this package but one around the set of inodes to
// invalidate, and it is never held across a call. A goroutine that serves a
// request holds nothing while it waits in fs, so a request that waits delays
// only what the kernel queues behind it: that is why a change through the mount
// waits at most the arbiter's MountWait.
//
// The package must not know leases, pins or the local socket. What the name of
// the socket is, it is told, to answer one extended attribute with it.
package fuse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/extent"
	"holdfast/fs"
)

const (
	// SocketXattr is the extended attribute that every file of a mount has
	// without listing it. Its value is the path of the local socket. It is not
	// listed because cp -a and rsync -X would copy it to other filesystems.
	SocketXattr = "user.holdfast.socket"

	// entryTimeout is how long the kernel may trust a name. Names change only
	// through the mount, so the kernel knows of every change; the limit is
	// there for nothing but the unknown.
	entryTimeout = time.Minute
	// negativeTimeout is the same for names that do not exist.
	negativeTimeout = time.Minute
	// attrTimeout is how long the kernel may trust attributes. They also change
	// by the local API. Such changes are notified before the API answers; should
	// a notification be lost, the error lasts a second and not longer.
	attrTimeout = time.Second

	// maxWrite is the largest request the kernel makes.
	maxWrite = 1 << 20
	// nameMax is the longest name in bytes.
	nameMax = 255

	// The first entries of a directory; fs's cookies follow.
	cookieDot, cookieDotDot, cookieBase = 1, 2, 2
)

// requestContext is the context of a request: cancelled when the kernel says
// that the caller was interrupted. A channel fits into an interface without an
// allocation.
type requestContext <-chan struct{}

func (c requestContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c requestContext) Done() <-chan struct{}       { return c }
func (c requestContext) Value(any) any               { return nil }
func (c requestContext) Err() error {
	select {
	case <-c:
		return context.Canceled
	default:
		return nil
	}
}

// errno is the inverse of syscall.Errno's Error: what an error is for the kernel.
// log is told of errors that carry no number.
func errno(log *slog.Logger, err error) gofuse.Status {
	if err == nil {
		return gofuse.OK
	}
	var e syscall.Errno
	switch {
	case errors.As(err, &e) && e == syscall.ENOSYS:
		// The kernel takes ENOSYS as "never ask again".
		return gofuse.ENOTSUP
	case e != 0:
		return gofuse.Status(e)
	case errors.Is(err, context.Canceled):
		return gofuse.EINTR
	case errors.Is(err, context.DeadlineExceeded):
		return gofuse.EAGAIN
	case errors.Is(err, io.EOF):
		return gofuse.OK
	}
	log.Error("an error without a number became EIO", "err", err)
	return gofuse.EIO
}

func inode(node uint64) extent.Ino { return extent.Ino(node) }

// offset converts a file offset of the kernel. ok is false if it is none.
func offset(off uint64) (int64, bool) { return int64(off), off <= math.MaxInt64 }

// fillAttr writes attributes in the kernel's form.
func fillAttr(a *fs.Attr, out *gofuse.Attr) {
	out.Ino = uint64(a.Ino)
	out.Mode, out.Nlink, out.Rdev = a.Mode, a.Nlink, a.Rdev
	out.Uid, out.Gid = a.UID, a.GID
	out.Size, out.Blocks, out.Blksize = uint64(a.Size), uint64(a.Blocks), extent.BlockSize
	out.Atime, out.Atimensec = splitTime(a.Atime)
	out.Mtime, out.Mtimensec = splitTime(a.Mtime)
	out.Ctime, out.Ctimensec = splitTime(a.Ctime)
}

func fillEntry(a *fs.Attr, out *gofuse.EntryOut) {
	out.NodeId, out.Generation = uint64(a.Ino), 0 // numbers are never reused
	out.SetEntryTimeout(entryTimeout)
	out.SetAttrTimeout(attrTimeout)
	fillAttr(a, &out.Attr)
}

// splitTime splits nanoseconds since 1970, which may be negative, into the
// seconds and non-negative nanoseconds of the kernel.
func splitTime(ns int64) (sec uint64, nsec uint32) {
	s, n := ns/1e9, ns%1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return uint64(s), uint32(n)
}

// joinTime is the inverse of splitTime. Times that nanoseconds in 64 bits cannot
// hold become the nearest they can.
func joinTime(sec uint64, nsec uint32) int64 {
	s := int64(sec)
	const limit = math.MaxInt64 / 1_000_000_000
	switch {
	case s >= limit:
		return math.MaxInt64
	case s < -limit:
		return math.MinInt64
	}
	return s*1e9 + int64(min(nsec, 999_999_999))
}
