package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"holdfast/wire"
)

// ChangeOptions say what a change does about those in its way.
type ChangeOptions struct {
	OnHold OnHold
	// DropOwnPins drops what the process itself has pinned in the range, in one step with the change, if that is not refused for
	// another reason. Else own pins are EDEADLK.
	DropOwnPins bool
	// Wait bounds how long it waits. Zero: for as long as a break may take.
	Wait time.Duration
}

// Truncate sets the size of f as truncate(2) does, but may wait for longer than
// a call through the mount can: it holds no lock of the kernel. f must be open for
// writing.
func (s *Session) Truncate(ctx context.Context, f *os.File, size int64, o ChangeOptions) error {
	return s.change(ctx, f, wire.ChangeTruncate, Range{Off: size, End: Inf}, o)
}

// Punch makes a hole of the range, as Truncate sets a size.
func (s *Session) Punch(ctx context.Context, f *os.File, r Range, o ChangeOptions) error {
	return s.change(ctx, f, wire.ChangePunch, r, o)
}

// Fallocate alters the blocks of a range as fallocate(2) with the mode of that name
// does, also the ones that the kernel does not pass to a mount: Punch, AllocateRange and
// ZeroRange (both let the file grow), Collapse, Insert, Unshare. The rest is as for
// Truncate.
func (s *Session) Fallocate(ctx context.Context, f *os.File, k ChangeKind, r Range, o ChangeOptions) error {
	if k == wire.ChangeTruncate {
		return fmt.Errorf("fallocate: that is no such change: %w", syscall.EINVAL)
	}
	return s.change(ctx, f, k, r, o)
}

func (s *Session) change(ctx context.Context, f *os.File, k ChangeKind, r Range, o ChangeOptions) error {
	if r.Empty() || r.Off < 0 || o.Wait < 0 {
		return fmt.Errorf("change of %v: %w", r, syscall.EINVAL)
	}
	m := wire.Change{Kind: k, OnHold: o.OnHold, Range: r, Wait: int64(o.Wait)}
	if o.DropOwnPins {
		m.Flags |= wire.ChangeDropOwn
	}
	return s.askAbout(ctx, f, wire.OpChange, &m, &wire.Empty{})
}

// Would says as JSON what a change of f would meet: class, errno, error, and the
// blockers. The range of Truncate is [size, Inf).
func (s *Session) Would(ctx context.Context, f *os.File, k ChangeKind, r Range, o OnHold) (json.RawMessage, error) {
	parts, err := s.callAbout(ctx, f, wire.OpWould, &wire.Would{Kind: k, OnHold: o, Range: r})
	return text(parts, err)
}

// Who lists as JSON who holds f: file, leases and pins.
func (s *Session) Who(ctx context.Context, f *os.File) (json.RawMessage, error) {
	parts, err := s.callAbout(ctx, f, wire.OpWho, nil)
	return text(parts, err)
}

// Stat describes the extents of f as JSON.
func (s *Session) Stat(ctx context.Context, f *os.File) (json.RawMessage, error) {
	parts, err := s.callAbout(ctx, f, wire.OpStat, nil)
	return text(parts, err)
}

// Grow makes the volume larger while it is in use, and returns the size that it has
// then. It is for administrators.
func (s *Session) Grow(ctx context.Context, size int64) (int64, error) {
	var got wire.Grow
	err := s.ask(ctx, wire.OpGrow, &wire.Grow{Size: size}, &got)
	return got.Size, err
}

// Seize takes a lease from its holder at once, whoever that is, also an unbreakable or pinned one, and waits until nothing of it is left:
// for ever, if a context cannot be cut. It is for the owner of the file and administrators.
func (s *Session) Seize(ctx context.Context, lease uint64) error {
	return s.ask(ctx, wire.OpSeize, &wire.ID{ID: lease}, &wire.Empty{})
}

// Expire ends a session and seizes all its leases. It is for administrators.
func (s *Session) Expire(ctx context.Context, session uint64) error {
	return s.ask(ctx, wire.OpExpire, &wire.ID{ID: session}, &wire.Empty{})
}

// Scrub does a step of looking for damage on the volume, which stays in use, and reads
// about that many bytes of content. cursor is "next" of the answer of the step before,
// which the last one lacks; the first has none. It is for administrators.
func (s *Session) Scrub(ctx context.Context, cursor []byte, bytes int64) (json.RawMessage, error) {
	if len(cursor) > wire.MaxCursor {
		return nil, fmt.Errorf("scrub: cursor of %d bytes: %w", len(cursor), syscall.EINVAL)
	}
	parts, err := s.call(ctx, wire.OpScrub, &wire.Scrub{Bytes: bytes, Cursor: cursor})
	return text(parts, err)
}

// Limits lists what users have used up, as a JSON array: one's own, for administrators everyone's.
func (s *Session) Limits(ctx context.Context) (json.RawMessage, error) {
	parts, err := s.call(ctx, wire.OpLimits, &wire.Empty{})
	return text(parts, err)
}

// List returns a listing as a JSON array.
func (s *Session) List(ctx context.Context, what ListKind, f Filter) (json.RawMessage, error) {
	parts, err := s.call(ctx, wire.OpList, &wire.List{Kind: what, File: f.File, Session: f.Session})
	return text(parts, err)
}

// text joins the parts of an answer.
func text(parts []part, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	n := 0
	for _, p := range parts {
		n += len(p.body)
	}
	all := make([]byte, 0, n)
	for _, p := range parts {
		all = append(all, p.body...)
	}
	return all, closeParts(parts)
}

// Admit lets the process of a pidfd send requests on this session. From then on each
// request costs more.
func (s *Session) Admit(ctx context.Context, pidfd *os.File) error {
	return s.askAbout(ctx, pidfd, wire.OpAdmit, nil, &wire.Empty{})
}

// event is one of the stream of events.
type event struct {
	Dropped uint64          `json:"dropped"`
	Event   json.RawMessage `json:"event"`
}

// Subscription is the stream of the server's events.
type Subscription struct {
	s      *Session // its own
	parent *Session
}

// Subscribe opens the stream of events, on a connection of its own. ctx bounds the
// opening only.
func (s *Session) Subscribe(ctx context.Context) (*Subscription, error) {
	own, err := Dial(ctx, s.socket)
	if err != nil {
		return nil, err
	}
	own.events = make(chan event)
	sub := &Subscription{s: own, parent: s}
	own.background()
	if err := own.ask(ctx, wire.OpSubscribe, nil, &wire.Empty{}); err != nil {
		return nil, errors.Join(err, sub.Close())
	}
	if err := s.own(sub); err != nil {
		return nil, errors.Join(err, sub.Close())
	}
	return sub, nil
}

// deliver hands an event to Next. While nobody calls it, the server keeps some and
// then counts what it drops.
func (s *Session) deliver(p part) {
	var ev event
	if err := errors.Join(closeParts([]part{p}), json.Unmarshal(p.body, &ev)); err != nil {
		return
	}
	select {
	case s.events <- ev:
	case <-s.stop:
	}
}

// Next waits for the next event, a JSON object. dropped counts the events so far
// that this subscription missed because it was too slow. io.EOF: the stream has
// ended.
func (s *Subscription) Next(ctx context.Context) (ev json.RawMessage, dropped uint64, err error) {
	select {
	case e := <-s.s.events:
		return e.Event, e.Dropped, nil
	case <-s.s.done:
		return nil, 0, io.EOF
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// Close ends the stream.
func (s *Subscription) Close() error {
	s.parent.disown(s)
	return s.s.Close()
}
