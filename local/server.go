package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/internal/packet"
	"holdfast/layout"
	"holdfast/wire"
)

// Server serves the socket.
type Server struct {
	cfg      Config
	uid      uint32 // of this process: an administrator like root
	listener *net.UnixListener
	file     fileID
	hub      *hub
	scanning chan struct{} // a token for looking through /proc
	knock    [16]byte      // how messages begin that this server sends to itself, over a handle
	tickets  *tickets
	wg       sync.WaitGroup  // all goroutines but the hub
	cleanup  context.Context // of what ends objects; outlives the sessions
	stop     context.CancelFunc

	mu sync.Mutex
	// What follows is guarded by mu.
	stopping bool
	users    map[uint32]*user
	sessions map[*session]struct{}
	conns    map[*connection]struct{}
	handles  int                // attached
	objects  map[object]*handle // one attached handle of each
}

// A connection that was accepted: a session, or nothing yet.
type connection struct {
	conn *net.UnixConn
	raw  syscall.RawConn
	recv *receiver
	peer peer
	user *user
}

// New binds the socket and listens. Nobody is served before Serve.
func New(cfg Config) (*Server, error) {
	cfg.complete()
	h, err := newHub()
	if err != nil {
		return nil, err
	}
	l, err := listen(cfg)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	id, err := idOf(cfg.Path)
	if err != nil {
		return nil, errors.Join(err, l.Close(), h.close())
	}
	s := &Server{
		cfg: cfg, uid: uint32(os.Geteuid()), listener: l, file: id, hub: h,
		tickets: newTickets(cfg.Clock, cfg.Limits.TicketTime),
		users:   make(map[uint32]*user), sessions: make(map[*session]struct{}), conns: make(map[*connection]struct{}),
		objects: make(map[object]*handle), scanning: make(chan struct{}, 1),
	}
	_, _ = rand.Read(s.knock[:]) // it never fails
	s.cleanup, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Close removes the socket of a server that is not going to Serve.
func (s *Server) Close() error {
	s.stop()
	return errors.Join(s.listener.Close(), removeOwn(s.cfg.Path, s.file), s.hub.close())
}

// drainTime bounds how long Serve waits at its end for I/O of what it closes.
const drainTime = 30 * time.Second

// Serve serves until ctx is done. Then it removes the socket, ends all sessions and
// handles, and returns when what they held is closed.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.wg.Go(func() { s.tickets.run(ctx) })
	s.awaitFormer(ctx)
	closed := context.AfterFunc(ctx, func() { s.listener.Close() })
	err := s.accept(ctx)
	cancel()
	if closed() {
		err = errors.Join(err, s.listener.Close())
	}
	err = errors.Join(err, removeOwn(s.cfg.Path, s.file))
	s.endAll()
	return errors.Join(err, s.drain(), s.hub.close())
}

// accept accepts connections until ctx is done.
func (s *Server) accept(ctx context.Context) error {
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			s.wg.Go(func() { s.serve(ctx, conn) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM):
			// Those who are connected go on; the next ones wait in the queue.
			s.cfg.Log.Error("cannot accept", "err", err)
			timer := s.cfg.Clock.NewTimer(100 * time.Millisecond)
			select {
			case <-timer.C():
			case <-ctx.Done():
				timer.Stop()
			}
		case errors.Is(err, syscall.ECONNABORTED):
		default:
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// serve serves one connection until it ends or is a handle.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	var counted *user
	defer func() { // when all descriptors are closed
		if counted != nil {
			s.disconnect(counted)
		}
	}()
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	c := &connection{conn: conn, raw: raw, recv: newReceiver(raw)}
	ctl := raw.Control(func(fd uintptr) { c.peer, err = peerOf(int(fd)) })
	if err := errors.Join(ctl, err); err != nil {
		s.cfg.Log.Debug("connection refused", "err", err)
		return
	}
	defer unix.Close(c.peer.pidfd)
	if c.user, err = s.connect(c.peer.uid); err != nil {
		s.refuse(c, wire.Header{}, err)
		return
	}
	counted = c.user
	if !s.track(c) {
		return
	}
	defer s.untrack(c)
	handle, err := s.first(ctx, c)
	if handle {
		counted = nil // the handle's now
	}
	if err != nil {
		s.cfg.Log.Debug("connection ended", "pid", c.peer.pid, "uid", c.peer.uid, "err", err)
	}
}

// first reads the first message of a connection, which says what it becomes. It
// reports whether that is a handle.
func (s *Server) first(ctx context.Context, c *connection) (handle bool, err error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(s.cfg.Limits.HelloTime)); err != nil {
		return false, err
	}
	var m message
	if err := c.recv.receive(&m); err != nil {
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return false, err
	}
	if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
		return false, err
	}
	// A connection says what it is before it has been given a right to send any.
	unasked := len(m.fds) > 0
	if err := c.user.dispose(m.fds); err != nil {
		return false, err
	}
	hdr, body, err := wire.ParseHeader(m.data)
	switch {
	case m.broken != nil:
		err = m.broken
	case err != nil:
	case hdr.Flags != 0:
		err = fmt.Errorf("%v: a request has no header flags: %w", hdr.Op, syscall.EINVAL)
	case unasked:
		err = fmt.Errorf("%v takes no descriptors: %w", hdr.Op, syscall.EINVAL)
	case hdr.Op == wire.OpHello:
		return false, s.serveSession(ctx, c, &m)
	case hdr.Op == wire.OpAttach:
		if err = s.attach(c, hdr, body); err == nil {
			return true, nil
		}
	default:
		err = fmt.Errorf("%v: the first message is HELLO or ATTACH: %w", hdr.Op, syscall.EPROTO)
	}
	s.refuse(c, hdr, err)
	return false, err
}

// refuse answers with an error that ends the connection.
func (s *Server) refuse(c *connection, h wire.Header, err error) {
	out := packet.NewSender(c.raw, c.conn.SetWriteDeadline, s.cfg.Limits.WriteTime)
	if err := out.Send(wire.AppendError(nil, h, errnoOf(err), err.Error()), nil); err != nil {
		s.cfg.Log.Debug("answer is lost", "err", err)
	}
}

// attach makes the connection a handle.
func (s *Server) attach(c *connection, hdr wire.Header, body []byte) error {
	var m wire.Attach
	if err := m.Decode(body); err != nil {
		return err
	}
	h, err := s.tickets.redeem(m.Ticket, func(h *handle) error { return h.session().mayAttach(c.peer) })
	if err != nil {
		return err
	}
	// A descriptor outside the runtime's poller: ten thousand handles need no
	// goroutine each.
	var fd int
	ctl := c.raw.Control(func(raw uintptr) { fd, err = unix.FcntlInt(raw, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(ctl, err); err != nil {
		h.end()
		return err
	}
	if err := h.attach(fd, c.user, hdr.Request); err != nil {
		h.end()
		return errors.Join(err, unix.Close(fd))
	}
	s.addHandle(h)
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping { // endAll may have been here before it was attached
		h.end()
	}
	return nil
}

// mayAttach checks who connects with a ticket of the session: its process, one it
// admitted, or a descendant. The peer lives, so its number is its own.
func (s *session) mayAttach(p peer) error {
	ok := p.uid == s.peer.uid || s.srv.admin(p.uid)
	if ok && p.pid != s.peer.pid && !s.isAdmitted(p.pid) {
		var err error
		if ok, err = s.descends(p.pid); err != nil {
			return fmt.Errorf("process %d: %w", p.pid, errors.Join(err, syscall.EPERM))
		}
	}
	if !ok || !alive(p.pidfd) || !s.lives() {
		return fmt.Errorf("ticket is for process %d of user %d: %w", s.peer.pid, s.peer.uid, syscall.EPERM)
	}
	return nil
}

// lives reports whether the session has not ended. Unlike its own goroutines, others
// must not use its pidfd otherwise: it is closed when the session has ended.
func (s *session) lives() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && alive(s.peer.pidfd)
}

func (s *Server) track(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) untrack(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Stats counts what is open.
func (s *Server) Stats() Stats {
	t := s.tickets.count()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Sessions: len(s.sessions), Handles: s.handles, Tickets: t}
	for _, u := range s.users {
		st.Connections += u.connections
		st.InFlight += u.inFlight
	}
	return st
}

// userOf returns the user of a session, noOwner if there is none.
func (s *Server) userOf(id layout.SessionID) uint32 {
	if id == 0 {
		return noOwner
	}
	for _, info := range s.cfg.Arbiter.Sessions(arbiter.Filter{Session: id}) {
		if info.ID == id {
			return info.UID
		}
	}
	return noOwner
}

// endAll ends all connections and handles.
func (s *Server) endAll() {
	s.mu.Lock()
	s.stopping = true
	var conns []*connection
	for c := range s.conns {
		conns = append(conns, c)
	}
	var sessions []*session
	for ses := range s.sessions {
		sessions = append(sessions, ses)
	}
	for _, u := range s.users {
		for _, l := range u.lingering {
			unix.Close(l.fd)
		}
		u.lingering = nil
	}
	s.mu.Unlock()
	for _, ses := range sessions {
		ses.kill()
	}
	for _, c := range conns {
		// Ends those that have said nothing yet. It may be closed already.
		_ = c.conn.CloseRead()
	}
	for _, w := range s.hub.all() {
		w.ready(unix.EPOLLHUP)
	}
}

// drain waits for all goroutines.
func (s *Server) drain() error {
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	timer := s.cfg.Clock.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C():
		s.cfg.Log.Error("what clients held is not closed in time", "after", drainTime)
		s.stop()
		select {
		case <-done:
		case <-time.After(time.Second):
			// A close that never returns; see user.dispose.
			return fmt.Errorf("some clients' descriptors do not close: %w", syscall.ETIMEDOUT)
		}
	}
	s.stop()
	return nil
}
