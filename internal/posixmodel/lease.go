package posixmodel

import (
	"math"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

const inf = math.MaxInt64

// The bits of Op.LeaseFlags.
const (
	LeaseWrite       = 1 << iota // access
	LeaseExclusive               // mode
	LeaseUnbreakable             // the change is refused, else the holder gives all of it back when asked
	LeaseMap                     // map all of it
)

// lease is on whole blocks.
type lease struct {
	id, proc, flags int
	n               *node
	off, end        int64
	cut             bool // its own process has taken blocks away: the memory is not the file any more
}

func (l *lease) meets(off, length int64) bool {
	end := int64(inf)
	if length < inf-off {
		end = off + length
	}
	return l.off < end && off < l.end
}

// leased reports whether the file has a lease with the flag.
func (n *node) leased(flag int) bool {
	return slices.ContainsFunc(n.leases, func(l *lease) bool { return l.flags&flag != 0 })
}

func (m *Model) endLease(l *lease) {
	if l.flags&LeaseMap != 0 { // what was allocated meanwhile was written to, or not
		for _, b := range l.n.inRange(l.off, l.end-l.off) {
			l.n.blocks[b].maybe = l.n.blocks[b].maybe || !l.n.blocks[b].written
		}
	}
	delete(m.leases, l.id)
	l.n.leases = slices.DeleteFunc(l.n.leases, func(o *lease) bool { return o == l })
	if l.flags&LeaseMap != 0 && l.flags&LeaseWrite != 0 {
		l.n.mtime.known, l.n.ctime.known = false, false // releasing commits
	}
}

// breakLeases is what a change meets that takes blocks away. Processes answer a break by
// releasing the lease.
func (m *Model) breakLeases(op Op, n *node, off, length int64) syscall.Errno {
	var asked, own []*lease
	for _, l := range n.leases {
		switch {
		case !l.meets(off, length):
			continue
		case l.proc == op.Proc:
			own = append(own, l)
			continue
		}
		if l.flags&LeaseUnbreakable != 0 {
			return syscall.ETXTBSY
		}
		asked = append(asked, l)
	}
	for _, l := range asked {
		m.endLease(l)
	}
	for _, l := range own {
		l.cut = true
	}
	return 0
}

// leasedForAdding reports whether another's exclusive lease refuses a change that gives the
// file blocks, or makes unwritten ones written.
func (m *Model) leasedForAdding(op Op, n *node, off, length int64) bool {
	adds := false
	span(off, length, func(b, _, _, _ int64) { adds = adds || n.blocks[b] == nil || !n.blocks[b].written })
	if !adds {
		return false
	}
	for _, l := range n.leases {
		if l.proc != op.Proc && l.flags&LeaseExclusive != 0 && l.meets(off, length) {
			return true
		}
	}
	return false
}

func (m *Model) leaseOp(op Op) Result {
	switch op.Kind {
	case Lease:
		return fail(m.takeLease(op))
	case APITruncate, APIPunch, APIReshape:
		return fail(m.apiChange(op))
	}
	l := m.leases[op.Lease]
	m.saw(l.n)
	switch op.Kind {
	case LeaseDrop:
		m.endLease(l)
	case LeaseLoad:
		return Result{N: op.Len, Sum: Sum(l.n.bytes(op.Off, op.Len))}
	case LeaseStore:
		l.n.put(op.Off, Data(op.Seq, op.Len))
		l.n.doubt(op.Off, op.Len)
		l.n.mtime.known, l.n.ctime.known = false, false
	case LeaseCommit:
		l.n.mtime.known, l.n.ctime.known = false, false
	}
	return Result{}
}

func (m *Model) takeLease(op Op) syscall.Errno {
	n, errno := m.find(op, true)
	if errno != 0 {
		return errno
	}
	if n.dir() {
		return syscall.EISDIR
	}
	var asked []*lease
	for _, l := range n.leases {
		if l.proc == op.Proc || !l.meets(op.Off, op.Len) || (l.flags|op.LeaseFlags)&LeaseExclusive == 0 {
			continue
		}
		if l.flags&LeaseUnbreakable != 0 {
			return syscall.EBUSY
		}
		asked = append(asked, l)
	}
	for _, l := range asked {
		m.endLease(l)
	}
	l := &lease{id: op.Lease, proc: op.Proc, flags: op.LeaseFlags, n: n,
		off: op.Off / BlockSize * BlockSize, end: (op.Off + op.Len + BlockSize - 1) / BlockSize * BlockSize}
	m.leases[l.id] = l
	n.leases = append(n.leases, l)
	n.atime.known = false
	if op.LeaseFlags&LeaseMap != 0 && op.LeaseFlags&LeaseWrite != 0 {
		n.doubt(l.off, l.end-l.off)
		n.mtime.known, n.ctime.known = false, false
	}
	return 0
}

// apiChange is a change over the socket.
func (m *Model) apiChange(op Op) syscall.Errno {
	n, errno := m.find(op, true)
	switch {
	case errno != 0:
		return errno
	case n.dir():
		return syscall.EISDIR
	case op.Kind == APITruncate:
		n.stale = true
		return m.setSize(op, n, op.Len)
	case op.Kind == APIPunch:
		return m.punch(op, n)
	}
	if op.Flags == unix.FALLOC_FL_UNSHARE_RANGE {
		op.Flags |= unix.FALLOC_FL_KEEP_SIZE // over the socket it leaves the size alone
		return m.allocate(op, n)
	}
	n.stale = true
	return m.shift(op, n)
}
