package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/fs"
)

// viewFrom is the least size of a read that is answered from where its bytes
// lie. For smaller ones to ask whether that can be done costs as much as a copy.
const viewFrom = 64 << 10

// viewed is the answer to a read whose bytes the kernel takes from where they
// lie, when the library writes it to the kernel. The view, and with it the file's
// lock, is held until the library says that this is done. If the bytes cannot be
// had after all the kernel answers the request with EIO itself.
type viewed struct{ *fs.View }

var _ gofuse.ReadResult = viewed{}

// Slices makes the library pass the pieces to writev as they are.
func (v viewed) Slices() ([][]byte, gofuse.Status) { return v.Pieces(), gofuse.OK }

// Bytes would be a copy made in this process, which no view is for. The library
// does not ask for it where there is Slices.
func (v viewed) Bytes([]byte) ([]byte, gofuse.Status) { return nil, gofuse.Status(syscall.EIO) }

func (v viewed) Done() { v.Close() }
