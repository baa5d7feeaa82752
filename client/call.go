package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/wire"
)

// A call is a request that is not answered yet.
type call struct {
	op    wire.Op
	parts []part
	err   error
	ready chan struct{}
	// abandoned: its caller has stopped waiting; what it got is given back.
	abandoned bool
}

// expect makes a call, so that its answer is known when it comes. It is alone if no
// other is unanswered: then nothing can have come that nobody has read.
func (s *Session) expect(op wire.Op) (id uint32, c *call, alone bool, err error) {
	c = &call{op: op, ready: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, nil, false, s.err
	}
	alone = len(s.calls) == 0
	s.next++
	if s.next == 0 {
		s.next++
	}
	s.calls[s.next] = c
	return s.next, c, alone, nil
}

// unsent ends a call whose request was not sent, and explains err.
func (s *Session) unsent(id uint32, op wire.Op, err error) error {
	err = hangup(err)
	s.mu.Lock()
	delete(s.calls, id)
	lost := s.surviving && errors.Is(err, syscall.ECONNRESET)
	s.mu.Unlock()
	if lost {
		s.fail(err) // before its end is read
	}
	return fmt.Errorf("%v: %w", op, err)
}

// begin sends a request.
func (s *Session) begin(op wire.Op, body wire.Body, fds []int) (uint32, *call, error) {
	id, c, _, err := s.expect(op)
	if err != nil {
		return 0, nil, err
	}
	s.wmu.Lock()
	s.out = wire.Append(s.out[:0], wire.Header{Op: op, Request: id}, body)
	var control []byte
	if len(fds) > 0 {
		control = unix.UnixRights(fds...)
	}
	err = s.send.Send(s.out, control)
	s.wmu.Unlock()
	if err != nil {
		return 0, nil, s.unsent(id, op, err)
	}
	return id, c, nil
}

// tryBegin is begin without descriptors that does not wait for room, nor for another who
// does: then the error is EAGAIN.
func (s *Session) tryBegin(op wire.Op, body wire.Body) (id uint32, c *call, alone bool, err error) {
	id, c, alone, err = s.expect(op)
	if err != nil {
		return 0, nil, false, err
	}
	err = syscall.EAGAIN
	if s.wmu.TryLock() {
		s.out = wire.Append(s.out[:0], wire.Header{Op: op, Request: id}, body)
		err = s.send.Try(s.out, nil)
		s.wmu.Unlock()
	}
	if err != nil {
		return 0, nil, false, s.unsent(id, op, err)
	}
	return id, c, alone, nil
}

// call sends a request and waits for the whole answer.
func (s *Session) call(ctx context.Context, op wire.Op, body wire.Body) ([]part, error) {
	for {
		if err := s.up(ctx); err != nil {
			return nil, err
		}
		parts, err := s.callNow(ctx, op, body)
		if err == nil || !s.again(op, err) {
			return parts, err
		}
	}
}

func (s *Session) callNow(ctx context.Context, op wire.Op, body wire.Body) ([]part, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var id uint32
	var c *call
	err := error(syscall.EAGAIN)
	select {
	case s.reading <- struct{}{}:
		id, c, err = s.converse(ctx, op, body)
		<-s.reading
	default:
	}
	if errors.Is(err, syscall.EAGAIN) {
		id, c, err = s.begin(op, body, nil)
	}
	if err != nil {
		return nil, err
	}
	return s.wait(ctx, id, c)
}

// converse sends a request and reads one message, mostly its answer, in a way that costs
// less than one after the other. EAGAIN: nothing was sent. The caller has the right to
// read, so he must not wait for anything but a message: the server may be waiting for
// its answers to be read before it reads again.
func (s *Session) converse(ctx context.Context, op wire.Op, body wire.Body) (id uint32, c *call, err error) {
	defer s.wakeReader(ctx)()
	err = syscall.EAGAIN
	s.readOne(func() (alone, asked bool) {
		id, c, alone, err = s.tryBegin(op, body)
		return alone, err == nil
	})
	return id, c, err
}

// wakeReader makes the reader look up when ctx is done, until stop is called. It can be
// late and wake the next reader, who then clears the deadline.
func (s *Session) wakeReader(ctx context.Context) (stop func() bool) {
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() { _ = s.connection().SetReadDeadline(time.Unix(1, 0)) })
}

// wait waits for the whole answer to a call.
func (s *Session) wait(ctx context.Context, id uint32, c *call) ([]part, error) {
	select {
	case <-c.ready: // mostly: see converse
		return c.result()
	default:
	}
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
	return c.result()
}

// result is what a call that was answered returns.
func (c *call) result() ([]part, error) {
	if c.err != nil {
		return nil, errors.Join(c.err, closeParts(c.parts))
	}
	return c.parts, nil
}

// read reads for everyone until c is answered or ctx is done.
func (s *Session) read(ctx context.Context, c *call) (answered bool) {
	defer s.wakeReader(ctx)()
	for {
		select {
		case <-c.ready:
			return true
		default:
		}
		if ctx.Err() != nil {
			return false
		}
		if !s.readOne(nil) {
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
func (s *Session) ask(ctx context.Context, op wire.Op, body, reply wire.Body) error {
	parts, err := s.call(ctx, op, body)
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
	return s.askWith(ctx, []*os.File{f}, op, body, reply)
}

// askWith is ask with the descriptors of files.
func (s *Session) askWith(ctx context.Context, files []*os.File, op wire.Op, body, reply wire.Body) error {
	parts, err := s.callWith(ctx, files, op, body)
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
	return s.callWith(ctx, []*os.File{f}, op, body)
}

// callWith is call with the descriptors of files.
func (s *Session) callWith(ctx context.Context, files []*os.File, op wire.Op, body wire.Body) ([]part, error) {
	if err := errors.Join(ctx.Err(), s.up(ctx)); err != nil {
		return nil, err
	}
	var id uint32
	var c *call
	err := withNumbers(files, nil, func(fds []int) (err error) {
		id, c, err = s.begin(op, body, fds)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%v: %w", op, err)
	}
	return s.wait(ctx, id, c)
}

// withNumbers calls do with the descriptors of the files, which have to be open until the
// message is sent; then the kernel has them.
func withNumbers(files []*os.File, fds []int, do func(fds []int) error) error {
	if len(files) == 0 {
		return do(fds)
	}
	conn, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	ctl := conn.Control(func(fd uintptr) { err = withNumbers(files[1:], append(fds, int(fd)), do) })
	return errors.Join(ctl, err)
}
