package client

import (
	"time"

	"holdfast/extent"
	"holdfast/wire"
)

// The vocabulary of the protocol, so that a program needs only this package.
type (
	// Range is a half-open range of bytes of a file.
	Range = extent.Range
	// Access is what a holder may do to the blocks.
	Access = wire.Access
	// Mode says who else may hold a lease on the range.
	Mode = wire.Mode
	// Kind says what a context stands for.
	Kind = wire.ContextKind
	// OnHold says what a change does about holds it may not break.
	OnHold = wire.OnHold
	// ChangeKind is a change of a file.
	ChangeKind = wire.ChangeKind
	// ListKind says what a listing lists.
	ListKind = wire.ListKind
	// LeaseState is where a lease stands in its life.
	LeaseState = wire.State
	// EventKind says what an Event tells.
	EventKind = wire.BreakKind
)

// Values of the vocabulary.
const (
	// Inf as the end of a Range means to infinity.
	Inf = extent.Inf

	Read  = wire.AccessRead
	Write = wire.AccessWrite

	Shared    = wire.ModeShared
	Exclusive = wire.ModeExclusive

	Memory  = wire.ContextMemory
	XDP     = wire.ContextXDP
	IOUring = wire.ContextIOUring
	RDMA    = wire.ContextRDMA

	OnHoldDefault = wire.OnHoldDefault
	OnHoldFail    = wire.OnHoldFail
	OnHoldWait    = wire.OnHoldWait
	OnHoldRevoke  = wire.OnHoldRevoke
	OnHoldDefer   = wire.OnHoldDefer

	Truncate      = wire.ChangeTruncate
	Punch         = wire.ChangePunch
	WriteInto     = wire.ChangeWrite
	AllocateRange = wire.ChangeAllocate
	ZeroRange     = wire.ChangeZero
	Collapse      = wire.ChangeCollapse
	Insert        = wire.ChangeInsert
	Unshare       = wire.ChangeUnshare

	ListLeases   = wire.ListLeases
	ListPins     = wire.ListPins
	ListContexts = wire.ListContexts
	ListSessions = wire.ListSessions
	ListServer   = wire.ListServer
	ListOrphans  = wire.ListOrphans
	ListHolders  = wire.ListHolders

	// BreakAsked: give back what is asked until the deadline.
	BreakAsked = wire.BreakAsked
	// BreakCutting: it is too late, the range is being cut.
	BreakCutting = wire.BreakCutting
	// BreakRevoked: the range is gone.
	BreakRevoked = wire.BreakRevoked
)

// Options say what lease is wanted. The zero value asks for a shared read lease.
type Options struct {
	Access      Access // default Read
	Mode        Mode   // default Shared
	Unbreakable bool   // a change fails instead of asking; owner or administrator only
	Prepare     bool   // allocate the holes of the range
	NoWait      bool   // EWOULDBLOCK instead of waiting
}

// LeaseInfo is the state of a lease.
type LeaseInfo struct {
	ID          uint64
	File        uint64  // inode
	Seq         uint64  // rises with each grant, modification and break
	Range       Range   // from the first byte to the last
	Pieces      []Range // what of Range the lease has; at most wire.MaxPieces are named
	Access      Access
	Mode        Mode
	Unbreakable bool
	State       LeaseState
}

// Event tells the holder of a lease that it is wanted back, or gone.
type Event struct {
	Kind     EventKind
	Seq      uint64
	Change   uint64
	Range    Range
	Deadline time.Time // zero: none
	Ask      wire.Ask
	Class    wire.Class
	// Merged: the event stands for several, because they were not read in time.
	Merged bool
}

// Filter narrows a listing; zero fields match everything.
type Filter struct {
	File    uint64
	Session uint64
}

// ServerInfo is what a server said when the session began.
type ServerInfo struct {
	Session     uint64
	BreakTime   time.Duration
	MaxLeases   int
	MaxRequests int
}
