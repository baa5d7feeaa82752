package local

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/wire"
)

// Passing: a session that has got a copy of another's handle proves it by sending it
// along. Whether it is one the server finds out by saying something into it, and
// listening at its own end.

// object names what handles stand for.
type object struct {
	kind wire.ObjectKind
	id   uint64
}

// A group is the handles of one lease that several sessions hold, each with its own.
type group struct {
	mu      sync.Mutex
	members []*handle
}

func (g *group) all() []*handle {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.members)
}

func (g *group) add(h *handle) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = append(g.members, h)
}

func (g *group) remove(h *handle) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = slices.DeleteFunc(g.members, func(o *handle) bool { return o == h })
}

// groupOf returns the group of the handle, or nil.
func (h *handle) groupOf() *group {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.group
}

// join makes h one of the handles of the lease of which o is one. It is told of
// breaks from now on.
func (h *handle) join(o *handle) *group {
	o.mu.Lock()
	if o.group == nil {
		o.group = &group{members: []*handle{o}}
	}
	g := o.group
	o.mu.Unlock()
	h.mu.Lock()
	h.group = g
	h.mu.Unlock()
	g.add(h)
	return g
}

// tellOthers tells those who hold the lease too that one of them has given back the
// range; info is the lease as it is now.
func (h *handle) tellOthers(r extent.Range, info arbiter.LeaseInfo) {
	g := h.groupOf()
	if g == nil {
		return
	}
	b := wire.Break{Lease: h.id, Seq: info.Seq, Range: r, Kind: wire.BreakRevoked}
	for _, o := range g.all() {
		if o != h {
			o.tell(b, info.State == layout.StateReleased)
		}
	}
}

// session returns whose the handle is.
func (h *handle) session() *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ses
}

// addHandle counts a handle that was attached, and makes it known by what it is of.
func (s *Server) addHandle(h *handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handles++
	if key := (object{h.kind, h.id}); s.objects[key] == nil {
		s.objects[key] = h
	}
}

// removeHandle undoes addHandle. Where others stand for the same lease, one of them is
// known by it then.
func (s *Server) removeHandle(h *handle) {
	g := h.groupOf()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handles--
	key := object{h.kind, h.id}
	if s.objects[key] != h {
		return
	}
	delete(s.objects, key)
	if g == nil {
		return
	}
	for _, o := range g.all() {
		if o != h {
			s.objects[key] = o
			return
		}
	}
}

// handlesOf returns the handles of an object that may have copies anywhere.
func (s *Server) handlesOf(kind wire.ObjectKind, id uint64) ([]*handle, error) {
	s.mu.Lock()
	h := s.objects[object{kind, id}]
	s.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("no %s %d with a handle: %w", objectNames[kind], id, syscall.ENOENT)
	}
	if g := h.groupOf(); g != nil {
		return g.all(), nil
	}
	return []*handle{h}, nil
}

var objectNames = map[wire.ObjectKind]string{wire.ObjectLease: "lease", wire.ObjectContext: "context"}

const knockSize = 32

// proves reports whether fd is a copy of this handle: what is said into it arrives here.
func (h *handle) proves(fd int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.fd < 0 || !isConnected(fd, h.fd) {
		return false
	}
	var said, heard [knockSize]byte
	copy(said[:], h.srv.knock[:])
	_, _ = rand.Read(said[16:])
	if err := unix.Sendmsg(fd, said[:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return false
	}
	// What is before it in the queue the client has said, who loses the handle for it.
	n, _, err := unix.Recvfrom(h.fd, heard[:], unix.MSG_DONTWAIT|unix.MSG_PEEK|unix.MSG_TRUNC)
	return h.unknock() && err == nil && n == len(said) && heard == said
}

// isConnected reports whether fd can be the other end of a connection to where mine
// was accepted: nobody else shall hear what this server says.
func isConnected(fd, mine int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_UNIX {
		return false
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return false
	}
	to, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	own, err := unix.Getsockname(mine)
	if err != nil {
		return false
	}
	a, ok1 := to.(*unix.SockaddrUnix)
	b, ok2 := own.(*unix.SockaddrUnix)
	return ok1 && ok2 && a.Name == b.Name && a.Name != ""
}

// unknock takes away what this server itself has said into the handle, be it as a proof
// of another, and reports whether nothing else is there to be heard. It is only looked
// at, so that descriptors in it cost nothing. h.mu is held.
func (h *handle) unknock() bool {
	var heard [knockSize]byte
	for h.fd >= 0 && !h.ended {
		n, _, err := unix.Recvfrom(h.fd, heard[:], unix.MSG_DONTWAIT|unix.MSG_PEEK)
		if err != nil {
			return err == syscall.EAGAIN
		}
		if !h.srv.isKnock(heard[:n]) {
			return false
		}
		if _, _, err := unix.Recvfrom(h.fd, heard[:], unix.MSG_DONTWAIT); err != nil {
			return false
		}
	}
	return true
}

// isKnock reports whether the message is one of this server to itself.
func (s *Server) isKnock(b []byte) bool { return len(b) == knockSize && bytes.HasPrefix(b, s.knock[:]) }

// provenHandle returns the handle of the object of which the request's first descriptor
// is a copy.
func (r *request) provenHandle(kind wire.ObjectKind, id uint64) (*handle, error) {
	hs, err := r.srv.handlesOf(kind, id)
	if err != nil {
		return nil, err
	}
	for _, h := range hs {
		if h.proves(r.fds[0]) {
			return h, nil
		}
	}
	return nil, fmt.Errorf("the descriptor is no copy of the handle of %s %d: %w", objectNames[kind], id, syscall.EPERM)
}

// claim makes a context that was passed to the session its own, pins and all.
func (r *request) claim() error {
	var m wire.ID
	if err := m.Decode(r.body); err != nil {
		return err
	}
	h, err := r.provenHandle(wire.ObjectContext, m.ID)
	if err != nil {
		return err
	}
	if err := r.closeFDs(); err != nil {
		return err
	}
	h.claim.Lock()
	defer h.claim.Unlock()
	if h.session() == r.session {
		return r.done(nil)
	}
	if err := r.begin(wire.ObjectContext); err != nil {
		return err
	}
	err = r.srv.cfg.Arbiter.Claim(r.ctx, r.id, layout.ContextID(h.id))
	if err == nil {
		h.adopt(r)
	}
	r.add(h, err == nil)
	if err != nil {
		return err
	}
	if h.isEnded() { // meanwhile, and has been forgotten before it was added
		r.forget(h)
	}
	return r.done(nil)
}

// adopt makes the handle that of r's session.
func (h *handle) adopt(r *request) {
	h.mu.Lock()
	before := h.ses
	h.ses = r.session
	h.mu.Unlock()
	before.forget(h)
}

func (h *handle) isEnded() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// shareLease makes the session one of those who hold a lease whose handle was passed to
// it. It needs the right to such a lease of its own, and gets a handle of its own.
func (r *request) shareLease() error {
	var m wire.ID
	if err := m.Decode(r.body); err != nil {
		return err
	}
	passed, err := r.provenHandle(wire.ObjectLease, m.ID)
	if err != nil {
		return err
	}
	file, err := r.srv.identify(r.fds[1])
	if err != nil {
		return err
	}
	if err := r.closeFDs(); err != nil {
		return err
	}
	info, err := r.srv.cfg.Arbiter.Lease(layout.LeaseID(passed.id))
	if err != nil {
		return err
	}
	if err := r.mayShare(passed, file, info); err != nil {
		return err
	}
	if err := r.begin(wire.ObjectLease); err != nil {
		return err
	}
	h := &handle{srv: r.srv, ses: r.session, kind: wire.ObjectLease, id: passed.id, file: file.ino, writable: file.writable, fd: -1}
	g := h.join(passed)
	info, err = r.srv.cfg.Arbiter.Share(r.ctx, r.id, layout.LeaseID(h.id), r.srv.cfg.OnPass(file.ino))
	if err == nil {
		// It may have become more since it was looked at. From now on nobody alters it.
		if err = r.mayShare(passed, file, info); err != nil {
			err = errors.Join(err, r.srv.cfg.Arbiter.LeaveLease(r.ctx, r.id, layout.LeaseID(h.id)))
		}
	}
	r.add(h, err == nil)
	if err != nil {
		g.remove(h)
		return err
	}
	reply := toLeaseReply(info)
	reply.Ticket = r.srv.tickets.issue(h)
	return r.done(&reply)
}

// mayShare checks the right to the lease as if it was asked for.
func (r *request) mayShare(passed *handle, file dataFile, info arbiter.LeaseInfo) error {
	if file.ino != passed.file {
		return fmt.Errorf("lease %d is not on the file of the data descriptor: %w", passed.id, syscall.EINVAL)
	}
	access := wire.AccessRead
	if info.Access == layout.Write {
		access = wire.AccessWrite
	}
	if err := file.mayHold(access); err != nil || !info.Unbreakable {
		return err
	}
	return r.mayUnbreakable(file.ino, file.writable)
}
