package arbiter

import (
	"syscall"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// EventKind names what happened.
type EventKind string

const (
	EventGrant        EventKind = "grant"
	EventModify       EventKind = "modify"
	EventDeny         EventKind = "deny"
	EventBreak        EventKind = "break" // a holder was asked
	EventReturn       EventKind = "return"
	EventTimeout      EventKind = "timeout"
	EventCut          EventKind = "cut" // a cut has begun
	EventCutFailed    EventKind = "cut-failed"
	EventRevoke       EventKind = "revoke" // a cut is complete
	EventRelease      EventKind = "release"
	EventTransfer     EventKind = "transfer"
	EventPin          EventKind = "pin"
	EventUnpin        EventKind = "unpin"
	EventOrphan       EventKind = "orphan" // a pin keeps what its file has given up
	EventMove         EventKind = "move"   // a pin went over to another lease
	EventClaim        EventKind = "claim"  // a context became another session's
	EventShare        EventKind = "share"  // one more session holds a lease
	EventLeave        EventKind = "leave"  // one of several holds it no more
	EventRefuse       EventKind = "refuse"
	EventWait         EventKind = "wait"   // a request waits for others
	EventChange       EventKind = "change" // a change that had waited goes on
	EventSessionOpen  EventKind = "session-open"
	EventSessionEnd   EventKind = "session-end"
	EventContextOpen  EventKind = "context-open"
	EventContextClose EventKind = "context-close"
	EventReclaim      EventKind = "reclaim"   // a process is back that had a session with a former server
	EventUnclaimed    EventKind = "unclaimed" // alarm: it lives, holds memory from then, and does not come back
	EventForsake      EventKind = "forsake"   // it will not come back: what it had is cut
)

// Event is one entry of the stream. Only the fields that apply are set.
type Event struct {
	Seq      uint64           `json:"seq"`
	Time     time.Time        `json:"time"`
	Kind     EventKind        `json:"event"`
	File     extent.Ino       `json:"file,omitempty"`
	Path     string           `json:"path,omitempty"`
	Range    *Range           `json:"range,omitempty"`
	Lease    layout.LeaseID   `json:"lease,omitempty"`
	LeaseSeq uint64           `json:"lease_seq,omitempty"`
	Session  layout.SessionID `json:"session,omitempty"`
	PID      int32            `json:"pid,omitempty"` // of the session, or of whoever asked for the change
	Context  layout.ContextID `json:"context,omitempty"`
	Pin      layout.PinID     `json:"pin,omitempty"`
	Change   layout.ChangeID  `json:"change,omitempty"`
	Class    layout.Class     `json:"class,omitempty"`
	Ask      layout.Ask       `json:"ask,omitempty"`
	Deadline *time.Time       `json:"deadline,omitempty"`
	Errno    syscall.Errno    `json:"errno,omitempty"`
	Reason   string           `json:"reason,omitempty"`
	Blockers []Blocker        `json:"blockers,omitempty"`
}
