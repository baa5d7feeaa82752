package wire

import (
	"syscall"

	"holdfast/extent"
)

// OpReclaim gives a process back what it had with a former server; see Reclaim.
const OpReclaim Op = 26

// ReclaimKind says what of a former server is claimed.
type ReclaimKind uint32

// What can be claimed, in this order.
const (
	ReclaimSession ReclaimKind = 1 // the session, whose number this one takes
	ReclaimWindow  ReclaimKind = 2 // a lease, of which a window comes along
	ReclaimContext ReclaimKind = 3 // a context
	ReclaimPin     ReclaimKind = 4 // a pin
	ReclaimDone    ReclaimKind = 5 // that was all: the rest ends
)

// Reclaim claims one thing that the process had with a former server.
type Reclaim struct {
	Kind    ReclaimKind
	Access  Access       // of a pin
	Object  uint64       // number of the session, segment of the window, number of the context or pin
	Lease   uint64       // of the window or pin
	Context uint64       // of the pin
	Range   extent.Range // of the pin
}

const reclaimSize = 48

// Append implements Body.
func (m *Reclaim) Append(b []byte) []byte {
	b = append(appendU32(b, uint32(m.Kind)), byte(m.Access), 0, 0, 0)
	b = appendU64(appendU64(appendU64(b, m.Object), m.Lease), m.Context)
	if m.Range.Empty() {
		return appendU64(appendU64(b, 0), 0)
	}
	return appendRange(b, m.Range)
}

// Decode implements Body.
func (m *Reclaim) Decode(b []byte) error {
	d := decode(OpReclaim, b, reclaimSize)
	m.Kind = ReclaimKind(d.u32())
	if m.Kind < ReclaimSession || m.Kind > ReclaimDone {
		d.fail(syscall.EINVAL, "kind %d is unknown", m.Kind)
	}
	m.Access = Access(d.enum("access", 0, 2))
	d.zero(3)
	m.Object, m.Lease, m.Context = d.u64(), d.u64(), d.u64()
	m.Range = d.rngOrNone()
	pin := m.Kind == ReclaimPin
	if pin != (m.Access != 0) || pin != (m.Context != 0) || pin == m.Range.Empty() || (m.Lease != 0) != (pin || m.Kind == ReclaimWindow) {
		d.fail(syscall.EINVAL, "fields of another kind")
	}
	return d.err
}

// Reclaimed answers a Reclaim.
type Reclaimed struct {
	ID     uint64 // of the session, lease, context or pin
	Ticket Ticket // for a handle of a lease or context; zero if it has one, or was closed
}

const reclaimedSize = 8 + TicketSize

// Append implements Body.
func (m *Reclaimed) Append(b []byte) []byte { return append(appendU64(b, m.ID), m.Ticket[:]...) }

// Decode implements Body.
func (m *Reclaimed) Decode(b []byte) error {
	d := decode(OpReclaim, b, reclaimedSize)
	m.ID = d.u64()
	copy(m.Ticket[:], d.take(TicketSize))
	return d.err
}
