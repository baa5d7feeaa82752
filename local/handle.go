package local

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/wire"
)

// A handle is a lease or a context of a session, and the connection that stands
// for it once a client has attached one.
type handle struct {
	srv  *Server
	kind wire.ObjectKind
	id   uint64
	// file and writable are what the data descriptor proved; lease only.
	file     extent.Ino
	writable bool
	ticket   wire.Ticket // guarded by tickets.mu
	ring     *ring       // of a context that stands for an io_uring

	claim   sync.Mutex // held while the context becomes another session's
	mu      sync.Mutex
	ses     *session // a context's can change
	group   *group   // of a lease that several sessions hold, else nil
	fd      int      // of the connection, -1 before it is attached
	user    *user    // whose connection it is
	watch   *watch   // nil before it is attached
	ended   bool
	revoked bool // the lease was, as a whole
	// pending are breaks that the client has not had room for. When it is full,
	// the newest entry stands for all that follow.
	pending [maxPending]wire.Break
	queued  int
	full    bool // the socket has no room: the hub tells when it has
}

// maxPending bounds what is kept for a holder that does not read.
const maxPending = 4

const (
	watchSilent = unix.EPOLLIN | unix.EPOLLRDHUP
	watchRoom   = watchSilent | unix.EPOLLOUT
)

// Notify implements arbiter.Holder. It does not block.
func (h *handle) Notify(ev arbiter.Event) {
	b, ok := toBreak(ev)
	if !ok {
		return
	}
	revoked := b.Kind == wire.BreakRevoked && h.isGone(ev.Lease)
	g := h.groupOf()
	if g == nil {
		h.tell(b, revoked)
		return
	}
	for _, m := range g.all() {
		m.tell(b, revoked)
	}
}

// tell tells of a break.
func (h *handle) tell(b wire.Break, revoked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	h.push(b)
	h.revoked = h.revoked || revoked
	h.flush()
	h.settle()
}

// isGone reports whether nothing is left of the lease after a part of it was cut. It
// takes the number from the event, which may come before Acquire returns.
func (h *handle) isGone(id layout.LeaseID) bool {
	_, err := h.srv.cfg.Arbiter.Lease(id)
	return err != nil && gone(err)
}

// settle hangs up the handle of a lease that is gone, so that whoever waits on it
// knows. Who has not read so much that the last break has no room is told by that
// alone. Before it is attached there is nobody to tell: its ticket is good for what is
// pending, or expires. h.mu is held.
func (h *handle) settle() {
	if h.revoked && h.fd >= 0 {
		h.finish()
	}
}

func toBreak(ev arbiter.Event) (wire.Break, bool) {
	b := wire.Break{Lease: uint64(ev.Lease), Seq: ev.LeaseSeq, Change: uint64(ev.Change), Range: extent.Range{End: extent.Inf}}
	switch ev.Kind {
	case arbiter.EventBreak:
		b.Kind = wire.BreakAsked
	case arbiter.EventCut:
		b.Kind = wire.BreakCutting
	case arbiter.EventRevoke:
		b.Kind = wire.BreakRevoked
	default:
		return b, false
	}
	if ev.Range != nil {
		b.Range = ev.Range.Extent()
	}
	if ev.Deadline != nil {
		b.Deadline = ev.Deadline.UnixNano()
	}
	b.Class = wire.Class(ev.Class)
	b.Ask = wire.Ask(ev.Ask)
	return b, true
}

// push queues b, merging it into the newest entry when the queue is full.
func (h *handle) push(b wire.Break) {
	if h.queued < maxPending {
		h.pending[h.queued] = b
		h.queued++
		return
	}
	last := &h.pending[maxPending-1]
	b.Range = extent.Range{Off: min(last.Range.Off, b.Range.Off), End: max(last.Range.End, b.Range.End)}
	if last.Deadline != 0 && (b.Deadline == 0 || last.Deadline < b.Deadline) {
		b.Deadline = last.Deadline
	}
	b.Kind = max(last.Kind, b.Kind)
	b.Class = max(last.Class, b.Class)
	b.Seq = max(last.Seq, b.Seq)
	switch {
	case last.Ask == wire.AskDropPins:
		b.Ask = wire.AskDropPins // more than all else
	case last.Ask == wire.AskReturn && b.Ask != wire.AskDropPins:
		b.Ask = wire.AskReturn // more than a downgrade
	}
	b.Flags |= wire.BreakMerged
	*last = b
}

// flush sends what is pending as far as there is room. h.mu is held.
func (h *handle) flush() {
	if h.fd < 0 {
		return
	}
	var buf [wire.HeaderSize + wire.BreakSize]byte
	for h.queued > 0 {
		p := wire.Append(buf[:0], wire.Header{Op: wire.OpBreak}, &h.pending[0])
		err := unix.Sendmsg(h.fd, p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			h.wantRoom(true)
			return
		case err != nil: // gone: the hub tells
			h.queued = 0
			return
		}
		copy(h.pending[:], h.pending[1:h.queued])
		h.queued--
	}
	h.wantRoom(false)
}

func (h *handle) wantRoom(want bool) {
	if h.full == want {
		return
	}
	h.full = want
	events := uint32(watchSilent)
	if want {
		events = watchRoom
	}
	if err := h.watch.modify(events); err != nil {
		h.srv.cfg.Log.Error("handle is deaf", "kind", h.kind, "id", h.id, "err", err)
	}
}

// ready is called by the hub. A handle only listens: a client that sends on it has
// lost it, as one that hangs up has. What it sent is never received, so that
// descriptors in it cost nothing.
func (h *handle) ready(events uint32) {
	h.mu.Lock()
	ended := h.ended
	quiet := events&^(unix.EPOLLOUT|unix.EPOLLIN) == 0 && (events&unix.EPOLLIN == 0 || h.unknock())
	if quiet && !ended {
		h.flush()
	}
	h.mu.Unlock()
	if !quiet {
		h.end()
	}
}

// attach makes fd the handle's connection and answers the request. From now it owns fd and u's count.
func (h *handle) attach(fd int, u *user, request uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return syscall.ENOENT
	}
	// One break is small; the kernel's default would let a holder that never reads
	// have hundreds of them in the kernel.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096); err != nil {
		return err
	}
	// The answer comes before the first break on this connection.
	p := wire.Append(nil, wire.Header{Op: wire.OpAttach, Flags: wire.FlagReply, Request: request}, &wire.AttachReply{Kind: h.kind, ID: h.id})
	if err := unix.Sendmsg(fd, p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return err
	}
	w, err := h.srv.hub.add(fd, watchSilent, h.ready)
	if err != nil {
		return err
	}
	h.fd, h.user, h.watch = fd, u, w
	h.flush()
	h.settle()
	return nil
}

// end ends the handle: its object is closed, as by the last close of the last copy.
// It returns at once.
func (h *handle) end() {
	h.mu.Lock()
	h.finish()
	h.mu.Unlock()
	h.srv.tickets.revoke(h)
}

// finish is end, but for the ticket. h.mu is held.
func (h *handle) finish() {
	if h.ended {
		return
	}
	h.ended = true
	// Before the hub forgets it: endAll either finds it there and waits for mu, or
	// drain waits for the goroutine. The arbiter, which may call this, waits for neither.
	h.srv.wg.Add(1)
	if h.watch != nil {
		h.watch.remove()
	}
	go func() {
		defer h.srv.wg.Done()
		h.release()
	}()
}

// release closes what an ended handle has.
func (h *handle) release() {
	h.mu.Lock()
	fd, u := h.fd, h.user
	h.mu.Unlock()
	if fd >= 0 {
		// Frees what the client sent, which can be descriptors of anything.
		err := u.dispose([]int{fd})
		h.srv.disconnect(u)
		h.srv.removeHandle(h)
		if err != nil {
			h.srv.cfg.Log.Error("handle", "id", h.id, "err", err)
		}
	}
	h.closeObject(h.srv.cleanup)
}

// closeObject tells the arbiter and the session that the object has no handle.
func (h *handle) closeObject(ctx context.Context) {
	var err error
	ses := h.session()
	if h.kind == wire.ObjectLease {
		if g := h.groupOf(); g != nil {
			g.remove(h)
		}
		err = h.srv.cfg.Arbiter.LeaveLease(ctx, ses.id, layout.LeaseID(h.id))
	} else {
		err = h.srv.cfg.Arbiter.CloseContext(ctx, layout.ContextID(h.id))
	}
	// It may have been returned or revoked before.
	if err != nil && !gone(err) {
		h.srv.cfg.Log.Error("object was not closed", "kind", h.kind, "id", h.id, "err", err)
	}
	ses.forget(h)
}

// attached reports whether a client has taken the handle.
func (h *handle) attached() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fd >= 0
}

// gone reports whether err says that the object does not exist any more.
func gone(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EIDRM)
}
