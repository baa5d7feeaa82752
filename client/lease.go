package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"holdfast/wire"
)

// Lease is a layout lease, and this process's copy of its handle.
type Lease struct {
	s       *Session
	granted LeaseInfo
	memory  *memory

	mu     sync.Mutex
	file   *os.File
	events chan Event // nil until Events is called
	closed chan struct{}
	done   bool
}

// Lease asks for a lease on the range of f. The open file proves the right to it:
// a write lease needs one opened for reading and writing. The range is rounded out
// to blocks and may reach beyond the end of the file, or to Inf.
func (s *Session) Lease(ctx context.Context, f *os.File, r Range, o Options) (*Lease, error) {
	req := wire.Acquire{Range: r, Access: o.access(), Mode: o.mode(), Flags: o.flags()}
	if o.Prepare {
		req.Flags |= wire.LeaseAllocate
	}
	if r.Empty() || r.Off < 0 {
		return nil, fmt.Errorf("lease on %v: %w", r, syscall.EINVAL)
	}
	var reply wire.LeaseReply
	if err := s.askAbout(ctx, f, wire.OpAcquire, &req, &reply); err != nil {
		return nil, err
	}
	return s.hold(ctx, &reply)
}

// hold attaches the handle of a lease that was granted.
func (s *Session) hold(ctx context.Context, reply *wire.LeaseReply) (*Lease, error) {
	h, err := s.attach(ctx, wire.ObjectLease, reply.Lease, reply.Ticket)
	if err != nil {
		// Without a handle the server ends the lease when its ticket expires.
		return nil, err
	}
	l := &Lease{s: s, granted: leaseInfo(reply), memory: &memory{refs: 1}, file: h, closed: make(chan struct{})}
	if err := s.own(l); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return l, nil
}

// attach connects the handle of an object.
func (s *Session) attach(ctx context.Context, kind wire.ObjectKind, id uint64, t wire.Ticket) (*os.File, error) {
	f, err := connect(ctx, s.socket)
	if err != nil {
		return nil, err
	}
	var reply wire.AttachReply
	err = exchange(ctx, f, wire.OpAttach, &wire.Attach{Ticket: t}, &reply)
	if err == nil && (reply.Kind != kind || reply.ID != id) {
		err = fmt.Errorf("ATTACH: handle of another object: %w", syscall.EPROTO)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (o Options) access() Access {
	if o.Access == 0 {
		return Read
	}
	return o.Access
}

func (o Options) mode() Mode {
	if o.Mode == 0 {
		return Shared
	}
	return o.Mode
}

func (o Options) flags() (f uint16) {
	if o.Unbreakable {
		f |= wire.LeaseUnbreakable
	}
	if o.NoWait {
		f |= wire.LeaseNoWait
	}
	return f
}

func leaseInfo(m *wire.LeaseReply) LeaseInfo {
	return LeaseInfo{
		ID: m.Lease, File: m.File, Seq: m.Seq, Range: m.Range, Pieces: m.Pieces, Access: m.Access, Mode: m.Mode,
		Unbreakable: m.Flags&wire.LeaseUnbreakable != 0, State: m.State,
	}
}

// ID returns the lease's number in listings.
func (l *Lease) ID() uint64 { return l.granted.ID }

// Granted returns the lease as it was granted.
func (l *Lease) Granted() LeaseInfo { return l.granted }

// Info returns the lease as it is.
func (l *Lease) Info(ctx context.Context) (LeaseInfo, error) {
	var reply wire.LeaseReply
	if err := l.s.ask(ctx, wire.OpLeaseInfo, &wire.ID{ID: l.granted.ID}, &reply); err != nil {
		return LeaseInfo{}, err
	}
	return leaseInfo(&reply), nil
}

// File returns the handle. Its descriptor becomes readable when an event waits and
// hangs up when the lease has ended; it can be polled, duplicated and passed on as
// any descriptor, and raises SIGIO after F_SETOWN and O_ASYNC. The lease lives until
// the last copy is closed, so do not forget one. Use SyscallConn to get at the
// number: Fd makes the file blocking. When a lease with memory goes on with another server, it has
// another handle.
func (l *Lease) File() *os.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file
}

// swap gives the lease another handle, and returns the one that is not needed any more.
func (l *Lease) swap(f *os.File) (old *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return f
	}
	old, l.file = l.file, f
	return old
}

func (l *Lease) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// ReadEvent waits for the next event, and returns an error that wraps ECONNRESET
// when the lease has ended. Use either it or Events.
func (l *Lease) ReadEvent() (Event, error) {
	var buf [wire.HeaderSize + wire.BreakSize]byte
	for {
		f := l.File()
		n, err := f.Read(buf[:])
		if err == nil {
			return ParseEvent(buf[:n])
		}
		if !l.goesOn(f) {
			return Event{}, hangup(err)
		}
	}
}

// goesOn reports whether a lease whose handle f has hung up has another: its server has
// died, and the next one has given it back. It waits until that is known.
func (l *Lease) goesOn(f *os.File) bool {
	l.s.mu.Lock()
	surviving := l.s.surviving
	l.s.mu.Unlock()
	if !surviving || l.isClosed() {
		return false
	}
	// The end of the server is seen here and there in any order. Who answers this is alive.
	if _, err := l.Info(context.Background()); err != nil {
		return false
	}
	return l.File() != f
}

// ParseEvent decodes a message that was read from a lease's handle.
func ParseEvent(b []byte) (Event, error) {
	hdr, body, err := wire.ParseHeader(b)
	if err != nil {
		return Event{}, err
	}
	if hdr.Op != wire.OpBreak {
		return Event{}, fmt.Errorf("%v on a handle: %w", hdr.Op, syscall.EPROTO)
	}
	var m wire.Break
	if err := m.Decode(body); err != nil {
		return Event{}, err
	}
	ev := Event{Kind: m.Kind, Seq: m.Seq, Change: m.Change, Range: m.Range, Ask: m.Ask, Class: m.Class, Merged: m.Flags&wire.BreakMerged != 0}
	if m.Deadline != 0 {
		ev.Deadline = time.Unix(0, m.Deadline)
	}
	return ev, nil
}

// Events returns the channel of the lease's events. It is closed when the lease has
// ended, or this copy of its handle is closed.
func (l *Lease) Events() <-chan Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events != nil {
		return l.events
	}
	events := make(chan Event)
	l.events = events
	if l.done {
		close(events)
		return events
	}
	// l is open, so Close of the session has not waited for goroutines yet.
	l.s.wg.Go(func() {
		defer close(events)
		for {
			ev, err := l.ReadEvent()
			if err != nil {
				return
			}
			select {
			case events <- ev:
			case <-l.closed:
				return
			}
		}
	})
	return events
}

// Return gives back a range: what a break asks for, or part of it. Mappings of it
// must not be used any more; what was written there is committed first. EBUSY: there
// are pins in the range.
func (l *Lease) Return(ctx context.Context, r Range) error {
	var reply wire.LeaseReply
	return l.s.ask(ctx, wire.OpReturn, &wire.Return{Lease: l.granted.ID, Range: r}, &reply)
}

// Modify changes access, mode and breakability in one step: all or nothing.
// Options.Prepare is not used.
func (l *Lease) Modify(ctx context.Context, o Options) (LeaseInfo, error) {
	var reply wire.LeaseReply
	req := wire.Modify{Lease: l.granted.ID, Access: o.access(), Mode: o.mode(), Flags: o.flags()}
	if err := l.s.ask(ctx, wire.OpModify, &req, &reply); err != nil {
		return LeaseInfo{}, err
	}
	return leaseInfo(&reply), nil
}

// Commit makes what was written into the mapping of a range content of the file, and
// returns when it is durable. The file grows to size, unless that is negative or less
// than it has.
func (l *Lease) Commit(ctx context.Context, r Range, size int64) error {
	return l.s.ask(ctx, wire.OpCommit, &wire.Commit{Lease: l.granted.ID, Range: r, Size: max(size, wire.NoSize)}, &wire.Empty{})
}

// Release gives back all of the lease, waits until that is done, and closes the
// handle. With EBUSY, because of pins, nothing has happened: unpin, or Close and
// leave the lease to the contexts that have them.
func (l *Lease) Release(ctx context.Context) error {
	err := l.Return(ctx, all)
	if err != nil && !errors.Is(err, syscall.ENOENT) { // revoked, or released before
		return err
	}
	return l.Close()
}

// Close closes this copy of the handle. If it was the last, the lease ends, or is
// left to the contexts that have pins in it.
func (l *Lease) Close() error {
	l.mu.Lock()
	if l.done {
		l.mu.Unlock()
		return nil
	}
	l.done = true
	close(l.closed)
	file := l.file
	l.mu.Unlock()
	l.s.disown(l)
	return errors.Join(file.Close(), l.memory.unref())
}
