package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/packet"
	"holdfast/wire"
)

// SocketAttr is the extended attribute of every file of a mounted volume that
// names the server's socket.
const SocketAttr = "user.holdfast.socket"

// Session is a connection to a server, and what was got through it. It is safe for
// concurrent use.
type Session struct {
	socket string
	file   *os.File
	info   ServerInfo
	wg     sync.WaitGroup
	done   chan struct{} // closed when the connection has ended
	stop   chan struct{} // closed by Close
	events chan event    // nil unless the session is a subscription's

	// reading is the right to read from the connection: who has put something in has
	// it. A caller that waits reads for itself and for the others who wait, which
	// saves a change of goroutine for each call. A goroutine of its own reads only
	// once someone wants to know what comes unasked.
	reading chan struct{}
	in      *packet.Receiver // used with reading
	attend  sync.Once        // starts that goroutine

	wmu  sync.Mutex // held while a request is written
	out  []byte
	send *packet.Sender

	mu      sync.Mutex
	next    uint32
	calls   map[uint32]*call
	handles map[closer]struct{} // open ones, which Close closes
	closed  bool
	err     error // why the connection ended
}

type closer interface{ Close() error }

// A call is a request that is not answered yet.
type call struct {
	op    wire.Op
	parts []part
	err   error
	ready chan struct{}
	// abandoned: its caller has stopped waiting; what it got is given back.
	abandoned bool
}

// DialOptions say how to connect.
type DialOptions struct {
	// Shared lets descendants of this process, and processes that it admits, send
	// requests on the session. Each request then costs more.
	Shared bool
}

// Dial connects to the server at socket and opens a session. ctx bounds that only.
func Dial(ctx context.Context, socket string) (*Session, error) {
	return DialOptions{}.Dial(ctx, socket)
}

// Dial is Dial with options.
func (o DialOptions) Dial(ctx context.Context, socket string) (*Session, error) {
	f, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	hello := wire.Hello{Version: wire.Version}
	if o.Shared {
		hello.Flags = wire.HelloShared
	}
	var reply wire.HelloReply
	if err := exchange(ctx, f, wire.OpHello, &hello, &reply); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Session{
		socket: socket, file: f, send: packet.NewSender(conn, f.SetWriteDeadline, 0), done: make(chan struct{}), stop: make(chan struct{}),
		reading: make(chan struct{}, 1), in: packet.NewReceiver(conn, wire.MaxMessage, unix.CmsgSpace(4*wire.MaxFDs)),
		calls: make(map[uint32]*call), handles: make(map[closer]struct{}),
		info: ServerInfo{
			Session: reply.Session, BreakTime: time.Duration(reply.BreakTime),
			MaxLeases: int(reply.MaxLeases), MaxRequests: int(reply.MaxRequests),
		},
	}, nil
}

// ForFile opens a session with the server of the volume that f is a file of.
func ForFile(ctx context.Context, f *os.File) (*Session, error) {
	socket, err := SocketOf(f)
	if err != nil {
		return nil, err
	}
	return Dial(ctx, socket)
}

// SocketOf returns the socket of the server of the volume that f is a file of.
func SocketOf(f *os.File) (string, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	buf := make([]byte, 4096)
	n := 0
	ctl := conn.Control(func(fd uintptr) { n, err = unix.Fgetxattr(int(fd), SocketAttr, buf) })
	if err := errors.Join(ctl, err); err != nil {
		return "", fmt.Errorf("%s is not on a mounted Holdfast volume: %w", f.Name(), err)
	}
	return string(buf[:n]), nil
}

// Info returns what the server said when the session began.
func (s *Session) Info() ServerInfo { return s.info }

// Done is closed when the session has ended: by Close, or by the server.
func (s *Session) Done() <-chan struct{} {
	s.background()
	return s.done
}

// background starts the goroutine that reads when no caller does.
func (s *Session) background() {
	s.attend.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			s.wg.Go(s.receive)
		}
	})
}

// Close ends the session and closes the handles that were got through it and are
// open in this process. Copies elsewhere live on. It returns when all goroutines of
// the session have ended.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	close(s.stop)
	var handles []closer
	for h := range s.handles {
		handles = append(handles, h)
	}
	s.mu.Unlock()
	var errs error
	for _, h := range handles {
		errs = errors.Join(errs, h.Close())
	}
	errs = errors.Join(errs, s.file.Close())
	s.fail(os.ErrClosed)
	s.wg.Wait()
	return errs
}

// own makes Close close h too; it fails if that has begun.
func (s *Session) own(h closer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	s.handles[h] = struct{}{}
	return nil
}

func (s *Session) disown(h closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, h)
}

// receive reads until the connection ends.
func (s *Session) receive() {
	select {
	case s.reading <- struct{}{}:
	case <-s.done:
		return
	}
	for s.readOne() {
	}
	<-s.reading
}

// readOne reads a message and hands it to whom it is for. It returns false at the end
// of the connection. The caller has the right to read.
func (s *Session) readOne() bool {
	hdr, body, fds, err := receive(s.in)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// A caller has stopped waiting; see wait.
		err = s.file.SetReadDeadline(time.Time{})
		if err == nil {
			return true
		}
		fallthrough
	case err != nil:
		s.fail(hangup(err))
		return false
	}
	p := part{append([]byte(nil), body...), fds}
	switch {
	case hdr.Op == wire.OpEvent && s.events != nil:
		s.deliver(p)
	case hdr.Flags&wire.FlagReply == 0:
		_ = closeParts([]part{p}) // nobody asked
	case hdr.Op == 0 && hdr.Status != 0:
		s.fail(&Error{"session", syscall.Errno(hdr.Status), string(body)})
		return false
	default:
		s.answer(hdr, p)
	}
	return true
}

// answer adds p to the call it answers.
func (s *Session) answer(hdr wire.Header, p part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[hdr.Request]
	if c == nil || c.op != hdr.Op {
		_ = closeParts([]part{p})
		return
	}
	if hdr.Status != 0 {
		c.err = &Error{hdr.Op.String(), syscall.Errno(hdr.Status), string(p.body)}
	} else {
		c.parts = append(c.parts, p)
	}
	if hdr.Flags&wire.FlagMore != 0 {
		return
	}
	delete(s.calls, hdr.Request)
	switch {
	case !c.abandoned:
		c.ready <- struct{}{}
	case s.closed: // the server gives back what an ended session had
		_ = closeParts(c.parts)
	default:
		s.wg.Go(func() { s.undo(c) })
	}
}

// fail ends all calls, once.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if s.closed {
		err = os.ErrClosed
	}
	s.err = err
	for id, c := range s.calls {
		delete(s.calls, id)
		if c.abandoned {
			_ = closeParts(c.parts)
			continue
		}
		c.err = err
		c.ready <- struct{}{}
	}
	close(s.done)
}

// begin sends a request.
func (s *Session) begin(op wire.Op, body wire.Body, fds []int) (uint32, *call, error) {
	c := &call{op: op, ready: make(chan struct{}, 1)}
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return 0, nil, s.err
	}
	s.next++
	if s.next == 0 {
		s.next++
	}
	id := s.next
	s.calls[id] = c
	s.mu.Unlock()

	s.wmu.Lock()
	s.out = wire.Append(s.out[:0], wire.Header{Op: op, Request: id}, body)
	var control []byte
	if len(fds) > 0 {
		control = unix.UnixRights(fds...)
	}
	err := s.send.Send(s.out, control)
	s.wmu.Unlock()
	if err != nil {
		err = hangup(err)
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
		return 0, nil, fmt.Errorf("%v: %w", op, err)
	}
	return id, c, nil
}

// call sends a request and waits for the whole answer.
func (s *Session) call(ctx context.Context, op wire.Op, body wire.Body, fds ...int) ([]part, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	id, c, err := s.begin(op, body, fds)
	if err != nil {
		return nil, err
	}
	return s.wait(ctx, id, c)
}

// wait waits for the whole answer to a call.
func (s *Session) wait(ctx context.Context, id uint32, c *call) ([]part, error) {
	select {
	case <-c.ready:
	case s.reading <- struct{}{}:
		answered := s.read(ctx, c)
		<-s.reading
		if !answered && s.abandon(id, c) {
			return nil, fmt.Errorf("%v: %w", c.op, ctx.Err())
		}
		if !answered {
			<-c.ready
		}
	case <-ctx.Done():
		if s.abandon(id, c) {
			return nil, fmt.Errorf("%v: %w", c.op, ctx.Err())
		}
		<-c.ready // it was answered at the same time
	}
	if c.err != nil {
		return nil, errors.Join(c.err, closeParts(c.parts))
	}
	return c.parts, nil
}

// read reads for everyone until c is answered or ctx is done.
func (s *Session) read(ctx context.Context, c *call) (answered bool) {
	if ctx.Done() != nil {
		// It can fire late and hit the next reader, who then clears the deadline.
		defer context.AfterFunc(ctx, func() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) })()
	}
	for {
		select {
		case <-c.ready:
			return true
		default:
		}
		if ctx.Err() != nil {
			return false
		}
		if !s.readOne() {
			<-c.ready // the end of the connection answers all calls
			return true
		}
	}
}

// abandon stops waiting for a call. The server is told so, and what it grants
// nevertheless is given back when its answer comes.
func (s *Session) abandon(id uint32, c *call) bool {
	s.mu.Lock()
	if s.calls[id] != c {
		s.mu.Unlock()
		return false
	}
	c.abandoned = true
	s.mu.Unlock()
	// Someone must see the answer that comes too late.
	s.background()
	if _, cancel, err := s.begin(wire.OpCancel, &wire.Cancel{Request: id}, nil); err == nil {
		s.mu.Lock()
		cancel.abandoned = true
		s.mu.Unlock()
	}
	return true
}

// undo gives back what an abandoned call got.
func (s *Session) undo(c *call) {
	if c.op == wire.OpAcquire && c.err == nil && len(c.parts) == 1 {
		var got wire.LeaseReply
		if got.Decode(c.parts[0].body) == nil {
			// If it fails, its ticket expires and the server ends the lease.
			_, _, _ = s.begin(wire.OpReturn, &wire.Return{Lease: got.Lease, Range: all}, nil)
		}
	}
	_ = closeParts(c.parts)
}

var all = Range{Off: 0, End: Inf}

// ask is call for an answer of one part.
func (s *Session) ask(ctx context.Context, op wire.Op, body, reply wire.Body, fds ...int) error {
	parts, err := s.call(ctx, op, body, fds...)
	if err != nil {
		return err
	}
	if len(parts) != 1 || len(parts[0].fds) != 0 {
		return errors.Join(fmt.Errorf("%v: answer of %d parts: %w", op, len(parts), syscall.EPROTO), closeParts(parts))
	}
	return reply.Decode(parts[0].body)
}

// askAbout is ask with the descriptor of a file.
func (s *Session) askAbout(ctx context.Context, f *os.File, op wire.Op, body, reply wire.Body) error {
	parts, err := s.callAbout(ctx, f, op, body)
	if err != nil {
		return err
	}
	if len(parts) != 1 || len(parts[0].fds) != 0 {
		return errors.Join(fmt.Errorf("%v: answer of %d parts: %w", op, len(parts), syscall.EPROTO), closeParts(parts))
	}
	return reply.Decode(parts[0].body)
}

// callAbout is call with the descriptor of a file.
func (s *Session) callAbout(ctx context.Context, f *os.File, op wire.Op, body wire.Body) ([]part, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", op, err)
	}
	var id uint32
	var c *call
	// The descriptor has to be open until the message is sent; then the kernel has it.
	ctl := conn.Control(func(fd uintptr) { id, c, err = s.begin(op, body, []int{int(fd)}) })
	if err := errors.Join(ctl, err); err != nil {
		return nil, fmt.Errorf("%v: %w", op, err)
	}
	return s.wait(ctx, id, c)
}
