// Package local serves programs of this machine over a Unix socket: the way in
// for everything that package client, or a program in another language, asks.
//
// docs/protocol.md describes the messages. A connection becomes a session with
// HELLO, or the handle of a lease or context with ATTACH and a one-time ticket.
// Requests go over the session; a handle only exists. Its last close, wherever
// its copies are, ends the object, and breaks of a lease are told on it.
//
// # Who is believed
//
// The kernel says who connects (SO_PEERCRED, SO_PEERPIDFD) and who sends each
// message (SCM_CREDENTIALS). A message from the process that opened the session
// is its own: as long as that process lives nobody else has its number, and that
// it lives is asked of its pidfd after each message. Others speak only on
// a session opened for sharing, and are told apart by SCM_PIDFD: an admitted
// process or a descendant. The credentials of a message only ever narrow the
// rights of the session. Root can forge credentials; root needs no forging. A
// right to a file comes from an open descriptor of it, never from a path.
//
// # Goroutines
//
// One goroutine a session reads requests and answers what cannot wait; what can
// wait (ACQUIRE, RETURN, PIN, MAP and others) gets one of its own, so that
// a break can be answered while an acquire waits. All handles and pidfds are
// watched by one epoll loop, whose callbacks never block. All of them end
// before Serve returns.
//
// # One client never delays another
//
// Whoever does not read its answers loses its session after Limits.WriteTime. Breaks
// are told without blocking; what does not fit the socket is kept in a small array
// per lease and merged when that is full. Descriptors that were sent and not read
// are counted per user, because the kernel counts them against the server.
// Connections, sessions, leases, contexts and waiting requests are limited, and the
// error names the limit. Closing a descriptor of a filesystem that hangs (a FUSE
// server of the client's) hangs its session only; see user.dispose.
//
// # Locks
//
// None is held while the arbiter, the filesystem or a blocking system call is
// called; Notify comes from the arbiter and takes leases' locks, which are leaves:
//
//	Server.mu → handle.mu
//	Server.mu → group.mu
//	session.mu → hub.mu
//	handle.mu → hub.mu
//	tickets.mu
//	session.wmu (held while an answer is written, by its session only)
//
// Only handle.claim, the first of all, is held while the arbiter is called, so that handle
// and context have the same session.
//
// The package must not know what the rules of leases are, nor how a filesystem is
// mounted: which descriptor is a file of ours, a function of Config says.
package local

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// Arbiter is what the server needs of the arbiter.
type Arbiter interface {
	OpenSession(info arbiter.SessionInfo) (layout.SessionID, error)
	EndSession(id layout.SessionID)
	Admit(id layout.SessionID, pid int32) error
	Dismiss(id layout.SessionID, pid int32)
	Acquire(ctx context.Context, s layout.SessionID, req arbiter.AcquireRequest, h arbiter.Holder) (arbiter.LeaseInfo, error)
	Return(ctx context.Context, s layout.SessionID, lease layout.LeaseID, r extent.Range) error
	Modify(ctx context.Context, s layout.SessionID, lease layout.LeaseID, req arbiter.ModifyRequest) (arbiter.LeaseInfo, error)
	LeaveLease(ctx context.Context, s layout.SessionID, lease layout.LeaseID) error
	Share(ctx context.Context, s layout.SessionID, lease layout.LeaseID, onPass layout.OnPass) (arbiter.LeaseInfo, error)
	Lease(lease layout.LeaseID) (arbiter.LeaseInfo, error)
	Register(s layout.SessionID, c arbiter.Context) (layout.ContextID, error)
	CloseContext(ctx context.Context, id layout.ContextID) error
	Claim(ctx context.Context, s layout.SessionID, c layout.ContextID) error
	Pin(ctx context.Context, s layout.SessionID, c layout.ContextID, lease layout.LeaseID, r extent.Range, access layout.Access) (layout.PinID, error)
	Unpin(ctx context.Context, s layout.SessionID, pin layout.PinID) error
	Would(c arbiter.Caller, file extent.Ino, r extent.Range, class layout.Class) ([]arbiter.Blocker, syscall.Errno)
	Seize(ctx context.Context, lease layout.LeaseID) error
	Expire(ctx context.Context, id layout.SessionID, hangUp func()) error
	OnHold(c arbiter.Caller) layout.OnHold
	Leases(f arbiter.Filter) []arbiter.LeaseInfo
	Pins(f arbiter.Filter) []arbiter.PinInfo
	Contexts(f arbiter.Filter) []arbiter.ContextInfo
	Sessions(f arbiter.Filter) []arbiter.SessionInfo
	Subscribe(buffer int) *arbiter.Subscription
	Uses(orphaned map[uint32]int64) []arbiter.LimitUse
}

// Window is memory that can be handed to a holder.
type Window interface {
	// Open returns a descriptor of the memory, which cannot be made writable
	// unless write is set. The caller closes it.
	Open(write bool) (*os.File, error)
	Segment() extent.Segment
}

// Piece is a part of a mapping: the file's bytes at FileOff lie at Off in Window.
type Piece struct {
	Window  Window
	Off     int64
	FileOff int64
	Len     int64
}

// FS is what the server needs of the filesystem.
type FS interface {
	// Attr returns a file's owner and size.
	Attr(ctx context.Context, ino extent.Ino) (uid uint32, size int64, err error)
	// OnHold returns what a file says of changes that meet holds, 0 if nothing.
	OnHold(ctx context.Context, ino extent.Ino) (layout.OnHold, error)
	// Map makes the memory of a range of a lease. It fails if the lease does not
	// cover the range when it is done.
	Map(ctx context.Context, lease layout.LeaseID, ino extent.Ino, r extent.Range, write bool) ([]Piece, error)
	// Commit makes what was written directly durable content; size -1 leaves the size.
	Commit(ctx context.Context, lease layout.LeaseID, ino extent.Ino, r extent.Range, size int64) error
	// Truncate and Reshape change a file after asking the arbiter for c. The mode is
	// that of fallocate(2).
	Truncate(ctx context.Context, c arbiter.Caller, ino extent.Ino, size int64) error
	Reshape(ctx context.Context, c arbiter.Caller, ino extent.Ino, mode uint32, r extent.Range) error
	// Class says what a write into or an allocation of the range would be.
	Class(ctx context.Context, ino extent.Ino, r extent.Range) (layout.Class, error)
	// Grow makes the volume larger and returns its size.
	Grow(ctx context.Context, size int64) (int64, error)
	// Scrub does a step of looking for damage, and reads about that many bytes of content;
	// what is returned is shown as JSON, and tells the cursor of the next step.
	Scrub(ctx context.Context, cursor []byte, bytes int64) (any, error)
	// Defrag brings the blocks of a file together, and Evacuate makes the volume smaller; what
	// is returned is shown as JSON. Without force what is held stays where it is.
	Defrag(ctx context.Context, c arbiter.Caller, ino extent.Ino, force bool) (any, error)
	Evacuate(ctx context.Context, c arbiter.Caller, size int64, force bool) (any, error)
	// Orphans lists the blocks that files have given up and somebody still reaches.
	Orphans() []Orphan
	// OrphanedBytes says how much each user keeps that files have given up.
	OrphanedBytes() map[uint32]int64
	// Stat describes a file: what is returned is shown as JSON.
	Stat(ctx context.Context, ino extent.Ino) (any, error)
}

// Limits bound what clients can use up. Zero fields get their default.
type Limits struct {
	Connections int           // connections of one user; default three quarters of RLIMIT_NOFILE
	Sessions    int           // sessions of one user; default 4096
	Leases      int           // leases of one session; default 65536
	Contexts    int           // contexts of one session; default 4096
	Requests    int           // requests of one session that wait at once; default 64
	Admitted    int           // processes one session admits; default 64
	InFlight    int           // descriptors sent to one user and not read; default 1024
	Events      int           // events a slow subscriber may lag behind; default 4096
	TicketTime  time.Duration // how long a ticket is good; default 10 s
	HelloTime   time.Duration // how long a connection may be silent before HELLO or ATTACH; default 10 s
	WriteTime   time.Duration // how long an answer may wait to be read; default 5 s
	ReclaimTime time.Duration // how long after the start an alarm is raised for who does not reclaim; default 10 s
	ProcTime    time.Duration // how long /proc is asked who a sender descends from; default 1 s
}

func (l Limits) complete() Limits {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	defTime := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	var nofile syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &nofile); err != nil || nofile.Cur > 1<<20 {
		nofile.Cur = 1 << 20
	}
	def(&l.Connections, int(nofile.Cur/4*3))
	def(&l.Sessions, 4096)
	def(&l.Leases, 65536)
	def(&l.Contexts, 4096)
	def(&l.Requests, 64)
	def(&l.Admitted, 64)
	def(&l.InFlight, 1024)
	def(&l.Events, 4096)
	defTime(&l.TicketTime, 10*time.Second)
	defTime(&l.HelloTime, 10*time.Second)
	defTime(&l.WriteTime, 5*time.Second)
	defTime(&l.ProcTime, time.Second)
	defTime(&l.ReclaimTime, 10*time.Second)
	return l
}

// Config sets up a Server.
type Config struct {
	Arbiter Arbiter
	FS      FS
	// Identity says which file of the filesystem a descriptor is, or false. It
	// must not cause a request to the filesystem; see MountIdentity.
	Identity func(fd int) (extent.Ino, bool)
	// OnPass is the policy for handles of a file's leases that were passed on; default: layout.Strict.
	OnPass func(extent.Ino) layout.OnPass
	// Path is where the socket appears.
	Path string
	// Group, a name or number, owns the socket; Mode is 0660 then, else 0666.
	Group string
	// Mode overrides the permissions of the socket.
	Mode fs.FileMode
	// BreakTime is told to clients, and bounds a CHANGE that says nothing itself.
	BreakTime time.Duration
	Limits    Limits
	// Clock expires tickets; default: the system's.
	Clock arbiter.Clock
	// Log gets one line for each thing an operator should know. Default: none.
	Log *slog.Logger
}

// Stats count what a Server has open.
type Stats struct {
	Connections int `json:"connections"`
	Sessions    int `json:"sessions"`
	Handles     int `json:"handles"`
	Tickets     int `json:"tickets"`
	InFlight    int `json:"descriptors_in_flight"`
}

// MountIdentity returns an identity function for the files of the mount whose
// st_dev is dev. It asks nothing of the filesystem, so the filesystem's own
// server may use it.
func MountIdentity(dev uint64) func(fd int) (extent.Ino, bool) {
	return func(fd int) (extent.Ino, bool) {
		d, ino, err := statFD(fd)
		return extent.Ino(ino), err == nil && d == dev
	}
}

func (c *Config) complete() {
	c.Limits = c.Limits.complete()
	if c.Clock == nil {
		c.Clock = systemClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.OnPass == nil {
		c.OnPass = func(extent.Ino) layout.OnPass { return layout.Strict }
	}
	if c.BreakTime == 0 {
		c.BreakTime = 45 * time.Second
	}
	if c.Mode == 0 {
		c.Mode = 0o666
		if c.Group != "" {
			c.Mode = 0o660
		}
	}
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }
func (systemClock) NewTimer(d time.Duration) arbiter.Timer {
	return systemTimer{time.NewTimer(d)}
}

type systemTimer struct{ t *time.Timer }

func (t systemTimer) C() <-chan time.Time { return t.t.C }
func (t systemTimer) Stop() bool          { return t.t.Stop() }
