package arbiter

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// PrepareFlags say what Storage.Prepare does to a range before its lease is handed out.
type PrepareFlags uint32

const (
	// PrepareAllocate fills holes.
	PrepareAllocate PrepareFlags = 1 << iota
	// PrepareWritten converts unwritten blocks, writing zeros.
	PrepareWritten
	// PrepareUnshare gives the file blocks of its own.
	PrepareUnshare
)

// Storage is what the arbiter asks of the filesystem. It is called without any
// lock of the arbiter held, and may call back into it.
type Storage interface {
	// Prepare makes the range complete and static before a lease on it is handed out.
	Prepare(ctx context.Context, file extent.Ino, r extent.Range, access layout.Access, flags PrepareFlags) error
	// Hold keeps the blocks of the range out of the free list until Unhold, whatever becomes of their file. What the file gives up
	// meanwhile counts for uid.
	Hold(file extent.Ino, r extent.Range, uid uint32) (hold uint64, err error)
	Unhold(hold uint64)
	// Orphan lets the file give up what the hold keeps of the range: it comes before a change that is deferred. ENOSPC: too much is
	// orphaned already, and nothing has changed.
	Orphan(file extent.Ino, hold uint64, r extent.Range) error
	// Unmap writes back the range and detaches the parts of windows that only this lease uses. After an error the
	// range is not detached: it is then cut, with back-off.
	Unmap(ctx context.Context, file extent.Ino, lease layout.LeaseID, r extent.Range) error
	// Cut is Unmap for a lease whose holder is not asked any more.
	Cut(ctx context.Context, file extent.Ino, lease layout.LeaseID, r extent.Range) error
	// Get keeps the file, also when unlinked, until as many Put.
	Get(file extent.Ino) error
	Put(file extent.Ino)
	// Path returns the best known path, with " (deleted)" when unlinked.
	Path(file extent.Ino) string
}

// Holder is told what concerns one lease. Notify must not block. It may be called before Acquire has returned, and late,
// after the lease was returned: Event.LeaseSeq orders what is told.
type Holder interface {
	Notify(ev Event)
}

// Context stands for a subsystem object through which blocks are reached. A mechanism implements it.
type Context interface {
	// Info describes it. The arbiter asks once, at Register, and fills in ID, Session, PID and Pins.
	Info() ContextInfo
}

// Capabilities say what a context can do when asked to give up access.
type Capabilities struct {
	GiveBack     bool `json:"give_back"`    // give back a range
	Disassociate bool `json:"disassociate"` // let go of everything
	Fence        bool `json:"fence"`        // be cut off
	Kill         bool `json:"kill"`         // have its session killed, where that is allowed
	ByWindow     bool `json:"by_window"`    // it reaches blocks by windows only: to detach these cuts it
}

// ContextInfo describes a context.
type ContextInfo struct {
	ID      layout.ContextID `json:"context"`
	Session layout.SessionID `json:"session"`
	PID     int32            `json:"pid"`
	Kind    string           `json:"kind"`
	Name    string           `json:"name"`
	Can     Capabilities     `json:"can"`
	Pins    int              `json:"pins"`
}

// SessionInfo describes a session.
type SessionInfo struct {
	ID     layout.SessionID `json:"session"`
	Kind   string           `json:"kind"`
	Name   string           `json:"name"` // of the program or host
	PID    int32            `json:"pid"`
	UID    uint32           `json:"uid"`
	GID    uint32           `json:"gid"`
	Since  time.Time        `json:"since"`
	Start  uint64           `json:"-"`                // of the process, in clock ticks since boot; 0: nothing is kept of it beyond this server
	Ended  bool             `json:"ended"`            // gone, but leases or pins of it remain
	Shared bool             `json:"shared,omitempty"` // others than its process may speak for it
	// Unclaimed: it is from before the server was started, and its process has not come back.
	Unclaimed bool `json:"unclaimed,omitempty"`
	Leases    int  `json:"leases"`
	Contexts  int  `json:"contexts"`
	Pins      int  `json:"pins"`
}

// Range is a byte range as listings show it. Length 0 means to infinity, as in fcntl's struct flock.
// As JSON, that is null: no number, which a program could add to the offset unnoticed.
type Range struct {
	Offset int64
	Length int64
}

type rangeJSON struct {
	Offset int64  `json:"offset"`
	Length *int64 `json:"length"`
}

// MarshalJSON writes the form for programs.
func (r Range) MarshalJSON() ([]byte, error) {
	j := rangeJSON{Offset: r.Offset}
	if r.Length != 0 {
		j.Length = &r.Length
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Range) UnmarshalJSON(b []byte) error {
	var j rangeJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = Range{Offset: j.Offset}
	if j.Length != nil {
		r.Length = *j.Length
	}
	return nil
}

// RangeOf converts r for a listing.
func RangeOf(r extent.Range) Range {
	if r.End == extent.Inf {
		return Range{Offset: r.Off}
	}
	return Range{Offset: r.Off, Length: r.Len()}
}

// Extent returns the range in the form used for computing.
func (r Range) Extent() extent.Range {
	if r.Length == 0 {
		return extent.Range{Off: r.Offset, End: extent.Inf}
	}
	return extent.Range{Off: r.Offset, End: r.Offset + r.Length}
}

// String prints the range as [off,end).
func (r Range) String() string { return r.Extent().String() }

// LeaseInfo describes a lease. Acquire and Modify leave out Path, PID and Contexts.
type LeaseInfo struct {
	ID          layout.LeaseID     `json:"lease"`
	File        extent.Ino         `json:"file"`
	Path        string             `json:"path,omitempty"`
	Session     layout.SessionID   `json:"session"`
	PID         int32              `json:"pid"`
	UID         uint32             `json:"uid"` // of the session
	Program     string             `json:"program,omitempty"`
	Ranges      []Range            `json:"ranges"`
	Leaving     []Range            `json:"leaving,omitempty"` // given back or cut, not yet detached
	Access      layout.Access      `json:"access"`
	Mode        layout.Mode        `json:"mode"`
	Unbreakable bool               `json:"unbreakable"`
	State       layout.LeaseState  `json:"state"`
	Seq         uint64             `json:"seq"`
	Since       time.Time          `json:"since"`
	Deadline    *time.Time         `json:"deadline,omitempty"`
	Mapped      bool               `json:"mapped"`
	Closed      bool               `json:"closed"`     // the last handle is gone; contexts own it
	Unattended  bool               `json:"unattended"` // its session has ended
	Unclaimed   bool               `json:"unclaimed,omitempty"`
	Unentitled  bool               `json:"unentitled"` // it is unbreakable, and its session would not get it any more. In listings only
	Pins        int                `json:"pins"`
	Contexts    []layout.ContextID `json:"contexts,omitempty"`
	Holders     []Holding          `json:"holders,omitempty"` // where several sessions hold it, all of them
}

// Holding is one of several sessions that hold a lease.
type Holding struct {
	Session layout.SessionID `json:"session"`
	PID     int32            `json:"pid"`
	Program string           `json:"program,omitempty"`
}

// PinInfo describes a pin.
type PinInfo struct {
	ID          layout.PinID     `json:"pin"`
	File        extent.Ino       `json:"file"`
	Path        string           `json:"path"`
	Range       Range            `json:"range"`
	Access      layout.Access    `json:"access"`
	Lease       layout.LeaseID   `json:"lease"`
	Context     layout.ContextID `json:"context"`
	ContextKind string           `json:"context_kind"`
	ContextName string           `json:"context_name"`
	Session     layout.SessionID `json:"session"`
	PID         int32            `json:"pid"`
	Program     string           `json:"program,omitempty"`
	Unattended  bool             `json:"unattended"`
	Orphaned    []Range          `json:"orphaned,omitempty"` // what of it no file has any more
	Cutting     *CutState        `json:"cutting,omitempty"`
	Unclaimed   bool             `json:"unclaimed,omitempty"`
}

// Blocker is one thing that stands in the way of a change, and why.
type Blocker struct {
	Lease       layout.LeaseID   `json:"lease,omitempty"`
	Pin         layout.PinID     `json:"pin,omitempty"`
	Change      layout.ChangeID  `json:"change,omitempty"`
	Context     layout.ContextID `json:"context,omitempty"`
	ContextKind string           `json:"context_kind,omitempty"`
	ContextName string           `json:"context_name,omitempty"`
	Session     layout.SessionID `json:"session,omitempty"`
	PID         int32            `json:"pid,omitempty"`
	Program     string           `json:"program,omitempty"`
	Range       Range            `json:"range"`
	Access      layout.Access    `json:"access"`
	Mode        layout.Mode      `json:"mode"`
	Unbreakable bool             `json:"unbreakable"`
	Reason      string           `json:"reason"`
}

// Filter narrows a listing; zero fields match everything.
type Filter struct {
	File    extent.Ino       `json:"file,omitempty"`
	Session layout.SessionID `json:"session,omitempty"`
	PID     int32            `json:"pid,omitempty"`
}

// Caller is on whose behalf something is asked.
type Caller struct {
	PID     int32
	UID     uint32
	GID     uint32
	Session layout.SessionID // 0: found by PID, only if something stands in the way
	Admin   bool
	Umask   uint32        // for files that are made; the arbiter does not look
	OnHold  layout.OnHold // 0: the policy of the file, or of the volume
	DropOwn bool          // the caller's own pins in the range are dropped first, if the change is not refused
	// Wait bounds how long a change may wait: 0 means Config.MountWait, WaitForever that only the context does.
	Wait time.Duration
}

// WaitForever as Caller.Wait leaves the end of the wait to the context.
const WaitForever time.Duration = -1

// AcquireRequest says what lease is wanted.
type AcquireRequest struct {
	File        extent.Ino
	Range       extent.Range
	Access      layout.Access
	Mode        layout.Mode
	Unbreakable bool
	NoWait      bool
	Prepare     PrepareFlags
	// MayUnbreakable: the caller was found to have the right to an unbreakable lease.
	MayUnbreakable bool
}

// ModifyRequest says what a lease shall become.
type ModifyRequest struct {
	Access         layout.Access
	Mode           layout.Mode
	Unbreakable    bool
	NoWait         bool
	MayUnbreakable bool
}

// Refused is the error of a change or grant that must not happen. errors.Is matches its Errno.
type Refused struct {
	Errno    syscall.Errno
	Reason   string
	File     extent.Ino
	Range    extent.Range
	Blockers []Blocker // at most MaxBlockers of those who stood in the way
}

// MaxBlockers bounds how many blockers an error or event carries. Would lists them all.
const MaxBlockers = 16

func (e *Refused) Error() string {
	if len(e.Blockers) == 0 {
		return fmt.Sprintf("file %d %v: %s: %v", e.File, e.Range, e.Reason, e.Errno)
	}
	b := e.Blockers[0]
	return fmt.Sprintf("file %d %v: %s (lease %d, session %d, pid %d): %v", e.File, e.Range, e.Reason, b.Lease, b.Session, b.PID, e.Errno)
}

// Unwrap makes errors.Is find the errno.
func (e *Refused) Unwrap() error { return e.Errno }
