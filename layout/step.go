package layout

import (
	"syscall"

	"holdfast/extent"
)

// Op is the kind of an input.
type Op uint8

const (
	// OpOpenSession{Session, Owner} makes a session known.
	OpOpenSession Op = iota + 1
	// OpEndSession{Session}: its process died or hung up. What it waited for is denied, what it was asked for is cut at once.
	// Handles that have no other copies end by OpCloseContext and OpCloseLease; what stays is unattended.
	OpEndSession
	// OpAcquire{Session, File, Range, Access, Mode, Unbreakable, NoWait, Tag} asks for a lease → Granted, Queued or Denied.
	OpAcquire
	// OpModify{Session, Lease, Access, Mode, Unbreakable, NoWait} upgrades or downgrades in one step → Modified, Queued or Denied.
	OpModify
	// OpReturn{Session, Lease, Range} gives back a range, which may be all → Returned, then Unmap or Released; or Denied.
	OpReturn
	// OpCloseLease{Lease, Session, OnClose}: the last copy of its handle is gone → Released, Unmap or Transferred; with Abort a lease
	// with pins is cut instead. A lease that several
	// sessions hold is left by the one named → Left; without a name by all.
	OpCloseLease
	// OpMapped{Lease}: windows were handed out, so that what is returned must be detached first.
	OpMapped
	// OpUnmapped{Lease, Range} answers Unmap.
	OpUnmapped
	// OpUnmapFailed{Lease, Range} answers Unmap: the range is cut later, with back-off.
	OpUnmapFailed
	// OpCutDone{Lease, Range} answers Cut.
	OpCutDone
	// OpCutFailed{Lease, Range} answers Cut: it is tried again with back-off, and changes that wait for it get EAGAIN.
	OpCutFailed
	// OpCutPinDone{Pin} answers CutPin: nothing reaches the blocks through it any more → Unpinned.
	OpCutPinDone
	// OpCutPinFailed{Pin, Step, Reason} answers CutPin: the next step is tried, or all of them later.
	OpCutPinFailed
	// OpOrphaned{File, Change, Pin, Range} answers Orphan.
	OpOrphaned
	// OpOrphanFailed{File, Change, Pin, Reason} answers Orphan: the change is refused.
	OpOrphanFailed
	// OpSeize{Lease} takes the lease from its holder at once, unbreakable or pinned: Cut, and CutPin where need be.
	OpSeize
	// OpRegister{Session, Context, Can} makes a context known.
	OpRegister
	// OpCloseContext{Context}: its right has ended → Unpinned for each of its pins.
	OpCloseContext
	// OpPin{Session, Context, Lease, Range, Access} → Pinned or Denied. With Pin it is one that a former run knew, and that
	// another stands for: it gets that name if it is free, also when the lease's handle is closed, or the range being broken.
	OpPin
	// OpUnpin{Session, Pin} → Unpinned or Denied. Session 0 is the caller itself, who may.
	OpUnpin
	// OpClaim{Session, Context}: the session has the handle of the context and wants it for its own → Claimed, and Moved for each pin,
	// which all go over to leases of the session; or Denied, and nothing has moved.
	OpClaim
	// OpShare{Session, Lease, OnPass}: the session has the handle of the lease and the right to such a lease → Joined or Denied.
	OpShare
	// OpBreak{Session, File, Range, Class, OnHold, DropOwn} asks leave for a change → Proceed, Queued or Refused. With DropOwn the
	// caller's own pins in the range are dropped in the same step, if it is not refused.
	OpBreak
	// OpDone{File, Change}: the change was applied (or given up); its barrier goes.
	OpDone
	// OpAbandon{File, Request or Change}: whoever waited has gone. What only waited is dropped; a break goes on without him.
	OpAbandon
	// OpTick looks at the clock: breaks whose time is up are cut.
	OpTick
	// OpRestore{Session, Lease, File, Range, Access, Mode, Unbreakable} puts back a piece of a lease that a former run had
	// handed out as memory, under its name; further pieces come in order → Granted with the first. Before anything else.
	OpRestore
	// OpResume{Session, Lease, Tag} makes a session that had ended live again, and gives a lease of it, if named, the tag.
	OpResume
)

// Input is one thing that happened. Which fields count is said at each Op.
type Input struct {
	Op          Op
	Access      Access
	Mode        Mode
	Class       Class
	OnHold      OnHold
	OnClose     OnClose
	OnPass      OnPass
	Unbreakable bool
	NoWait      bool
	DropOwn     bool
	Can         Abilities
	Step        CutStep
	File        extent.Ino
	Range       extent.Range
	Session     SessionID
	Owner       OwnerID
	Lease       LeaseID
	Context     ContextID
	Pin         PinID
	Change      ChangeID
	Request     RequestID
	Reason      string
	Tag         any // stays with the lease and comes back in its effects; the machine does not look at it
}

// EffectKind is the kind of an effect.
type EffectKind uint8

const (
	// Granted{Lease, Request, Range, Seq}: the lease is in the table. Prepare its blocks BEFORE its holder is told;
	// if that fails, close it.
	Granted EffectKind = iota + 1
	// Modified{Lease, Request, Access, Mode, Unbreakable, Seq}: in force from now on.
	Modified
	// Denied{Errno, Reason, Request}: an acquire, modify, return, pin or unpin was refused; nothing has changed.
	Denied
	// Queued{Request or Change, Reason}: it waits; Granted, Modified, Denied, Proceed or Refused will follow, unless abandoned.
	Queued
	// Proceed{Change}: nothing stands in the way, and nothing will until OpDone. Check the plan again, apply it, then OpDone.
	// Change is 0 where the class needs no barrier.
	Proceed
	// Refused{Change, Errno, Reason}: the change must not happen; nothing has changed. Blockers says who stood in the way,
	// if asked BEFORE the next step.
	Refused
	// Notify{Lease, Session, Range, Class, Ask, Deadline, Seq, Tag}: tell the holder. The deadline runs from this step.
	Notify
	// TimedOut{Lease, Range}: the holder did not answer in time; Cut follows.
	TimedOut
	// Returned{Lease, Range, Seq}: the holder has no right to the range any more.
	Returned
	// Unmap{Lease, Range}: write back and detach the range, THEN answer OpUnmapped. Nobody may be told that the range is free before.
	Unmap
	// Cut{Lease, Range}: detach the range without the holder, THEN answer OpCutDone. Blocks may be reused only after that.
	Cut
	// CutPin{Pin, Context, Lease, Range, Step, Deadline}: end what the context can reach by the pin, in the way that Step says, THEN
	// answer OpCutPinDone. Its windows are detached already.
	CutPin
	// StepFailed{Pin, Context, Lease, Range, Step, Reason}: the step failed, or was not done in its time. Somebody should look.
	StepFailed
	// Revoked{Lease, Range}: the cut of the range is complete.
	Revoked
	// Released{Lease, Session, File, Tag}: the lease is gone from the table. Always the last effect of a lease.
	Released
	// Transferred{Lease, Context}: its handle is closed and the context owns it now. One effect for each context.
	Transferred
	// Pinned{Pin, Lease, Context, Range}: take a hold on the blocks BEFORE the caller is told; if that fails, unpin.
	Pinned
	// Unpinned{Pin, Lease, Context, Range}: release the hold.
	Unpinned
	// Claimed{Context, Session}: the context is the session's.
	Claimed
	// Moved{Pin, Lease, Context, Session, Range}: the pin, and its hold, is covered by this lease now.
	Moved
	// Joined{Lease, Session, Range, Seq}: the session holds the lease, too. Tell it of breaks as well.
	Joined
	// Left{Lease, Session}: the session holds it no more; others do.
	Left
	// Ended{Session or Context}: known no longer.
	Ended
	// Persist{Lease} is the place of durable exposure: write the lease to the store BEFORE its blocks are exposed to what
	// the server cannot cut by dying. Not emitted yet.
	Persist
	// Orphan{Change, Pin, Lease, Context, File, Range}: have the file give up what the pin keeps of the range, windows too, THEN answer
	// OpOrphaned, before which the change does not go on.
	Orphan
	// Orphaned{Pin, Lease, Context, File, Range}: the pin keeps the range without file and lease.
	Orphaned
)

// Effect is one thing to be done. Which fields count is said at each kind. The answer to the input itself, if it has one
// (Granted, Modified, Denied, Queued, Returned, Pinned, Unpinned, Proceed, Refused), is the first effect of a step.
type Effect struct {
	Kind        EffectKind
	Access      Access
	Mode        Mode
	Class       Class
	Ask         Ask
	Step        CutStep
	Unbreakable bool
	Errno       syscall.Errno
	Reason      string
	File        extent.Ino
	Range       extent.Range
	Session     SessionID
	Lease       LeaseID
	Context     ContextID
	Pin         PinID
	Change      ChangeID
	Request     RequestID
	Seq         uint64
	Deadline    Instant
	Tag         any
}
