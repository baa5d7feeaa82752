package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/packet"
	"holdfast/wire"
)

// A server that is killed leaves the memory of windows with who has them. So a session with
// such memory does not end with its connection: it waits for the next server, gives the
// memory back, and has its leases, contexts and pins again.

const (
	minRetry = 5 * time.Millisecond
	maxRetry = 500 * time.Millisecond
)

// survive makes the session one that comes back. It has memory from now on.
func (s *Session) survive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.surviving || s.closed || s.err != nil {
		return
	}
	s.surviving = true
	s.wg.Go(s.watch)
}

// up waits while the session is coming back.
func (s *Session) up(ctx context.Context) error {
	s.mu.Lock()
	reviving := s.reviving
	s.mu.Unlock()
	if reviving == nil {
		return nil
	}
	select {
	case <-reviving:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the server is gone, and no other has come: %w", ctx.Err())
	}
}

// again reports whether a request that failed with err can be made once more on a new
// connection: it does no harm if the former server had done it already.
func (s *Session) again(op wire.Op, err error) bool {
	if !errors.Is(err, syscall.ECONNRESET) {
		return false
	}
	switch op {
	case wire.OpCommit, wire.OpLeaseInfo, wire.OpMap, wire.OpList, wire.OpReturn, wire.OpModify:
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reviving != nil
}

// watch has the session come back whenever its connection hangs up, until Close.
func (s *Session) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.wg.Go(func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	for {
		s.awaitHangup(ctx)
		select {
		case s.reading <- struct{}{}:
		case <-ctx.Done():
			s.endRevival(os.ErrClosed)
			return
		}
		for s.readOne(nil) { // what had come before the end
		}
		err := s.revive(ctx)
		<-s.reading
		if err != nil {
			s.endRevival(err)
			return
		}
	}
}

// awaitHangup waits until the connection has ended, whoever reads from it, or ctx is done.
func (s *Session) awaitHangup(ctx context.Context) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		<-ctx.Done() // without it a session cannot come back, and all else works
		return
	}
	_ = unix.SetNonblock(ep, true) // so that the runtime waits for it
	f := os.NewFile(uintptr(ep), "hang-up")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	conn, err := s.connection().SyscallConn()
	if err != nil {
		return
	}
	ctl := conn.Control(func(fd uintptr) {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLRDHUP})
	})
	raw, rawErr := f.SyscallConn()
	if errors.Join(ctl, err, rawErr) != nil {
		return
	}
	_ = raw.Read(func(uintptr) bool {
		var ev [1]unix.EpollEvent
		n, err := unix.EpollWait(ep, ev[:], 0)
		return n > 0 || err != nil && !errors.Is(err, syscall.EINTR)
	})
}

// connection returns the connection that the session has now.
func (s *Session) connection() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file
}

// endRevival ends a session for good.
func (s *Session) endRevival(err error) {
	s.fail(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.surviving = false
	if s.reviving != nil {
		close(s.reviving)
		s.reviving = nil
		close(s.done)
	}
}

// revive tries until there is a server that gives the session back, or none will. It has
// the right to read.
func (s *Session) revive(ctx context.Context) error {
	for wait := minRetry; ; wait = min(2*wait, maxRetry) {
		r := &revived{s: s, files: make(map[any]*os.File), pins: make(map[*Pin]uint64)}
		err := r.run(ctx)
		if err == nil {
			return nil
		}
		r.close()
		var refused *Error
		switch {
		case ctx.Err() != nil:
			return os.ErrClosed
		case errors.Is(err, errNothing):
			return hangup(syscall.ECONNRESET)
		case errors.As(err, &refused) && refused.Errno != syscall.EBUSY && refused.Errno != syscall.EUSERS && refused.Errno != syscall.ENOMEM:
			return fmt.Errorf("the next server does not give the session back: %w (%w)", syscall.ECONNRESET, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return os.ErrClosed
		}
	}
}

// errNothing: no memory is left that could be given back, as after a server that has ended
// in order.
var errNothing = errors.New("nothing to give back")

// revived is what a new server has given back.
type revived struct {
	s     *Session
	file  *os.File // the new connection
	info  ServerInfo
	files map[any]*os.File // new handles, of *Lease and *Context
	pins  map[*Pin]uint64  // their names
}

func (r *revived) close() {
	if r.file != nil {
		r.file.Close()
	}
	for _, f := range r.files {
		f.Close()
	}
}

// run claims everything, and puts it in place.
func (r *revived) run(ctx context.Context) error {
	leases, contexts := r.s.survivors()
	windows := make(map[*Lease]map[uint64]int)
	defer func() {
		for _, w := range windows {
			for _, fd := range w {
				unix.Close(fd)
			}
		}
	}()
	for _, l := range leases {
		if w := l.memory.windows(); len(w) > 0 {
			windows[l] = w
		}
	}
	if len(windows) == 0 {
		return errNothing
	}
	if err := r.connect(ctx); err != nil {
		return err
	}
	old := r.s.Info().Session
	if _, err := r.claim(ctx, &wire.Reclaim{Kind: wire.ReclaimSession, Object: old}, -1); err != nil {
		return err
	}
	for _, l := range leases {
		if err := r.lease(ctx, l, windows[l]); err != nil {
			return err
		}
	}
	for _, c := range contexts {
		if err := r.context(ctx, c); err != nil {
			return err
		}
	}
	if _, err := r.claim(ctx, &wire.Reclaim{Kind: wire.ReclaimDone}, -1); err != nil {
		return err
	}
	return r.put(old)
}

func (r *revived) connect(ctx context.Context) (err error) {
	s := r.s
	if r.file, err = connect(ctx, s.socket); err != nil {
		return err
	}
	hello := wire.Hello{Version: wire.Version, Flags: s.flags}
	var reply wire.HelloReply
	if err := exchange(ctx, r.file, wire.OpHello, &hello, &reply); err != nil {
		return err
	}
	r.info = serverInfo(&reply)
	return nil
}

// claim asks for one thing. A refusal that is about that thing alone is no error: it is lost.
func (r *revived) claim(ctx context.Context, m *wire.Reclaim, fd int) (got wire.Reclaimed, err error) {
	err = exchangeWith(ctx, r.file, wire.OpReclaim, m, fd, &got)
	var refused *Error
	if m.Kind != wire.ReclaimSession && m.Kind != wire.ReclaimDone && errors.As(err, &refused) {
		return wire.Reclaimed{}, nil
	}
	return got, err
}

// lease claims a lease with its windows.
func (r *revived) lease(ctx context.Context, l *Lease, windows map[uint64]int) error {
	var ticket wire.Ticket
	for _, seg := range slices.Sorted(maps.Keys(windows)) {
		got, err := r.claim(ctx, &wire.Reclaim{Kind: wire.ReclaimWindow, Object: seg, Lease: l.ID()}, windows[seg])
		if err != nil {
			return err
		}
		if got.Ticket != (wire.Ticket{}) {
			ticket = got.Ticket
		}
	}
	if ticket == (wire.Ticket{}) {
		return nil // it is lost
	}
	// One that is the contexts' alone is closed again at once, by swap.
	return r.attach(ctx, l, wire.ObjectLease, l.ID(), ticket)
}

func (r *revived) attach(ctx context.Context, object any, kind wire.ObjectKind, id uint64, t wire.Ticket) error {
	f, err := r.s.attach(ctx, kind, id, t)
	if err == nil {
		r.files[object] = f
	}
	return err
}

// context claims a context with its pins.
func (r *revived) context(ctx context.Context, c *Context) error {
	got, err := r.claim(ctx, &wire.Reclaim{Kind: wire.ReclaimContext, Object: c.id}, -1)
	if err != nil || got.Ticket == (wire.Ticket{}) {
		return err
	}
	if err := r.attach(ctx, c, wire.ObjectContext, c.id, got.Ticket); err != nil {
		return err
	}
	for _, p := range c.pinned() {
		got, err := r.claim(ctx, &wire.Reclaim{
			Kind: wire.ReclaimPin, Access: p.access, Object: p.ID(), Lease: p.lease.ID(), Context: c.id, Range: p.r,
		}, -1)
		if err != nil {
			return err
		}
		r.pins[p] = got.ID
	}
	return nil
}

// put makes what was claimed that of the session. It has the right to read.
func (r *revived) put(session uint64) error {
	conn, err := r.file.SyscallConn()
	if err != nil {
		return err
	}
	r.info.Session = session
	s := r.s
	s.wmu.Lock()
	s.send = packet.NewSender(conn, r.file.SetWriteDeadline, 0)
	s.wmu.Unlock()
	s.in = packet.NewReceiver(conn, wire.MaxMessage, unix.CmsgSpace(4*wire.MaxFDs))
	for p, id := range r.pins {
		p.id.Store(id)
	}
	for object, f := range r.files {
		var old *os.File
		switch o := object.(type) {
		case *Lease:
			old = o.swap(f)
		case *Context:
			old = o.swap(f)
		}
		old.Close() // the new one, if this process has closed its copy meanwhile
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	s.file.Close()
	s.file, s.info, s.err = r.file, r.info, nil
	close(s.reviving)
	s.reviving = nil
	if s.attended {
		s.wg.Go(s.receive)
	}
	return nil
}

// survivors lists what memory could be given back for: open leases, those that only pins
// of open contexts keep, and these contexts.
func (s *Session) survivors() (leases []*Lease, contexts []*Context) {
	s.mu.Lock()
	for h := range s.handles {
		switch h := h.(type) {
		case *Lease:
			leases = append(leases, h)
		case *Context:
			contexts = append(contexts, h)
		}
	}
	s.mu.Unlock()
	for _, c := range contexts {
		for _, p := range c.pinned() {
			if !slices.Contains(leases, p.lease) {
				leases = append(leases, p.lease)
			}
		}
	}
	slices.SortFunc(leases, func(a, b *Lease) int { return int(int64(a.ID()) - int64(b.ID())) })
	slices.SortFunc(contexts, func(a, b *Context) int { return int(int64(a.id) - int64(b.id)) })
	return leases, contexts
}
