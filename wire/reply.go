package wire

import (
	"syscall"

	"holdfast/extent"
)

// HelloReply says who the server takes the client for, and the limits.
type HelloReply struct {
	Version     uint32
	MaxMessage  uint32
	Session     uint64
	BreakTime   int64 // nanoseconds a holder has to answer a break
	MaxLeases   uint32
	MaxRequests uint32 // requests that may wait at once
}

// Append implements Body.
func (m *HelloReply) Append(b []byte) []byte {
	b = appendU32(appendU32(b, m.Version), m.MaxMessage)
	b = appendU64(appendU64(b, m.Session), uint64(m.BreakTime))
	return appendU32(appendU32(b, m.MaxLeases), m.MaxRequests)
}

// Decode implements Body.
func (m *HelloReply) Decode(b []byte) error {
	d := decode(OpHello, b, 32)
	m.Version = d.u32()
	m.MaxMessage = d.u32()
	m.Session = d.u64()
	m.BreakTime = d.size("break time")
	m.MaxLeases = d.u32()
	m.MaxRequests = d.u32()
	return d.err
}

// AttachReply says what the connection is the handle of.
type AttachReply struct {
	Kind ObjectKind
	ID   uint64
}

// Append implements Body.
func (m *AttachReply) Append(b []byte) []byte {
	return appendU64(appendU32(appendU32(b, uint32(m.Kind)), 0), m.ID)
}

// Decode implements Body.
func (m *AttachReply) Decode(b []byte) error {
	d := decode(OpAttach, b, 16)
	m.Kind = ObjectKind(d.u32())
	if m.Kind != ObjectLease && m.Kind != ObjectContext {
		d.fail(syscall.EINVAL, "object kind %d is unknown", m.Kind)
	}
	d.zero(4)
	m.ID = d.u64()
	return d.err
}

// State is where a lease stands in its life.
type State uint8

// The states.
const (
	StateGranted   State = 0
	StateDurable   State = 1 // not used in this version
	StateExposed   State = 2 // not used in this version
	StateBreaking  State = 3
	StateReturning State = 4
	StateCutting   State = 5
	StateRevoked   State = 6
	StateReleased  State = 7
)

// String returns the name of the state.
func (s State) String() string {
	names := [...]string{"granted", "durable", "exposed", "breaking", "returning", "cutting", "revoked", "released"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// LeaseReply describes a lease. Range is from its first byte to its last; Pieces
// are what of it the holder has.
type LeaseReply struct {
	Lease  uint64
	File   uint64
	Seq    uint64
	Range  extent.Range // all zero when nothing is left
	Access Access
	Mode   Mode
	Flags  uint16 // LeaseUnbreakable
	State  State
	Ticket Ticket // ACQUIRE only, else zero
	Pieces []extent.Range
}

// MaxPieces is how many pieces an answer names; a lease may have more.
const MaxPieces = 1024

const leaseReplySize = 72

// Append implements Body.
func (m *LeaseReply) Append(b []byte) []byte {
	b = appendU64(appendU64(appendU64(b, m.Lease), m.File), m.Seq)
	if m.Range.Empty() {
		b = appendU64(appendU64(b, 0), 0)
	} else {
		b = appendRange(b, m.Range)
	}
	b = append(b, byte(m.Access), byte(m.Mode))
	b = append(appendU16(b, m.Flags), byte(m.State), 0, 0, 0)
	b = append(b, m.Ticket[:]...)
	b = appendU32(appendU32(b, uint32(len(m.Pieces))), 0)
	for _, p := range m.Pieces {
		b = appendRange(b, p)
	}
	return b
}

// Decode implements Body.
func (m *LeaseReply) Decode(b []byte) error {
	d := decodeAtLeast(OpLeaseInfo, b, leaseReplySize)
	m.Lease, m.File, m.Seq = d.u64(), d.u64(), d.u64()
	m.Range = d.rngOrNone()
	m.Access = Access(d.enum("access", 1, 2))
	m.Mode = Mode(d.enum("mode", 1, 2))
	m.Flags = d.flags16(LeaseUnbreakable)
	m.State = State(d.enum("state", 0, uint8(StateReleased)))
	d.zero(3)
	copy(m.Ticket[:], d.take(TicketSize))
	n := d.count(16, MaxPieces)
	m.Pieces = nil
	for range n {
		m.Pieces = append(m.Pieces, d.rng())
	}
	return d.err
}

// rngOrNone reads a range of which 0+0 means none.
func (d *decoder) rngOrNone() extent.Range {
	if len(d.b) >= 16 && [16]byte(d.b[:16]) == [16]byte{} {
		d.take(16)
		return extent.Range{}
	}
	return d.rng()
}

// count reads a number of items of the given size, a reserved field, and checks
// that exactly those items follow. After an error it returns 0.
func (d *decoder) count(size, most int) int {
	n := d.u32()
	d.zero(4)
	if n > uint32(most) {
		d.fail(syscall.EINVAL, "%d items, at most %d", n, most)
	}
	if d.err == nil && len(d.b) != int(n)*size {
		d.fail(syscall.EBADMSG, "%d bytes follow, %d items need %d", len(d.b), n, int(n)*size)
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// RegisterReply names the new context.
type RegisterReply struct {
	Context uint64
	Ticket  Ticket
	Name    string // what the kernel calls the object; at most MaxName bytes
}

// MaxName bounds the name of a context.
const MaxName = 128

// Append implements Body.
func (m *RegisterReply) Append(b []byte) []byte {
	name := m.Name
	if len(name) > MaxName {
		name = name[:MaxName]
	}
	b = append(appendU64(b, m.Context), m.Ticket[:]...)
	return append(appendU32(appendU32(b, uint32(len(name))), 0), name...)
}

// Decode implements Body.
func (m *RegisterReply) Decode(b []byte) error {
	d := decodeAtLeast(OpRegister, b, 32)
	m.Context = d.u64()
	copy(m.Ticket[:], d.take(TicketSize))
	n := d.count(1, MaxName)
	m.Name = string(d.b[:n])
	return d.err
}

// Piece is a part of a mapping: Len bytes of the file at FileOff are the bytes
// of a window at WindowOff. FD is the index of the window's descriptor among
// those that come beside the message.
type Piece struct {
	FileOff   int64
	Len       int64
	WindowOff int64
	Segment   uint64 // the window's address space
	FD        uint32
}

const pieceSize = 40

// MaxMapPieces is how many pieces one part of an answer to MAP holds.
const MaxMapPieces = 1024

// MapReply is one part of the answer to MAP, in order of FileOff.
type MapReply struct {
	Access Access // read: the windows cannot be mapped writable
	Pieces []Piece
}

// Append implements Body.
func (m *MapReply) Append(b []byte) []byte {
	b = append(b, byte(m.Access), 0, 0, 0, 0, 0, 0, 0)
	b = appendU32(appendU32(b, uint32(len(m.Pieces))), 0)
	for _, p := range m.Pieces {
		b = appendU64(appendU64(b, uint64(p.FileOff)), uint64(p.Len))
		b = appendU64(appendU64(b, uint64(p.WindowOff)), p.Segment)
		b = appendU32(appendU32(b, p.FD), 0)
	}
	return b
}

// Decode implements Body.
func (m *MapReply) Decode(b []byte) error {
	d := decodeAtLeast(OpMap, b, 16)
	m.Access = Access(d.enum("access", 1, 2))
	d.zero(7)
	n := d.count(pieceSize, MaxMapPieces)
	m.Pieces = nil
	for range n {
		p := Piece{FileOff: d.size("file offset"), Len: d.size("length"), WindowOff: d.size("window offset"), Segment: d.u64(), FD: d.u32()}
		d.zero(4)
		switch {
		case p.FD >= MaxFDs:
			d.fail(syscall.EINVAL, "descriptor %d of %d", p.FD, MaxFDs)
		case p.Len == 0:
			d.fail(syscall.EINVAL, "empty piece")
		case p.Len > extent.Inf-p.FileOff || p.Len > extent.Inf-p.WindowOff:
			d.fail(syscall.EINVAL, "piece overflows")
		}
		m.Pieces = append(m.Pieces, p)
	}
	return d.err
}

// BreakKind says what a BREAK message tells.
type BreakKind uint8

// The kinds, in the order of a lease's end.
const (
	BreakAsked   BreakKind = 1 // give back what is asked, until the deadline
	BreakCutting BreakKind = 2 // too late: the range is being cut
	BreakRevoked BreakKind = 3 // the cut is complete
)

// Ask says what is asked of the holder.
type Ask uint8

// The askings.
const (
	AskNothing   Ask = 0
	AskReturn    Ask = 1 // give the range back
	AskDowngrade Ask = 2 // a shared lease is enough
	AskDropPins  Ask = 3 // drop the pins in the range
)

// Class says what the change that breaks a lease does to the mapping.
type Class uint8

// The classes.
const (
	ClassNone        Class = 0
	ClassAdditive    Class = 1
	ClassSize        Class = 2
	ClassSubtractive Class = 3
	ClassMoving      Class = 4
)

// BreakMerged marks a BREAK that stands for several, because the holder did not
// read: its range spans theirs, its deadline is the earliest.
const BreakMerged uint16 = 1 << 0

// Break tells the holder of a lease that it is wanted back, or gone.
type Break struct {
	Lease    uint64
	Seq      uint64
	Change   uint64
	Range    extent.Range
	Deadline int64 // nanoseconds since the epoch; 0: none
	Kind     BreakKind
	Class    Class
	Ask      Ask
	Flags    uint16 // BreakMerged
}

// BreakSize is the size of the body of BREAK.
const BreakSize = 56

// Append implements Body.
func (m *Break) Append(b []byte) []byte {
	b = appendU64(appendU64(appendU64(b, m.Lease), m.Seq), m.Change)
	b = appendU64(appendRange(b, m.Range), uint64(m.Deadline))
	b = append(b, byte(m.Kind), byte(m.Class), byte(m.Ask), 0)
	return append(appendU16(b, m.Flags), 0, 0)
}

// Decode implements Body.
func (m *Break) Decode(b []byte) error {
	d := decode(OpBreak, b, BreakSize)
	m.Lease, m.Seq, m.Change = d.u64(), d.u64(), d.u64()
	m.Range = d.rng()
	m.Deadline = d.size("deadline")
	m.Kind = BreakKind(d.enum("kind", 1, 3))
	m.Class = Class(d.enum("class", 0, uint8(ClassMoving)))
	m.Ask = Ask(d.enum("asking", 0, uint8(AskDropPins)))
	d.zero(1)
	m.Flags = d.flags16(BreakMerged)
	d.zero(2)
	return d.err
}
