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
	flags  uint32
	file   *os.File   // guarded by mu
	info   ServerInfo // guarded by mu
	wg     sync.WaitGroup
	done   chan struct{} // closed when the connection has ended
	stop   chan struct{} // closed by Close
	events chan event    // nil unless the session is a subscription's

	// reading is the right to read from the connection: who has put something in has
	// it. A caller that waits reads for itself and for the others who wait, which
	// saves a change of goroutine for each call; see converse for what else it saves. A
	// goroutine of its own reads only once someone wants to know what comes unasked.
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

	attended  bool          // a goroutine reads
	surviving bool          // it comes back after the end of a server; see revive.go
	reviving  chan struct{} // not nil while it does; closed when that is over
}

type closer interface{ Close() error }

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
		socket: socket, flags: hello.Flags, file: f, send: packet.NewSender(conn, f.SetWriteDeadline, 0), done: make(chan struct{}), stop: make(chan struct{}),
		reading: make(chan struct{}, 1), in: packet.NewReceiver(conn, wire.MaxMessage, unix.CmsgSpace(4*wire.MaxFDs)),
		calls: make(map[uint32]*call), handles: make(map[closer]struct{}),
		info: serverInfo(&reply),
	}, nil
}

func serverInfo(m *wire.HelloReply) ServerInfo {
	return ServerInfo{
		Session: m.Session, BreakTime: time.Duration(m.BreakTime), MaxLeases: int(m.MaxLeases), MaxRequests: int(m.MaxRequests),
	}
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
func (s *Session) Info() ServerInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

// Done is closed when the session has ended: by Close, or by the server. One that has memory of
// files does not end when its server is killed: it goes on with the next one, and until
// then requests wait.
func (s *Session) Done() <-chan struct{} {
	s.background()
	return s.done
}

// background starts the goroutine that reads when no caller does.
func (s *Session) background() {
	s.attend.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.attended = true
		if !s.closed && s.err == nil {
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
	errs = errors.Join(errs, s.connection().Close())
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

// lease returns the lease of the number that the session has a handle of, nil if there is none.
func (s *Session) lease(id uint64) *Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := range s.handles {
		if l, ok := h.(*Lease); ok && l.ID() == id {
			return l
		}
	}
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
	for s.readOne(nil) {
	}
	<-s.reading
}

// readOne reads a message, after asking for it unless ask is nil, and hands it to whom it
// is for. It returns false at the end of the connection. The caller has the right to read.
func (s *Session) readOne(ask func() (alone, asked bool)) bool {
	hdr, body, fds, err := receive(s.in, ask)
	switch {
	case errors.Is(err, packet.ErrUnasked):
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		// A caller has stopped waiting; see wait.
		err = s.connection().SetReadDeadline(time.Time{})
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
	if s.surviving && !s.closed {
		s.reviving = make(chan struct{})
		return
	}
	close(s.done)
}
