package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/wire"
)

// Mapping is memory that is a range of a file: loads and stores reach the file's
// pages, and so does a device that these pages are registered with.
type Mapping struct {
	r     Range
	write bool

	mu  sync.Mutex
	mem []byte // nil when closed
}

// Map maps all of the lease. A lease to infinity needs MapRange.
func (l *Lease) Map(ctx context.Context) (*Mapping, error) { return l.MapRange(ctx, l.granted.Range) }

// MapRange maps a range of the lease, rounded out to blocks. It can be written to if
// the lease is for writing, which allocates the holes of the range; for reading they
// are zeros until somebody else writes there.
//
// When the range has been given back, or is cut because a break was not answered, the
// memory is not the file any more: stores reach nobody, or raise SIGBUS.
func (l *Lease) MapRange(ctx context.Context, r Range) (*Mapping, error) {
	r = r.RoundOut()
	if r.Empty() || r.End == Inf || r.Len() > maxMapping {
		return nil, fmt.Errorf("mapping of %v: %w", r, syscall.EINVAL)
	}
	parts, err := l.s.call(ctx, wire.OpMap, &wire.Map{Lease: l.granted.ID, Range: r})
	if err != nil {
		return nil, err
	}
	m, err := assemble(r, parts)
	if err == nil {
		err = l.memory.keep(parts)
		l.s.survive()
	} else {
		err = errors.Join(err, closeParts(parts))
	}
	if err != nil {
		if m != nil {
			err = errors.Join(err, m.Close())
		}
		return nil, fmt.Errorf("mapping of %v: %w", r, err)
	}
	return m, nil
}

const maxMapping = 1 << 46

// assemble maps the pieces one behind the other into one reservation of addresses.
func assemble(r Range, parts []part) (*Mapping, error) {
	addr, err := unix.MmapPtr(-1, 0, nil, uintptr(r.Len()), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve addresses: %w", err)
	}
	m := &Mapping{r: r, mem: unsafe.Slice((*byte)(addr), r.Len())}
	at := r.Off
	for _, p := range parts {
		var reply wire.MapReply
		if err := reply.Decode(p.body); err != nil {
			return m, err
		}
		prot := unix.PROT_READ
		if m.write = reply.Access == Write; m.write {
			prot |= unix.PROT_WRITE
		}
		for _, piece := range reply.Pieces {
			if piece.FileOff != at || piece.Len > r.End-at || int(piece.FD) >= len(p.fds) {
				return m, fmt.Errorf("piece at %d instead of %d: %w", piece.FileOff, at, syscall.EPROTO)
			}
			to := unsafe.Add(addr, at-r.Off)
			if _, err := unix.MmapPtr(p.fds[piece.FD], piece.WindowOff, to, uintptr(piece.Len), prot, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
				return m, err
			}
			at += piece.Len
		}
	}
	if at != r.End {
		return m, fmt.Errorf("pieces end at %d: %w", at, syscall.EPROTO)
	}
	return m, nil
}

// Bytes returns the memory, nil after Close. Writing to that of a read lease is a
// fault.
func (m *Mapping) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mem
}

// Range returns the range of the file that is mapped.
func (m *Mapping) Range() Range { return m.r }

// Writable reports whether the memory may be written.
func (m *Mapping) Writable() bool { return m.write }

// Close unmaps the memory. The lease stays, and so does what was registered with
// a device.
func (m *Mapping) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mem == nil {
		return nil
	}
	err := unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(m.mem)), uintptr(len(m.mem)))
	m.mem = nil
	return err
}
