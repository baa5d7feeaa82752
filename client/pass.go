package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"holdfast/wire"
)

// Claim makes a context that was passed to this process the session's own. handle is a
// copy of its handle, and the Context's from then on; id is its number. The session has
// to hold leases that cover every pin of it with enough access: then the pins move to
// these, or nothing has happened and the EPERM names the first range without cover.
func (s *Session) Claim(ctx context.Context, id uint64, handle *os.File) (*Context, error) {
	if err := s.askAbout(ctx, handle, wire.OpClaim, &wire.ID{ID: id}, &wire.Empty{}); err != nil {
		return nil, err
	}
	c := &Context{s: s, id: id, file: handle}
	if err := s.own(c); err != nil {
		return nil, err
	}
	return c, nil
}

// Pins returns the pins of the context, those too that it had when it was claimed.
func (c *Context) Pins(ctx context.Context) ([]*Pin, error) {
	text, err := c.s.List(ctx, ListPins, Filter{Session: c.s.info.Session})
	if err != nil {
		return nil, err
	}
	var list []struct {
		Pin, Context, Lease uint64
		Range               struct{ Offset, Length int64 }
		Access              string
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("list of pins: %w", errors.Join(err, syscall.EPROTO))
	}
	var pins []*Pin
	for _, p := range list {
		if p.Context != c.id {
			continue
		}
		access := Read
		if p.Access == "write" {
			access = Write
		}
		pins = append(pins, c.met(p.Pin, p.Lease, Range{Off: p.Range.Offset, End: p.Range.Offset + p.Range.Length}, access))
	}
	return pins, nil
}

// met returns the pin of the number, which may have come with the context.
func (c *Context) met(id, lease uint64, r Range, a Access) *Pin {
	for _, p := range c.pinned() {
		if p.ID() == id {
			return p
		}
	}
	p := &Pin{s: c.s, context: c, r: r, access: a}
	p.id.Store(id)
	if l := c.s.lease(lease); l != nil {
		p.lease = l
		c.keep(p)
	}
	return p
}

// Share makes the session one of those who hold a lease, where the file's policy on_pass
// is share. handle is a copy of its handle that was passed to this process, and can be
// closed then: the Lease has one of its own. f proves the right to such a lease, as for
// Session.Lease.
//
// All who hold it are told of breaks, and what one of them gives back is given back for
// all: the others get a BreakRevoked for it. The lease ends when all of them are gone.
func (s *Session) Share(ctx context.Context, id uint64, handle, f *os.File) (*Lease, error) {
	var reply wire.LeaseReply
	if err := s.askWith(ctx, []*os.File{handle, f}, wire.OpShare, &wire.ID{ID: id}, &reply); err != nil {
		return nil, err
	}
	return s.hold(ctx, &reply)
}
