package local

import (
	"context"
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

// A session is one client: a connection that said HELLO.
type session struct {
	srv  *Server
	conn *net.UnixConn
	raw  syscall.RawConn
	user *user
	peer peer
	id   layout.SessionID

	ctx    context.Context // done when the session ends
	cancel context.CancelFunc
	wg     sync.WaitGroup // of requests that wait, and of the stream of events

	inFlight int // guarded by Server.mu

	wmu  sync.Mutex
	send *packet.Sender
	out  []byte

	mu sync.Mutex
	// closed: nothing is added any more. What follows is guarded by mu.
	closed   bool
	leases   map[uint64]*handle
	contexts map[uint64]*handle
	// coming are leases and contexts that are being asked for; they count.
	comingLeases, comingContexts int
	waiting                      map[uint32]context.CancelFunc
	admitted                     []admitted
	subscribed                   bool
}

// An admitted process, kept by its pidfd so that its number stays its own.
type admitted struct {
	pid   int32
	pidfd int
	watch *watch
}

// A request is one message of a session that is being answered.
type request struct {
	*session
	ctx    context.Context
	hdr    wire.Header
	body   []byte
	fds    []int
	caller caller
}

// An operation answers requests of one op.
type operation struct {
	handle func(r *request) error
	// waits: it may wait for others or for I/O, so it gets its own goroutine.
	waits bool
}

func operations() map[wire.Op]operation {
	return map[wire.Op]operation{
		wire.OpAcquire:   {(*request).acquire, true},
		wire.OpReturn:    {(*request).giveBack, true},
		wire.OpModify:    {(*request).modify, true},
		wire.OpMap:       {(*request).mapRange, true},
		wire.OpCommit:    {(*request).commit, true},
		wire.OpChange:    {(*request).change, true},
		wire.OpStat:      {(*request).stat, true},
		wire.OpGrow:      {(*request).grow, true},
		wire.OpScrub:     {(*request).scrub, true},
		wire.OpClaim:     {(*request).claim, true},
		wire.OpShare:     {(*request).shareLease, true},
		wire.OpSeize:     {(*request).seize, true},
		wire.OpExpire:    {(*request).expire, true},
		wire.OpDefrag:    {(*request).defrag, true},
		wire.OpEvacuate:  {(*request).evacuate, true},
		wire.OpLimits:    {(*request).limits, false},
		wire.OpPin:       {(*request).pin, true},
		wire.OpUnpin:     {(*request).unpin, true},
		wire.OpWould:     {(*request).would, true},
		wire.OpReclaim:   {(*request).reclaim, false},
		wire.OpRegister:  {(*request).register, false},
		wire.OpAdmit:     {(*request).admit, false},
		wire.OpLeaseInfo: {(*request).leaseInfo, false},
		wire.OpList:      {(*request).list, true},
		wire.OpWho:       {(*request).who, false},
		wire.OpSubscribe: {(*request).subscribe, false},
		wire.OpCancel:    {(*request).cancelRequest, false},
	}
}

// serveSession answers requests until the connection or its process ends. first is
// the HELLO.
func (s *Server) serveSession(ctx context.Context, c *connection, first *message) error {
	ses := &session{
		srv: s, conn: c.conn, raw: c.raw, user: c.user, peer: c.peer,
		leases: make(map[uint64]*handle), contexts: make(map[uint64]*handle), waiting: make(map[uint32]context.CancelFunc),
	}
	ses.ctx, ses.cancel = context.WithCancel(ctx)
	defer ses.cancel()
	ses.send = packet.NewSender(c.raw, c.conn.SetWriteDeadline, s.cfg.Limits.WriteTime)
	if err := s.addSession(ses); err != nil {
		return ses.refuse(first, err)
	}
	defer s.removeSession(ses)
	if err := ses.hello(first); err != nil {
		return ses.refuse(first, err)
	}
	defer ses.finish()
	if err := ses.welcome(first); err != nil {
		return err
	}
	// Death of the process ends the session even if others have copies of it.
	w, err := s.hub.add(c.peer.pidfd, unix.EPOLLIN, func(uint32) { ses.kill() })
	if err != nil {
		return err
	}
	defer w.remove()
	return ses.loop(c.recv)
}

// kill ends the session from any goroutine.
func (s *session) kill() {
	s.cancel()
	// Wakes reader and writer. The errors would be that it is closed already.
	_ = s.conn.CloseRead()
	_ = s.conn.SetWriteDeadline(time.Unix(1, 0))
}

// refuse answers a first message that did not make a session.
func (s *session) refuse(m *message, err error) error {
	h, _, _ := wire.ParseHeader(m.data)
	return errors.Join(err, s.replyError(h, err))
}

// hello opens the session that the message m asks for.
func (s *session) hello(m *message) error {
	_, body, err := wire.ParseHeader(m.data)
	if err != nil {
		return err
	}
	var hello wire.Hello
	if err := hello.Decode(body); err != nil {
		return err
	}
	if hello.Flags&wire.HelloShared != 0 {
		if err := s.share(); err != nil {
			return err
		}
	}
	id, err := s.srv.cfg.Arbiter.OpenSession(arbiter.SessionInfo{
		Kind: "local", Name: programOf(s.peer.pid), PID: s.peer.pid, UID: s.peer.uid, GID: s.peer.gid, Start: startOf(s.peer.pid),
		Shared: hello.Flags&wire.HelloShared != 0,
	})
	s.srv.mu.Lock() // who expires it looks for it by name
	s.id = id
	s.srv.mu.Unlock()
	return err
}

// welcome answers the HELLO m.
func (s *session) welcome(m *message) error {
	h, _, err := wire.ParseHeader(m.data)
	if err != nil {
		return err
	}
	limits := s.srv.cfg.Limits
	return s.reply(h, &wire.HelloReply{
		Version: wire.Version, MaxMessage: wire.MaxMessage, Session: uint64(s.id), BreakTime: int64(s.srv.cfg.BreakTime),
		MaxLeases: uint32(limits.Leases), MaxRequests: uint32(limits.Requests),
	})
}

// share makes the kernel tell by pidfd who sends a message.
func (s *session) share() error {
	var err error
	ctl := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1)
	})
	if errors.Is(err, syscall.ENOPROTOOPT) {
		err = fmt.Errorf("this kernel cannot tell who shares a connection: %w", syscall.EOPNOTSUPP)
	}
	return errors.Join(err, ctl)
}

// loop answers messages until the connection ends, which alone is no error.
func (s *session) loop(recv *receiver) error {
	ops := operations()
	var lost error
	err := recv.serve(func(m *message) error {
		if lost = s.take(m, ops); lost != nil { // always: it owns the message's descriptors
			return lost
		}
		return s.ctx.Err()
	})
	if lost != nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || s.ctx.Err() != nil {
		return lost
	}
	return err
}

// take answers a message, or has it answered. An error is one of the connection.
func (s *session) take(m *message, ops map[wire.Op]operation) error {
	r := &request{session: s, ctx: s.ctx, fds: m.fds}
	handle, err := s.prepare(r, m, ops)
	if m.pidfd >= 0 {
		err = errors.Join(err, unix.Close(m.pidfd))
	}
	switch {
	case s.srv.isKnock(m.data):
		err = r.closeFDs() // somebody took this for a handle
	case err != nil:
		err = r.fail(err)
	case handle.waits:
		err = s.spawn(r, handle)
	default:
		err = r.run(handle)
	}
	if err != nil {
		return fmt.Errorf("answer to %v: %w", r.hdr.Op, err)
	}
	return nil
}

// prepare checks the form of a message and the right of its sender to send it.
func (s *session) prepare(r *request, m *message, ops map[wire.Op]operation) (operation, error) {
	hdr, body, err := wire.ParseHeader(m.data)
	r.hdr, r.body = hdr, body
	switch {
	case m.broken != nil:
		return operation{}, m.broken
	case err != nil:
		return operation{}, err
	case hdr.Flags != 0:
		return operation{}, fmt.Errorf("%v: a request has no header flags: %w", hdr.Op, syscall.EINVAL)
	}
	op, ok := ops[hdr.Op]
	if !ok {
		return op, fmt.Errorf("%v is not an operation of a session: %w", hdr.Op, syscall.EOPNOTSUPP)
	}
	if least, most := hdr.Op.Descriptors(); len(m.fds) < least || len(m.fds) > most {
		return op, fmt.Errorf("%v with %d descriptors, takes %d to %d: %w", hdr.Op, len(m.fds), least, most, syscall.EINVAL)
	}
	r.caller, err = s.speaker(m)
	return op, err
}

// spawn answers r on a goroutine of its own.
func (s *session) spawn(r *request, op operation) error {
	s.mu.Lock()
	limit := s.srv.cfg.Limits.Requests
	var err error
	if len(s.waiting) >= limit {
		err = fmt.Errorf("limit of %d requests of a session that wait: %w", limit, syscall.EBUSY)
	} else if s.waiting[r.hdr.Request] != nil {
		err = fmt.Errorf("request %d waits already: %w", r.hdr.Request, syscall.EEXIST)
	}
	if err != nil {
		s.mu.Unlock()
		return r.fail(err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.waiting[r.hdr.Request] = cancel
	s.mu.Unlock()

	r.ctx = ctx
	r.body = append([]byte(nil), r.body...)
	r.fds = append([]int(nil), r.fds...)
	s.wg.Go(func() {
		defer cancel()
		if err := r.run(op); err != nil {
			s.srv.cfg.Log.Debug("session is lost", "session", s.id, "op", r.hdr.Op, "err", err)
			s.kill()
		}
	})
	return nil
}

// run answers r. An error is one of the connection.
func (r *request) run(op operation) error {
	if err := op.handle(r); err != nil {
		return r.fail(err)
	}
	return nil
}

// answered is called before the answer goes out: the number is free for the
// client's next request as soon as the client knows.
func (r *request) answered() {
	if r.ctx == r.session.ctx {
		return // it did not wait
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, r.hdr.Request)
}

// closeFDs closes the descriptors that came with the request.
func (r *request) closeFDs() error {
	fds := r.fds
	r.fds = nil
	return r.user.dispose(fds)
}

// fail answers r with an error. Descriptors are closed first.
func (r *request) fail(err error) error {
	err = errors.Join(err, r.closeFDs())
	r.answered()
	return r.replyError(r.hdr, err)
}

// done answers r with body.
func (r *request) done(body wire.Body) error {
	r.answered()
	return r.connectionError(r.reply(r.hdr, body))
}

// lost marks an error of the connection, which no answer can report.
type lost struct{ error }

func (r *request) connectionError(err error) error {
	if err != nil {
		return lost{err}
	}
	return nil
}

func (s *session) reply(h wire.Header, body wire.Body) error {
	return s.replyPart(wire.Header{Op: h.Op, Flags: wire.FlagReply, Request: h.Request}, body, nil)
}

func (s *session) replyPart(h wire.Header, body wire.Body, oob []byte) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.out = wire.Append(s.out[:0], h, body)
	return s.send.Send(s.out, oob)
}

func (s *session) replyError(h wire.Header, err error) error {
	var l lost
	if errors.As(err, &l) {
		return l.error
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.out = wire.AppendError(s.out[:0], h, errnoOf(err), err.Error())
	return s.send.Send(s.out, nil)
}

// errnoOf returns the errno that an error carries.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && errno != 0:
		return errno
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, context.DeadlineExceeded):
		return syscall.EAGAIN
	case errors.Is(err, os.ErrNotExist):
		return syscall.ENOENT
	}
	return syscall.EIO
}

// finish ends a session and what it has without another copy.
func (s *session) finish() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
	s.srv.cfg.Arbiter.EndSession(s.id)

	s.mu.Lock()
	var ends []*handle
	for _, h := range s.contexts {
		ends = append(ends, h)
	}
	for _, h := range s.leases {
		ends = append(ends, h)
	}
	leave := s.admitted
	s.admitted = nil
	s.mu.Unlock()
	for _, h := range ends {
		// An attached one lives for as long as its handle has a copy anywhere.
		if !h.attached() {
			h.end()
		}
	}
	for _, a := range leave {
		s.dismiss(a)
	}
}

// forget removes an ended handle.
func (s *session) forget(h *handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.kind == wire.ObjectLease {
		delete(s.leases, h.id)
	} else {
		delete(s.contexts, h.id)
	}
}
