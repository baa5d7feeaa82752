// Package wire is the format of the messages on Holdfast's local socket.
//
// The socket is of type SOCK_SEQPACKET: one message a packet, a header of 16
// bytes and a body whose layout is fixed by the operation, all little endian and
// without padding that is not named. Descriptors travel beside a message by
// SCM_RIGHTS. docs/protocol.md describes every message for those who write a
// client in another language; this package is its other half, and the tests
// compare the sizes.
//
// Decoding is strict: the exact size, reserved fields zero, no unknown flag, no
// range that overflows. Whatever bytes come, decoding returns an error or a
// message that encodes to the same bytes; it never panics.
//
// The package has no state and no locks, does no I/O, and must not know who
// sends the messages or what they mean beyond their form.
package wire

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"holdfast/extent"
)

const (
	// Version is the version of the protocol. HELLO names it first.
	Version = 1
	// HeaderSize is the size of the header of each message.
	HeaderSize = 16
	// MaxMessage is the largest message that a server sends.
	MaxMessage = 64 << 10
	// MaxRequest is the largest message that a client sends.
	MaxRequest = 256
	// MaxFDs is the largest number of descriptors beside one message.
	MaxFDs = 32
	// TicketSize is the size of a one-time ticket.
	TicketSize = 16
	// MaxText bounds the text of an error.
	MaxText = 512
)

// Op says what a message is about.
type Op uint16

// The operations. Their numbers never change.
const (
	OpHello     Op = 1  // opens a session
	OpAttach    Op = 2  // turns a connection into a handle
	OpAcquire   Op = 3  // asks for a lease; data descriptor
	OpReturn    Op = 4  // gives back a range of a lease, or all of it
	OpModify    Op = 5  // changes access, mode and flags of a lease
	OpRegister  Op = 6  // registers a context; descriptor for some kinds
	OpPin       Op = 7  // pins a range of a lease
	OpUnpin     Op = 8  // ends a pin
	OpMap       Op = 9  // asks for the memory of a range of a lease
	OpCommit    Op = 10 // makes what was written directly durable content
	OpChange    Op = 11 // truncate or punch with a long wait; data descriptor
	OpAdmit     Op = 12 // lets another process speak; pidfd
	OpLeaseInfo Op = 13 // asks for the state of a lease
	OpList      Op = 14 // lists leases, pins, contexts, sessions
	OpWho       Op = 15 // lists who holds a file; data descriptor
	OpWould     Op = 16 // foresees what a change would meet; data descriptor
	OpStat      Op = 17 // describes a file's extents; data descriptor
	OpSubscribe Op = 18 // asks for the stream of events
	OpCancel    Op = 19 // stops waiting for a request
	OpGrow      Op = 20 // makes the volume larger
	OpScrub     Op = 21 // does a step of looking for damage
	OpSeize     Op = 22 // takes a lease from its holder
	OpExpire    Op = 23 // ends a session and takes all that it holds
	OpClaim     Op = 24 // makes a context the session's own; descriptor of its handle
	OpShare     Op = 25 // joins those who hold a lease; descriptors of its handle and of the file
	OpDefrag    Op = 27 // brings the blocks of a file together; data descriptor
	OpEvacuate  Op = 28 // makes the volume smaller
	OpLimits    Op = 30 // lists what users have used up

	OpBreak Op = 64 // server to lease handle: the lease is wanted back
	OpEvent Op = 65 // server to session: an event of the stream
)

var opNames = map[Op]string{
	OpHello: "HELLO", OpAttach: "ATTACH", OpAcquire: "ACQUIRE", OpReturn: "RETURN", OpModify: "MODIFY",
	OpRegister: "REGISTER", OpPin: "PIN", OpUnpin: "UNPIN", OpMap: "MAP", OpCommit: "COMMIT",
	OpChange: "CHANGE", OpAdmit: "ADMIT", OpLeaseInfo: "LEASEINFO", OpList: "LIST", OpWho: "WHO",
	OpWould: "WOULD", OpStat: "STAT", OpSubscribe: "SUBSCRIBE", OpCancel: "CANCEL", OpGrow: "GROW", OpScrub: "SCRUB",
	OpSeize: "SEIZE", OpExpire: "EXPIRE", OpClaim: "CLAIM", OpShare: "SHARE", OpReclaim: "RECLAIM",
	OpDefrag: "DEFRAG", OpEvacuate: "EVACUATE", OpLimits: "LIMITS",
	OpBreak: "BREAK", OpEvent: "EVENT",
}

// String returns the operation's name as docs/protocol.md has it.
func (o Op) String() string {
	if s, ok := opNames[o]; ok {
		return s
	}
	return fmt.Sprintf("OP(%d)", uint16(o))
}

// Descriptors returns how few and how many descriptors a request of this
// operation carries.
func (o Op) Descriptors() (least, most int) {
	switch o {
	case OpAcquire, OpChange, OpAdmit, OpWho, OpWould, OpStat, OpClaim, OpDefrag:
		return 1, 1
	case OpShare:
		return 2, 2
	case OpRegister, OpReclaim:
		return 0, 1
	}
	return 0, 0
}

// Flags of a header.
const (
	// FlagReply marks the answer to a request.
	FlagReply uint16 = 1 << iota
	// FlagMore marks an answer of which more parts follow.
	FlagMore

	allHeaderFlags = FlagReply | FlagMore
)

// Header begins every message.
type Header struct {
	Op      Op
	Flags   uint16
	Request uint32 // chosen by the client, echoed in the answer; 0 for events
	Size    uint32 // bytes that follow the header
	Status  uint32 // errno of an answer, 0 for success; the body of a failure is a text
}

// FormatError says what is wrong with a message. It unwraps to its errno:
// EBADMSG for a wrong size, EINVAL for a wrong value.
type FormatError struct {
	Op     Op
	Reason string
	Errno  syscall.Errno
}

func (e *FormatError) Error() string { return fmt.Sprintf("%s message: %s", e.Op, e.Reason) }

// Unwrap returns the errno.
func (e *FormatError) Unwrap() error { return e.Errno }

// ParseHeader decodes the header of the message b and returns its body. With an
// error, the header holds what could be read of it.
func ParseHeader(b []byte) (Header, []byte, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, nil, &FormatError{0, fmt.Sprintf("%d bytes are less than a header of %d", len(b), HeaderSize), syscall.EBADMSG}
	}
	h.Op = Op(binary.LittleEndian.Uint16(b))
	h.Flags = binary.LittleEndian.Uint16(b[2:])
	h.Request = binary.LittleEndian.Uint32(b[4:])
	h.Size = binary.LittleEndian.Uint32(b[8:])
	h.Status = binary.LittleEndian.Uint32(b[12:])
	if uint64(h.Size) != uint64(len(b)-HeaderSize) {
		return h, nil, &FormatError{h.Op, fmt.Sprintf("header says %d bytes follow, %d do", h.Size, len(b)-HeaderSize), syscall.EBADMSG}
	}
	if h.Flags&^allHeaderFlags != 0 {
		return h, nil, &FormatError{h.Op, fmt.Sprintf("unknown header flags %#x", h.Flags), syscall.EINVAL}
	}
	if h.Status != 0 && h.Flags&FlagReply == 0 {
		return h, nil, &FormatError{h.Op, "status in a message that is no answer", syscall.EINVAL}
	}
	return h, b[HeaderSize:], nil
}

// AppendHeader appends h to b.
func AppendHeader(b []byte, h Header) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(h.Op))
	b = binary.LittleEndian.AppendUint16(b, h.Flags)
	b = binary.LittleEndian.AppendUint32(b, h.Request)
	b = binary.LittleEndian.AppendUint32(b, h.Size)
	return binary.LittleEndian.AppendUint32(b, h.Status)
}

// Body is the body of a message.
type Body interface {
	// Append appends the encoded body to b.
	Append(b []byte) []byte
	// Decode fills the body from exactly b. It keeps no reference to b.
	Decode(b []byte) error
}

// Append appends a whole message to b. A nil body is an empty one.
func Append(b []byte, h Header, body Body) []byte {
	start := len(b)
	b = AppendHeader(b, h)
	if body != nil {
		b = body.Append(b)
	}
	binary.LittleEndian.PutUint32(b[start+8:], uint32(len(b)-start-HeaderSize))
	return b
}

// AppendError appends the answer that request h failed with errno, and a text
// for people, cut at MaxText bytes.
func AppendError(b []byte, h Header, errno syscall.Errno, text string) []byte {
	if len(text) > MaxText {
		text = text[:MaxText]
	}
	b = AppendHeader(b, Header{Op: h.Op, Flags: FlagReply, Request: h.Request, Size: uint32(len(text)), Status: uint32(errno)})
	return append(b, text...)
}

// A decoder reads fields in order and remembers the first thing that is wrong.
type decoder struct {
	op  Op
	b   []byte
	err error
}

func (d *decoder) fail(errno syscall.Errno, format string, args ...any) {
	if d.err == nil {
		d.err = &FormatError{d.op, fmt.Sprintf(format, args...), errno}
	}
}

// decode starts reading b, which must have exactly size bytes.
func decode(op Op, b []byte, size int) decoder {
	d := decoder{op: op, b: b}
	if len(b) != size {
		d.fail(syscall.EBADMSG, "body of %d bytes, want %d", len(b), size)
		d.b = make([]byte, size)
	}
	return d
}

// decodeAtLeast starts reading b, which must have size bytes or more.
func decodeAtLeast(op Op, b []byte, size int) decoder {
	d := decoder{op: op, b: b}
	if len(b) < size {
		d.fail(syscall.EBADMSG, "body of %d bytes, want at least %d", len(b), size)
		d.b = make([]byte, size)
	}
	return d
}

func (d *decoder) take(n int) []byte {
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8() uint8   { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.LittleEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *decoder) zero(n int) {
	for _, c := range d.take(n) {
		if c != 0 {
			d.fail(syscall.EINVAL, "reserved field is not zero")
		}
	}
}

// enum reads a byte that must be in [least, most].
func (d *decoder) enum(name string, least, most uint8) uint8 {
	v := d.u8()
	if v < least || v > most {
		d.fail(syscall.EINVAL, "%s %d is unknown", name, v)
	}
	return v
}

func (d *decoder) flags16(known uint16) uint16 {
	v := d.u16()
	if v&^known != 0 {
		d.fail(syscall.EINVAL, "unknown flags %#x", v&^known)
	}
	return v
}

func (d *decoder) flags32(known uint32) uint32 {
	v := d.u32()
	if v&^known != 0 {
		d.fail(syscall.EINVAL, "unknown flags %#x", v&^known)
	}
	return v
}

// size reads a non-negative quantity that must fit an int64.
func (d *decoder) size(name string) int64 {
	v := d.u64()
	if v > extent.Inf {
		d.fail(syscall.EINVAL, "%s %d is too large", name, v)
		return 0
	}
	return int64(v)
}

func (d *decoder) rng() extent.Range {
	off, length := d.u64(), d.u64()
	r, err := extent.NewRange(off, length)
	if err != nil {
		d.fail(syscall.EINVAL, "%v", err)
	}
	return r
}

func appendRange(b []byte, r extent.Range) []byte {
	length := ^uint64(0)
	if r.End != extent.Inf {
		length = uint64(r.End - r.Off)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Off))
	return binary.LittleEndian.AppendUint64(b, length)
}

func appendU16(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(b, v) }
func appendU32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func appendU64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }
