package wire

import (
	"bytes"
	"syscall"

	"holdfast/extent"
)

// Ticket is a one-time right to attach a connection to an object.
type Ticket [TicketSize]byte

// Access is what a holder may do to the blocks of a range.
type Access uint8

// The accesses.
const (
	AccessRead  Access = 1
	AccessWrite Access = 2 // includes reading
)

// Mode says who else may hold a lease on the range.
type Mode uint8

// The modes.
const (
	ModeShared    Mode = 1
	ModeExclusive Mode = 2
)

// ContextKind says what a context stands for.
type ContextKind uint32

// The kinds of context that a local program can register.
const (
	ContextMemory  ContextKind = 1 // no descriptor: the process's own long-term use of the memory
	ContextXDP     ContextKind = 2 // an AF_XDP socket
	ContextIOUring ContextKind = 3 // an io_uring, named by its number
	ContextRDMA    ContextKind = 4 // an RDMA device context, /dev/infiniband/uverbsN
)

// ObjectKind says what a ticket attaches to.
type ObjectKind uint32

// The kinds of handle.
const (
	ObjectLease   ObjectKind = 1
	ObjectContext ObjectKind = 2
)

// OnHold says what a change does about holds of others that it may not break.
type OnHold uint8

// The policies.
const (
	OnHoldDefault OnHold = 0 // the volume's
	OnHoldFail    OnHold = 1
	OnHoldWait    OnHold = 2
	OnHoldRevoke  OnHold = 3
	OnHoldDefer   OnHold = 4
)

// ChangeKind is a change of a file.
type ChangeKind uint8

// The changes.
const (
	ChangeTruncate ChangeKind = 1 // the range's offset is the new size, it has no end
	ChangePunch    ChangeKind = 2
	ChangeWrite    ChangeKind = 3 // WOULD only
	ChangeAllocate ChangeKind = 4
	ChangeZero     ChangeKind = 5
	ChangeCollapse ChangeKind = 6
	ChangeInsert   ChangeKind = 7
	ChangeUnshare  ChangeKind = 8
)

// Hello opens a session.
type Hello struct {
	Version uint32
	Flags   uint32 // HelloShared
}

// HelloShared asks that descendants of the process and those it admits may speak
// on the session too. Each message then costs the server a pidfd.
const HelloShared uint32 = 1 << 0

// Append implements Body.
func (m *Hello) Append(b []byte) []byte { return appendU32(appendU32(b, m.Version), m.Flags) }

// Decode implements Body.
func (m *Hello) Decode(b []byte) error {
	d := decode(OpHello, b, 8)
	m.Version = d.u32()
	if m.Version != Version {
		d.fail(syscall.EPROTONOSUPPORT, "version %d, this side speaks version %d", m.Version, Version)
	}
	m.Flags = d.flags32(HelloShared)
	return d.err
}

// Attach turns the connection into the handle of an object.
type Attach struct {
	Ticket Ticket
}

// Append implements Body.
func (m *Attach) Append(b []byte) []byte { return append(b, m.Ticket[:]...) }

// Decode implements Body.
func (m *Attach) Decode(b []byte) error {
	d := decode(OpAttach, b, TicketSize)
	copy(m.Ticket[:], d.take(TicketSize))
	return d.err
}

// Flags of a lease.
const (
	LeaseUnbreakable uint16 = 1 << iota // a change fails instead of asking
	LeaseNoWait                         // ACQUIRE, MODIFY: EWOULDBLOCK instead of waiting
	LeaseAllocate                       // ACQUIRE: allocate the holes of the range

	modifyFlags  = LeaseUnbreakable | LeaseNoWait
	acquireFlags = LeaseUnbreakable | LeaseNoWait | LeaseAllocate
)

// Acquire asks for a lease on a range of the file whose descriptor comes along.
type Acquire struct {
	Range  extent.Range
	Access Access
	Mode   Mode
	Flags  uint16
}

// Append implements Body.
func (m *Acquire) Append(b []byte) []byte {
	b = append(appendRange(b, m.Range), byte(m.Access), byte(m.Mode))
	return appendU32(appendU16(b, m.Flags), 0)
}

// Decode implements Body.
func (m *Acquire) Decode(b []byte) error {
	d := decode(OpAcquire, b, 24)
	m.Range = d.rng()
	m.Access = Access(d.enum("access", 1, 2))
	m.Mode = Mode(d.enum("mode", 1, 2))
	m.Flags = d.flags16(acquireFlags)
	d.zero(4)
	return d.err
}

// Return gives back a range of a lease; [0, ∞) gives back all and ends it.
type Return struct {
	Lease uint64
	Range extent.Range
}

// Append implements Body.
func (m *Return) Append(b []byte) []byte { return appendRange(appendU64(b, m.Lease), m.Range) }

// Decode implements Body.
func (m *Return) Decode(b []byte) error {
	d := decode(OpReturn, b, 24)
	m.Lease = d.u64()
	m.Range = d.rng()
	return d.err
}

// Modify sets access, mode and flags of a lease in one step.
type Modify struct {
	Lease  uint64
	Access Access
	Mode   Mode
	Flags  uint16
}

// Append implements Body.
func (m *Modify) Append(b []byte) []byte {
	b = append(appendU64(b, m.Lease), byte(m.Access), byte(m.Mode))
	return appendU32(appendU16(b, m.Flags), 0)
}

// Decode implements Body.
func (m *Modify) Decode(b []byte) error {
	d := decode(OpModify, b, 16)
	m.Lease = d.u64()
	m.Access = Access(d.enum("access", 1, 2))
	m.Mode = Mode(d.enum("mode", 1, 2))
	m.Flags = d.flags16(modifyFlags)
	d.zero(4)
	return d.err
}

// Register registers a context. For ContextXDP and ContextRDMA its descriptor comes
// along. The kernel refuses to pass an io_uring over a socket, so for ContextIOUring
// the message names the descriptor by its number in the session's process.
type Register struct {
	Kind         ContextKind
	Capabilities uint32
	Number       uint32 // ContextIOUring only, else 0
}

// Capabilities of a context: what its owner can do when asked.
const (
	CapGiveBack     uint32 = 1 << iota // give back a range
	CapDisassociate                    // end all access at once

	allCapabilities = CapGiveBack | CapDisassociate
)

// Append implements Body.
func (m *Register) Append(b []byte) []byte {
	b = appendU32(appendU32(b, uint32(m.Kind)), m.Capabilities)
	return appendU32(appendU32(b, m.Number), 0)
}

// Decode implements Body.
func (m *Register) Decode(b []byte) error {
	d := decode(OpRegister, b, 16)
	m.Kind = ContextKind(d.u32())
	if m.Kind < ContextMemory || m.Kind > ContextRDMA {
		d.fail(syscall.EINVAL, "context kind %d is unknown", m.Kind)
	}
	m.Capabilities = d.flags32(allCapabilities)
	m.Number = d.u32()
	if m.Number != 0 && m.Kind != ContextIOUring {
		d.fail(syscall.EINVAL, "number of a descriptor that comes along")
	}
	d.zero(4)
	return d.err
}

// Pin pins a range of a lease through a context.
type Pin struct {
	Context uint64
	Lease   uint64
	Range   extent.Range
	Access  Access
}

// Append implements Body.
func (m *Pin) Append(b []byte) []byte {
	b = appendRange(appendU64(appendU64(b, m.Context), m.Lease), m.Range)
	return append(b, byte(m.Access), 0, 0, 0, 0, 0, 0, 0)
}

// Decode implements Body.
func (m *Pin) Decode(b []byte) error {
	d := decode(OpPin, b, 40)
	m.Context = d.u64()
	m.Lease = d.u64()
	m.Range = d.rng()
	m.Access = Access(d.enum("access", 1, 2))
	d.zero(7)
	return d.err
}

// ID names one object: the body of UNPIN and LEASEINFO, and of several answers.
type ID struct {
	ID uint64
}

// Append implements Body.
func (m *ID) Append(b []byte) []byte { return appendU64(b, m.ID) }

// Decode implements Body.
func (m *ID) Decode(b []byte) error {
	d := decode(0, b, 8)
	m.ID = d.u64()
	return d.err
}

// Map asks for the memory of a range of a lease.
type Map struct {
	Lease uint64
	Range extent.Range
}

// Append implements Body.
func (m *Map) Append(b []byte) []byte { return appendRange(appendU64(b, m.Lease), m.Range) }

// Decode implements Body.
func (m *Map) Decode(b []byte) error {
	d := decode(OpMap, b, 24)
	m.Lease = d.u64()
	m.Range = d.rng()
	return d.err
}

// Commit makes what was written directly in a range content of the file.
type Commit struct {
	Lease uint64
	Range extent.Range
	Size  int64 // the file grows to this size; -1 leaves it
}

// Append implements Body.
func (m *Commit) Append(b []byte) []byte {
	return appendU64(appendRange(appendU64(b, m.Lease), m.Range), uint64(m.Size))
}

// Decode implements Body.
func (m *Commit) Decode(b []byte) error {
	d := decode(OpCommit, b, 32)
	m.Lease = d.u64()
	m.Range = d.rng()
	m.Size = int64(d.u64())
	if m.Size < -1 || m.Size > extent.MaxSize {
		d.fail(syscall.EFBIG, "size %d is out of range", m.Size)
	}
	return d.err
}

// ChangeDropOwn is a flag of a Change: the caller's own pins in the range are dropped first.
const ChangeDropOwn uint8 = 1

// Change asks for a change of the file whose descriptor comes along. It may wait
// for as long as it says: a request waits on the socket, not in the kernel.
type Change struct {
	Kind   ChangeKind
	OnHold OnHold
	Flags  uint8 // ChangeDropOwn
	Range  extent.Range
	Wait   int64 // nanoseconds, 0: the server's bound for a break
}

// Append implements Body.
func (m *Change) Append(b []byte) []byte {
	b = append(b, byte(m.Kind), byte(m.OnHold), m.Flags, 0, 0, 0, 0, 0)
	return appendU64(appendRange(b, m.Range), uint64(m.Wait))
}

// Decode implements Body.
func (m *Change) Decode(b []byte) error {
	d := decode(OpChange, b, 32)
	m.Kind = ChangeKind(d.enum("change", uint8(ChangeTruncate), uint8(ChangeUnshare)))
	if m.Kind == ChangeWrite {
		d.fail(syscall.EINVAL, "a write is no change to ask for")
	}
	m.OnHold = OnHold(d.enum("on_hold", 0, uint8(OnHoldDefer)))
	m.Flags = d.enum("flags", 0, ChangeDropOwn)
	d.zero(5)
	m.Range = d.rng()
	m.Wait = d.size("wait")
	checkChange(&d, m.Kind, m.Range)
	if m.Kind != ChangeTruncate && m.Range.End == extent.Inf {
		d.fail(syscall.EINVAL, "range has no end")
	}
	return d.err
}

// checkChange refuses what no file can be changed by: a truncate that ends before
// infinity, a range beyond the largest file.
func checkChange(d *decoder, k ChangeKind, r extent.Range) {
	switch {
	case k == ChangeTruncate && r.End != extent.Inf:
		d.fail(syscall.EINVAL, "truncate of a range that ends")
	case r.Off > extent.MaxSize || r.End != extent.Inf && r.End > extent.MaxSize:
		d.fail(syscall.EFBIG, "range is beyond the largest file")
	}
}

// Would foresees what a change would meet.
type Would struct {
	Kind   ChangeKind
	OnHold OnHold
	Range  extent.Range
}

// Append implements Body.
func (m *Would) Append(b []byte) []byte {
	return appendRange(append(b, byte(m.Kind), byte(m.OnHold), 0, 0, 0, 0, 0, 0), m.Range)
}

// Decode implements Body.
func (m *Would) Decode(b []byte) error {
	d := decode(OpWould, b, 24)
	m.Kind = ChangeKind(d.enum("change", uint8(ChangeTruncate), uint8(ChangeUnshare)))
	m.OnHold = OnHold(d.enum("on_hold", 0, uint8(OnHoldDefer)))
	d.zero(6)
	m.Range = d.rng()
	checkChange(&d, m.Kind, m.Range)
	return d.err
}

// ListKind says what LIST lists.
type ListKind uint32

// The lists.
const (
	ListLeases   ListKind = 1
	ListPins     ListKind = 2
	ListContexts ListKind = 3
	ListSessions ListKind = 4
	ListServer   ListKind = 5 // counts and limits of the server
	ListOrphans  ListKind = 6 // blocks that files have given up and somebody still reaches
	ListHolders  ListKind = 7 // processes that have copies of handles and of what contexts stand for
)

// List asks for a listing. Zero fields do not filter.
type List struct {
	Kind    ListKind
	File    uint64
	Session uint64
}

// Append implements Body.
func (m *List) Append(b []byte) []byte {
	b = appendU32(appendU32(b, uint32(m.Kind)), 0)
	return appendU64(appendU64(b, m.File), m.Session)
}

// Decode implements Body.
func (m *List) Decode(b []byte) error {
	d := decode(OpList, b, 24)
	m.Kind = ListKind(d.u32())
	if m.Kind < ListLeases || m.Kind > ListHolders {
		d.fail(syscall.EINVAL, "list %d is unknown", m.Kind)
	}
	d.zero(4)
	m.File = d.u64()
	m.Session = d.u64()
	return d.err
}

// Cancel stops waiting for an earlier request, which then answers EINTR, unless
// it is done already.
type Cancel struct {
	Request uint32
}

// Append implements Body.
func (m *Cancel) Append(b []byte) []byte { return appendU32(appendU32(b, m.Request), 0) }

// Decode implements Body.
func (m *Cancel) Decode(b []byte) error {
	d := decode(OpCancel, b, 8)
	m.Request = d.u32()
	d.zero(4)
	return d.err
}

// Grow asks for a larger volume, and answers with the size that it has.
type Grow struct {
	Size int64 // in bytes
}

// Append implements Body.
func (m *Grow) Append(b []byte) []byte { return appendU64(b, uint64(m.Size)) }

// Decode implements Body.
func (m *Grow) Decode(b []byte) error {
	d := decode(OpGrow, b, 8)
	m.Size = d.size("size")
	return d.err
}

// MaxCursor bounds a Cursor.
const MaxCursor = 192

// Scrub asks for a step of looking for damage.
type Scrub struct {
	Bytes  int64  // of content that the step reads, about; 0: as the server likes
	Cursor []byte // what the step before has answered; empty in the first
}

// Append implements Body.
func (m *Scrub) Append(b []byte) []byte {
	b = appendU32(appendU32(appendU64(b, uint64(m.Bytes)), uint32(len(m.Cursor))), 0)
	return append(b, m.Cursor...)
}

// Decode implements Body.
func (m *Scrub) Decode(b []byte) error {
	d := decodeAtLeast(OpScrub, b, 16)
	m.Bytes = d.size("bytes")
	m.Cursor = nil
	if n := d.count(1, MaxCursor); n > 0 {
		m.Cursor = bytes.Clone(d.b[:n])
	}
	return d.err
}

// Empty is the body of requests and answers that say all in their header: WHO,
// STAT, SUBSCRIBE, ADMIT.
type Empty struct{}

// Append implements Body.
func (*Empty) Append(b []byte) []byte { return b }

// Decode implements Body.
func (*Empty) Decode(b []byte) error {
	d := decode(0, b, 0)
	return d.err
}

// NoSize leaves the size of the file in a Commit.
const NoSize = -1
