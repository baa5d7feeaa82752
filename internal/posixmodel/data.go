package posixmodel

import (
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// block is an allocated block of a file.
type block struct {
	data    *[BlockSize]byte // nil: zeros
	written bool
	maybe   bool // whether it is allocated, and written, is not determined
}

// span calls fn for the part of [off, off+n) in each block, with the block's number and the
// part's place in it and in the span.
func span(off, n int64, fn func(b, at, from, to int64)) {
	for pos := off; pos < off+n; {
		b, at := pos/BlockSize, pos%BlockSize
		step := min(BlockSize-at, off+n-pos)
		fn(b, at, pos-off, pos-off+step)
		pos += step
	}
}

// bytes returns content; what no block has is zero.
func (n *node) bytes(off, length int64) []byte {
	out := make([]byte, length)
	span(off, length, func(b, at, from, to int64) {
		if x := n.blocks[b]; x != nil && x.data != nil {
			copy(out[from:to], x.data[at:])
		}
	})
	return out
}

// put writes content and allocates what it needs.
func (n *node) put(off int64, p []byte) {
	span(off, int64(len(p)), func(b, at, from, to int64) {
		x := n.blocks[b]
		if x == nil {
			x = &block{}
			n.blocks[b] = x
		}
		if x.data == nil {
			x.data = new([BlockSize]byte)
		}
		copy(x.data[at:], p[from:to])
		x.written, x.maybe = true, false
	})
	n.size = max(n.size, off+int64(len(p)))
}

// clear makes zeros; whole blocks go if free is set.
func (n *node) clear(off, length int64, free bool) {
	for _, b := range n.inRange(off, length) {
		from, to := max(off-b*BlockSize, 0), min(off+length-b*BlockSize, BlockSize)
		switch x := n.blocks[b]; {
		case from == 0 && to == BlockSize && free:
			delete(n.blocks, b)
		case x.data != nil:
			clear(x.data[from:to])
		}
	}
}

// inRange returns the blocks that there are in [off, off+length).
func (n *node) inRange(off, length int64) (out []int64) {
	for _, b := range slices.Sorted(maps.Keys(n.blocks)) {
		if b*BlockSize < off+length && (b+1)*BlockSize > off {
			out = append(out, b)
		}
	}
	return out
}

// undetermined reports whether a block of the file is.
func (n *node) undetermined() bool {
	for _, x := range n.blocks {
		if x.maybe {
			return true
		}
	}
	return false
}

func (m *Model) read(f *file, op Op) Result {
	switch {
	case !f.readable():
		return fail(syscall.EBADF)
	case f.n.dir():
		return fail(syscall.EISDIR)
	}
	off := op.Off
	if op.Kind == Read {
		off = f.pos
	}
	length := max(min(op.Len, f.n.size-off), 0)
	p := f.n.bytes(off, length)
	if op.Kind == Read {
		f.pos += length
	}
	f.n.atime.known = false
	return Result{N: length, Sum: Sum(p)}
}

func (m *Model) write(f *file, op Op) Result {
	if !f.writable() {
		return fail(syscall.EBADF)
	}
	n, off := f.n, op.Off
	if op.Kind == Write {
		off = f.pos
	}
	if op.Len == 0 {
		return Result{}
	}
	if f.flags&unix.O_APPEND != 0 {
		off = n.size
	}
	if off > m.rules.MaxSize-op.Len {
		return fail(syscall.EFBIG)
	}
	if m.leasedForAdding(op, n, off, op.Len) {
		return fail(syscall.ETXTBSY)
	}
	n.put(off, Data(op.Seq, op.Len))
	if op.Kind == Write {
		f.pos = off + op.Len
	}
	m.touch(n)
	return Result{N: op.Len}
}

// setSize truncates, up or down.
func (m *Model) setSize(op Op, n *node, size int64) syscall.Errno {
	switch {
	case size < 0:
		return syscall.EINVAL
	case size > m.rules.MaxSize:
		return syscall.EFBIG
	case size < n.size:
		if errno := m.breakLeases(op, n, size, inf-size); errno != 0 {
			return errno
		}
		end := (size + BlockSize - 1) / BlockSize * BlockSize
		n.clear(size, end-size, false)
		n.clear(end, inf-end, true)
	}
	n.size = size
	m.touch(n)
	return 0
}

func (m *Model) truncatePath(op Op) Result {
	if op.Len < 0 {
		return fail(syscall.EINVAL)
	}
	n, errno := m.find(op, true)
	switch {
	case errno != 0:
		return fail(errno)
	case n.dir():
		return fail(syscall.EISDIR)
	}
	return fail(m.setSize(op, n, op.Len))
}

func (m *Model) fallocate(f *file, op Op) syscall.Errno {
	n := f.n
	zero := op.Flags&unix.FALLOC_FL_ZERO_RANGE != 0
	switch {
	case op.Off < 0 || op.Len <= 0:
		return syscall.EINVAL
	case !f.writable():
		return syscall.EBADF
	case op.Off > m.rules.MaxSize-op.Len:
		return syscall.EFBIG
	case zero && !m.rules.Zero:
		return syscall.EOPNOTSUPP
	}
	if op.Flags&unix.FALLOC_FL_PUNCH_HOLE != 0 {
		return m.punch(op, n)
	}
	return m.allocate(op, n)
}

// allocate gives a range blocks, and makes it zeros where asked.
func (m *Model) allocate(op Op, n *node) syscall.Errno {
	zero := op.Flags&unix.FALLOC_FL_ZERO_RANGE != 0
	if m.leasedForAdding(op, n, op.Off, op.Len) && n.hasHole(op.Off, op.Len) {
		return syscall.ETXTBSY
	}
	if zero {
		n.clear(op.Off, op.Len, false)
	}
	span(op.Off, op.Len, func(b, _, _, _ int64) {
		if x := n.blocks[b]; x == nil {
			n.blocks[b] = &block{maybe: zero}
		} else if zero || x.maybe {
			x.maybe = true
		}
	})
	if end := op.Off + op.Len; op.Flags&unix.FALLOC_FL_KEEP_SIZE == 0 && end > n.size {
		n.size = end
		m.touch(n)
	}
	if zero {
		n.mtime.known = false
	}
	n.ctime = m.stamp()
	return 0
}

func (m *Model) punch(op Op, n *node) syscall.Errno {
	if len(n.inRange(op.Off, op.Len)) > 0 {
		if errno := m.breakLeases(op, n, op.Off, op.Len); errno != 0 {
			return errno
		}
	}
	n.clear(op.Off, op.Len, true)
	m.touch(n)
	return 0
}

// shift takes whole blocks out of the file, or puts a hole in.
func (m *Model) shift(op Op, n *node) syscall.Errno {
	collapse := op.Flags == unix.FALLOC_FL_COLLAPSE_RANGE
	switch {
	case op.Off%BlockSize != 0 || op.Len%BlockSize != 0:
		return syscall.EINVAL
	case op.Off >= n.size || collapse && op.Len >= n.size-op.Off:
		return syscall.EINVAL
	}
	if errno := m.breakLeases(op, n, op.Off, inf-op.Off); errno != 0 {
		return errno
	}
	by := op.Len
	if collapse {
		n.clear(op.Off, op.Len, true)
		by = -by
	}
	moved := make(map[int64]*block)
	for b, x := range n.blocks {
		if b >= op.Off/BlockSize {
			b += by / BlockSize
		}
		moved[b] = x
	}
	n.blocks = moved
	n.size += by
	m.touch(n)
	return 0
}

func (n *node) hasHole(off, length int64) (hole bool) {
	span(off, length, func(b, _, _, _ int64) { hole = hole || n.blocks[b] == nil })
	return hole
}

func (m *Model) lseek(f *file, op Op, w *Want) Result {
	n, pos := f.n, op.Off
	switch op.Flags {
	case unix.SEEK_CUR:
		pos += f.pos
	case unix.SEEK_END:
		pos += n.size
	case unix.SEEK_DATA, unix.SEEK_HOLE:
		if op.Off < 0 || op.Off >= n.size {
			return fail(syscall.ENXIO)
		}
		if !m.rules.Blocks || n.undetermined() || n.leased(LeaseMap) {
			w.loose = true
			return Result{}
		}
		// The process puts its position back.
		pos, errno := n.seek(op.Off, op.Flags == unix.SEEK_DATA)
		return Result{Errno: errno, N: pos}
	}
	if pos < 0 {
		return fail(syscall.EINVAL)
	}
	f.pos = pos
	return Result{N: pos}
}

func (n *node) seek(off int64, data bool) (int64, syscall.Errno) {
	if data {
		for _, b := range n.inRange(off, n.size-off) {
			if n.blocks[b].written {
				return max(off, b*BlockSize), 0
			}
		}
		return 0, syscall.ENXIO
	}
	for b := off / BlockSize; ; b++ {
		if x := n.blocks[b]; x == nil || !x.written || b*BlockSize >= n.size {
			return min(max(off, b*BlockSize), n.size), 0
		}
	}
}

func (m *Model) copyRange(in *file, op Op) Result {
	out, errno := m.fd(op, op.FD2)
	if errno != 0 {
		return fail(errno)
	}
	switch {
	case in.n.dir() || out.n.dir():
		return fail(syscall.EISDIR)
	case !in.readable() || !out.writable() || out.flags&unix.O_APPEND != 0:
		return fail(syscall.EBADF)
	}
	length := max(min(op.Len, in.n.size-op.Off), 0)
	if in.n == out.n && op.Off2+length > op.Off && op.Off2 < op.Off+length {
		return fail(syscall.EINVAL)
	}
	if length == 0 {
		return Result{}
	}
	if m.leasedForAdding(op, out.n, op.Off2, length) {
		return fail(syscall.ETXTBSY)
	}
	out.n.put(op.Off2, in.n.bytes(op.Off, length))
	out.n.doubt(op.Off2, length) // a copy may be a clone, holes included
	for _, b := range in.n.inRange(op.Off, length) {
		in.n.blocks[b].maybe = true // a write there may give the file another one
	}
	in.n.atime.known = false
	m.touch(out.n)
	return Result{N: length}
}

// doubt says that it is not determined which blocks a range has.
func (n *node) doubt(off, length int64) {
	span(off, length, func(b, _, _, _ int64) {
		if n.blocks[b] == nil {
			n.blocks[b] = &block{}
		}
		n.blocks[b].maybe = true
	})
}

// mmap maps a part of a file within its size, and reads or writes all of it.
func (m *Model) mmap(f *file, op Op) Result {
	switch {
	case !f.readable():
		return fail(syscall.EACCES)
	case op.Kind == MmapStore && !f.writable():
		return fail(syscall.EACCES)
	case f.n.dir():
		return fail(syscall.ENODEV)
	}
	f.n.atime.known = false
	if op.Kind == MmapLoad {
		return Result{N: op.Len, Sum: Sum(f.n.bytes(op.Off, op.Len))}
	}
	f.n.put(op.Off, Data(op.Seq, op.Len))
	m.touch(f.n)
	return Result{N: op.Len}
}
