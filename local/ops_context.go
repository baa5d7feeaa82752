package local

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/wire"
)

// A registered context implements arbiter.Context: a local program's word is that
// it gives back, its descriptors are its own, so the server cannot fence it other
// than by detaching windows, by which alone it reaches blocks.
type registered struct {
	kind wire.ContextKind
	name string
	can  uint32
}

// Info implements arbiter.Context.
func (c registered) Info() arbiter.ContextInfo {
	return arbiter.ContextInfo{
		Kind: contextNames[c.kind], Name: c.name,
		Can: arbiter.Capabilities{GiveBack: c.can&wire.CapGiveBack != 0, Disassociate: c.can&wire.CapDisassociate != 0, ByWindow: true},
	}
}

func (r *request) register() error {
	var m wire.Register
	if err := m.Decode(r.body); err != nil {
		return err
	}
	name, err := r.verifyContext(m)
	// Only its name is kept: a copy held here would keep the object alive.
	if err := errors.Join(err, r.closeFDs()); err != nil {
		return err
	}
	if err := r.begin(wire.ObjectContext); err != nil {
		return err
	}
	id, err := r.srv.cfg.Arbiter.Register(r.id, registered{m.Kind, name, m.Capabilities})
	h := &handle{srv: r.srv, ses: r.session, kind: wire.ObjectContext, id: uint64(id), fd: -1}
	if m.Kind == wire.ContextIOUring {
		h.ring = ringOf(r.peer.pid, int(m.Number))
	}
	r.add(h, err == nil)
	if err != nil {
		return err
	}
	return r.done(&wire.RegisterReply{Context: uint64(id), Ticket: r.srv.tickets.issue(h), Name: name})
}

func (r *request) pin() error {
	var m wire.Pin
	if err := m.Decode(r.body); err != nil {
		return err
	}
	if _, err := r.lease(m.Lease); err != nil {
		return err
	}
	r.mu.Lock()
	ctx := r.contexts[m.Context]
	r.mu.Unlock()
	if ctx == nil {
		return fmt.Errorf("session %d has no context %d: %w", r.id, m.Context, syscall.ENOENT)
	}
	id, err := r.srv.cfg.Arbiter.Pin(r.ctx, r.id, layout.ContextID(m.Context), layout.LeaseID(m.Lease), m.Range.RoundOut(), toAccess(m.Access))
	if err != nil {
		return err
	}
	return r.done(&wire.ID{ID: uint64(id)})
}

func (r *request) unpin() error {
	var m wire.ID
	if err := m.Decode(r.body); err != nil {
		return err
	}
	if err := r.srv.cfg.Arbiter.Unpin(r.ctx, r.id, layout.PinID(m.ID)); err != nil {
		return err
	}
	return r.done(nil)
}

func (r *request) mapRange() error {
	var m wire.Map
	if err := m.Decode(r.body); err != nil {
		return err
	}
	rng := m.Range.RoundOut()
	if rng.End == extent.Inf {
		return fmt.Errorf("a mapping to infinity: name an end: %w", syscall.EINVAL)
	}
	h, info, err := r.covered(m.Lease, rng, wire.AccessRead)
	if err != nil {
		return err
	}
	write := info.Access == layout.Write
	pieces, err := r.srv.cfg.FS.Map(r.ctx, layout.LeaseID(h.id), h.file, rng, write)
	if err != nil {
		return err
	}
	for len(pieces) > 0 {
		n := partOf(pieces)
		if err := r.sendPieces(pieces[:n], write, n < len(pieces)); err != nil {
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// partOf returns how many of the pieces fit one message.
func partOf(pieces []Piece) int {
	windows := make(map[extent.Segment]struct{}, wire.MaxFDs)
	for i, p := range pieces {
		windows[p.Window.Segment()] = struct{}{}
		if len(windows) > wire.MaxFDs || i == wire.MaxMapPieces {
			return i
		}
	}
	return len(pieces)
}

// sendPieces sends one part of the answer to MAP, with a descriptor for each window
// in it.
func (r *request) sendPieces(pieces []Piece, write, more bool) (err error) {
	reply := wire.MapReply{Access: wire.AccessRead}
	if write {
		reply.Access = wire.AccessWrite
	}
	index := make(map[extent.Segment]uint32, wire.MaxFDs)
	var fds []int
	for _, p := range pieces {
		seg := p.Window.Segment()
		i, ok := index[seg]
		if !ok {
			f, err := p.Window.Open(write)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			i = uint32(len(fds))
			index[seg] = i
			fds = append(fds, int(f.Fd()))
		}
		reply.Pieces = append(reply.Pieces, wire.Piece{FileOff: p.FileOff, Len: p.Len, WindowOff: p.Off, Segment: uint64(seg), FD: i})
	}
	if err := r.srv.reserve(r.session, len(fds)); err != nil {
		return err
	}
	hdr := wire.Header{Op: wire.OpMap, Flags: wire.FlagReply, Request: r.hdr.Request}
	if more {
		hdr.Flags |= wire.FlagMore
	} else {
		r.answered()
	}
	return r.connectionError(r.replyPart(hdr, &reply, unix.UnixRights(fds...)))
}
