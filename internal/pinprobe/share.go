package pinprobe

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shared is what a process needs beside the descriptor to use a ring.
type shared struct {
	p    params
	mem  uintptr
	size int
}

const sharedSize = int(unsafe.Sizeof(shared{}))

// Share returns what AttachRing needs, in another process that has inherited
// the descriptor by fork and exec. (The kernel does not pass an io_uring by
// SCM_RIGHTS.) Only one of the processes may use the ring at a time.
func (r *Ring) Share() []byte {
	s := shared{p: r.p, mem: r.mem, size: r.size}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&s)), sharedSize)...)
}

// AttachRing makes a ring that was made elsewhere, and whose copied descriptor
// is fd, usable here. The registered buffer stays what it was: the pages that
// were pinned when it was registered, though they may be mapped nowhere by now.
func AttachRing(fd int, share []byte) (*Ring, error) {
	if len(share) != sharedSize {
		return nil, fmt.Errorf("a shared ring is described by %d bytes, not %d", sharedSize, len(share))
	}
	var s shared
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&s)), sharedSize), share)
	r := &Ring{fd: fd, p: s.p, mem: s.mem, size: s.size}
	unix.CloseOnExec(fd)
	if err := r.mapQueues(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}
