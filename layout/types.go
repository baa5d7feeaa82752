package layout

import (
	"fmt"
	"syscall"
	"time"

	"holdfast/extent"
)

// Instant is a point in time in nanoseconds since an origin the caller chose.
type Instant int64

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Names of what the machine keeps. Sessions and contexts are named by the
// caller, because they span machines; the machine names the rest. Zero is nobody.
type (
	SessionID uint64
	LeaseID   uint64
	ContextID uint64
	PinID     uint64
	ChangeID  uint64
	RequestID uint64
)

// OwnerID names those who share one fate, for example the sessions of one process: for a change of one of them the pins of each
// are its own, as it would wait for itself. Leases are not: two libraries in one process are told of each other. Zero is a
// session by itself.
type OwnerID uint64

// Access is what a holder may do to the blocks.
type Access uint8

const (
	Read Access = iota
	Write
)

// Mode says who else may hold a lease on the range.
type Mode uint8

const (
	// Shared leases coexist with other shared leases.
	Shared Mode = iota
	// Exclusive means that no other session holds a lease on the range.
	Exclusive
)

// Class says what a change does to the mapping of a range.
type Class uint8

const (
	// None alters no mapping: an overwrite of written, unshared blocks.
	None Class = iota
	// Additive fills a hole or converts unwritten blocks. Only others' exclusive leases refuse it.
	Additive
	// Size extends the file. It meets nobody.
	Size
	// Subtractive takes blocks away: truncate down, punch, unshare. It meets every lease and pin.
	Subtractive
	// Moving relocates blocks and yields to whoever holds them: EBUSY, and the caller skips them.
	Moving
)

// OnHold says what becomes of a change that meets others' pins or unbreakable leases.
// Zero leaves it to the policy of the volume.
type OnHold uint8

const (
	// Fail refuses with ETXTBSY at once.
	Fail OnHold = iota + 1
	// Wait queues the change until the holds are gone.
	Wait
	// Revoke asks, waits for the break time, then cuts, pins too.
	Revoke
	// Defer lets the blocks become orphans of their pins, and asks for the leases.
	Defer
)

// OnClose says what the close of the last handle of a pinned lease does.
type OnClose uint8

const (
	// Transfer makes the context the owner of the lease; it goes with its last pin.
	Transfer OnClose = iota
	// Block holds up the close of the data file until the pins are gone. The machine does not see it: the handle's close is Transfer.
	Block
	// Abort revokes the pins first.
	Abort
)

// OnPass says what a receiver of a passed handle may do.
type OnPass uint8

const (
	// Strict lets him claim a context for whose pins he has leases of his own, and nothing else.
	Strict OnPass = iota
	// Share also makes the receiver of a lease handle a co-holder, if he may have such a lease.
	Share
)

// Ask says what the holder of a breaking lease has to do.
type Ask uint8

const (
	// AskReturn wants the range back.
	AskReturn Ask = iota + 1
	// AskDowngrade is content with a shared lease.
	AskDowngrade
	// AskDropPins wants the pins in the range dropped, and the range back. It is sent under Revoke, and by others than the machine where
	// there is no space for what pins keep that no file has any more.
	AskDropPins
)

// CutStep is a way to end a context's access by other ways than windows, the mildest first.
type CutStep uint8

const (
	// GiveBack asks the context to give back the range.
	GiveBack CutStep = iota + 1
	// Disassociate has it let go of everything.
	Disassociate
	// Fence cuts it off.
	Fence
	// Kill ends its session. It is tried only where Config.AllowKill.
	Kill
)

// Abilities say by what the pins of a context can be cut.
type Abilities uint8

const (
	CanGiveBack     Abilities = 1 << GiveBack
	CanDisassociate Abilities = 1 << Disassociate
	CanFence        Abilities = 1 << Fence
	CanKill         Abilities = 1 << Kill
	// ByWindow contexts reach blocks by windows only: to detach these is the cut, and no step is needed.
	ByWindow Abilities = 1
)

func (a Abilities) has(s CutStep) bool { return a&(1<<s) != 0 }

// LeaseState is where a lease stands in its life.
type LeaseState uint8

const (
	// StateGranted leases are whole and undisturbed.
	StateGranted LeaseState = iota
	// StateDurable leases are in the store, before blocks are exposed to what outlives the server. Not reached yet.
	StateDurable
	// StateExposed leases have blocks handed out that the server cannot cut by dying. Not reached yet.
	StateExposed
	// StateBreaking leases were asked for a range.
	StateBreaking
	// StateReturning leases gave back a range that the storage has not detached yet.
	StateReturning
	// StateCutting leases ran out of time; a range is being detached without the holder.
	StateCutting
	// StateRevoked leases were cut; they are gone from the table.
	StateRevoked
	// StateReleased leases were given back; they are gone from the table.
	StateReleased
)

var (
	accessNames = []string{"read", "write"}
	modeNames   = []string{"shared", "exclusive"}
	classNames  = []string{"none", "additive", "size", "subtractive", "moving"}
	onHoldNames = []string{"", "fail", "wait", "revoke", "defer"}
	askNames    = []string{"", "return", "downgrade", "drop-pins"}
	stepNames   = []string{"", "give-back", "disassociate", "fence", "kill"}
	stateNames  = []string{"granted", "durable", "exposed", "breaking", "returning", "cutting", "revoked", "released"}
)

func name(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("invalid(%d)", i)
}

func index(what string, names []string, text []byte) (uint8, error) {
	for i, n := range names {
		if n == string(text) {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("%s %q is not one of %q: %w", what, text, names, syscall.EINVAL)
}

func (a Access) String() string     { return name(accessNames, uint8(a)) }
func (m Mode) String() string       { return name(modeNames, uint8(m)) }
func (c Class) String() string      { return name(classNames, uint8(c)) }
func (o OnHold) String() string     { return name(onHoldNames, uint8(o)) }
func (a Ask) String() string        { return name(askNames, uint8(a)) }
func (s CutStep) String() string    { return name(stepNames, uint8(s)) }
func (s LeaseState) String() string { return name(stateNames, uint8(s)) }

func (a Access) MarshalText() ([]byte, error)     { return []byte(a.String()), nil }
func (m Mode) MarshalText() ([]byte, error)       { return []byte(m.String()), nil }
func (c Class) MarshalText() ([]byte, error)      { return []byte(c.String()), nil }
func (o OnHold) MarshalText() ([]byte, error)     { return []byte(o.String()), nil }
func (a Ask) MarshalText() ([]byte, error)        { return []byte(a.String()), nil }
func (s CutStep) MarshalText() ([]byte, error)    { return []byte(s.String()), nil }
func (s LeaseState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (a *Access) UnmarshalText(b []byte) error {
	i, err := index("access", accessNames, b)
	*a = Access(i)
	return err
}

func (m *Mode) UnmarshalText(b []byte) error {
	i, err := index("mode", modeNames, b)
	*m = Mode(i)
	return err
}

func (c *Class) UnmarshalText(b []byte) error {
	i, err := index("class", classNames, b)
	*c = Class(i)
	return err
}

func (o *OnHold) UnmarshalText(b []byte) error {
	i, err := index("on_hold", onHoldNames, b)
	*o = OnHold(i)
	return err
}

func (a *Ask) UnmarshalText(b []byte) error {
	i, err := index("ask", askNames, b)
	*a = Ask(i)
	return err
}

func (s *CutStep) UnmarshalText(b []byte) error {
	i, err := index("step", stepNames, b)
	*s = CutStep(i)
	return err
}

func (s *LeaseState) UnmarshalText(b []byte) error {
	i, err := index("state", stateNames, b)
	*s = LeaseState(i)
	return err
}

// LeaseInfo describes a lease. Pieces are in order of offset.
type LeaseInfo struct {
	ID          LeaseID
	File        extent.Ino
	Session     SessionID
	Pieces      []extent.Range // what the holder still has
	Leaving     []extent.Range // given back or cut, not yet detached
	Access      Access
	Mode        Mode
	Unbreakable bool
	State       LeaseState
	Seq         uint64
	Since       Instant
	Deadline    Instant // of the earliest break, 0 if none
	Mapped      bool
	Closed      bool // the last handle is gone; contexts own it
	Unattended  bool // its session has ended
	Pins        int
	Contexts    []ContextID
	Holders     []SessionID // of a lease that several sessions hold, all of them; Session is one that lives, if any does
}

// PinInfo describes a pin.
type PinInfo struct {
	ID         PinID
	File       extent.Ino
	Lease      LeaseID
	Context    ContextID
	Session    SessionID
	Range      extent.Range
	Access     Access
	Unattended bool
	Orphaned   []extent.Range // what of it no file has any more
	Cutting    bool           // its lease was taken away, the context has still to let go
	Step       CutStep        // that is being tried, 0 until the next try
	Tries      int            // in which all steps failed
	Deadline   Instant        // of the step, or when the next try begins
	Tag        any            // of the lease that still covers a part of it
}

// Blocker is one thing that stands, or would stand, in the way of a change.
type Blocker struct {
	Lease       LeaseID
	Pin         PinID    // 0: the lease itself is in the way
	Change      ChangeID // an earlier change on the range
	Context     ContextID
	Session     SessionID
	Range       extent.Range
	Access      Access
	Mode        Mode
	Unbreakable bool
	State       LeaseState
	Reason      string
}

// Counts are the sizes of a machine's tables.
type Counts struct {
	Files, Leases, Pins, Requests, Sessions, Contexts int
}
