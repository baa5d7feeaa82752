package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/internal/packet"
	"holdfast/layout"
	"holdfast/wire"
)

// A jsonAnswer is an answer of JSON text in as many parts as it takes.
type jsonAnswer struct {
	r   *request
	buf []byte
}

const maxPart = wire.MaxMessage - wire.HeaderSize

// raw is a part of JSON text as the body of a message.
type raw []byte

// Append implements wire.Body.
func (p raw) Append(b []byte) []byte { return append(b, p...) }

// Decode implements wire.Body.
func (raw) Decode([]byte) error { return nil }

func (a *jsonAnswer) text(s string) { a.buf = append(a.buf, s...) }

// value appends v and sends what is full.
func (a *jsonAnswer) value(v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	a.buf = append(a.buf, p...)
	for len(a.buf) > maxPart {
		hdr := wire.Header{Op: a.r.hdr.Op, Flags: wire.FlagReply | wire.FlagMore, Request: a.r.hdr.Request}
		if err := a.r.connectionError(a.r.replyPart(hdr, raw(a.buf[:maxPart]), nil)); err != nil {
			return err
		}
		a.buf = append(a.buf[:0], a.buf[maxPart:]...)
	}
	return nil
}

// array appends list as a JSON array.
func array[T any](a *jsonAnswer, list []T) error {
	a.text("[")
	for i := range list {
		if i > 0 {
			a.text(",")
		}
		if err := a.value(&list[i]); err != nil {
			return err
		}
	}
	a.text("]")
	return nil
}

// finish sends the last part.
func (a *jsonAnswer) finish(err error) error {
	if err != nil {
		return err
	}
	return a.r.done(raw(a.buf))
}

func (r *request) list() error {
	var m wire.List
	if err := m.Decode(r.body); err != nil {
		return err
	}
	f := arbiter.Filter{File: extent.Ino(m.File), Session: layout.SessionID(m.Session)}
	a := &jsonAnswer{r: r}
	arb := r.srv.cfg.Arbiter
	switch m.Kind {
	case wire.ListLeases:
		list := arb.Leases(f)
		for i := range list {
			list[i].Path = r.path(list[i].Session, list[i].Path)
		}
		return a.finish(array(a, list))
	case wire.ListPins:
		list := arb.Pins(f)
		for i := range list {
			list[i].Path = r.path(list[i].Session, list[i].Path)
		}
		return a.finish(array(a, list))
	case wire.ListContexts:
		return a.finish(array(a, arb.Contexts(f)))
	case wire.ListHolders:
		list, err := r.holders()
		if err != nil {
			return err
		}
		return a.finish(array(a, list))
	case wire.ListSessions:
		return a.finish(array(a, arb.Sessions(f)))
	case wire.ListOrphans:
		return a.finish(array(a, r.listOrphans(&m)))
	default:
		return a.finish(a.value(struct {
			Stats  Stats  `json:"stats"`
			Limits Limits `json:"limits"`
		}{r.srv.Stats(), r.srv.cfg.Limits}))
	}
}

// path returns a path as the caller may see it. Everyone may know that there is a
// lease and of whom; which name the file has, only its user and administrators.
func (r *request) path(s layout.SessionID, path string) string {
	if r.caller.admin || s == r.id || r.srv.userOf(s) == r.caller.uid {
		return path
	}
	return ""
}

// who lists the leases and pins of a file. The descriptor is the right to know.
func (r *request) who() error {
	if err := (&wire.Empty{}).Decode(r.body); err != nil {
		return err
	}
	file, err := r.dataFile()
	if err != nil {
		return err
	}
	c, by, err := r.policy(file.ino, 0)
	if err != nil {
		return err
	}
	f := arbiter.Filter{File: file.ino}
	a := &jsonAnswer{r: r}
	a.text(fmt.Sprintf(`{"file":%d,"on_hold":%q,"by":%q,"leases":`, file.ino, c.OnHold, by))
	if err := array(a, r.srv.cfg.Arbiter.Leases(f)); err != nil {
		return err
	}
	a.text(`,"pins":`)
	if err := array(a, r.srv.cfg.Arbiter.Pins(f)); err != nil {
		return err
	}
	a.text("}")
	return a.finish(nil)
}

func (r *request) would() error {
	var m wire.Would
	if err := m.Decode(r.body); err != nil {
		return err
	}
	file, err := r.dataFile()
	if err != nil {
		return err
	}
	if m.Kind == wire.ChangeCollapse || m.Kind == wire.ChangeInsert {
		m.Range.End = extent.Inf // all that is behind it moves
	}
	class, err := r.class(file.ino, m.Kind, m.Range)
	if err != nil {
		return err
	}
	c, by, err := r.policy(file.ino, layout.OnHold(m.OnHold))
	if err != nil {
		return err
	}
	blockers, errno := r.srv.cfg.Arbiter.Would(c, file.ino, m.Range.RoundOut(), class)
	a := &jsonAnswer{r: r}
	text := ""
	if errno != 0 {
		text = errno.Error()
	}
	a.text(fmt.Sprintf(`{"class":%q,"errno":%d,"error":%q,"on_hold":%q,"by":%q,"blockers":`, class, uint(errno), text, c.OnHold, by))
	if err := array(a, blockers); err != nil {
		return err
	}
	a.text("}")
	return a.finish(nil)
}

// policy returns the caller of a change with the policy that it would have, and by whose word: of the call, the file or the volume.
func (r *request) policy(ino extent.Ino, o layout.OnHold) (c arbiter.Caller, by string, err error) {
	c, by = r.toArbiter(r.caller), "call"
	if o == 0 {
		by = "file"
		o, err = r.srv.cfg.FS.OnHold(r.ctx, ino)
	}
	if o == 0 {
		by = "volume"
		o = r.srv.cfg.Arbiter.OnHold(c)
	}
	c.OnHold = o
	return c, by, err
}

// class says of what class a change of the file would be.
func (r *request) class(ino extent.Ino, kind wire.ChangeKind, rng extent.Range) (layout.Class, error) {
	switch kind {
	case wire.ChangeTruncate:
		_, size, err := r.srv.cfg.FS.Attr(r.ctx, ino)
		if err != nil || size == rng.Off {
			return layout.None, err
		}
		if size < rng.Off {
			return layout.Size, nil
		}
		return layout.Subtractive, nil
	case wire.ChangePunch, wire.ChangeCollapse, wire.ChangeInsert:
		return layout.Subtractive, nil
	default:
		return r.srv.cfg.FS.Class(r.ctx, ino, rng)
	}
}

func (r *request) stat() error {
	if err := (&wire.Empty{}).Decode(r.body); err != nil {
		return err
	}
	file, err := r.dataFile()
	if err != nil {
		return err
	}
	st, err := r.srv.cfg.FS.Stat(r.ctx, file.ino)
	if err != nil {
		return err
	}
	a := &jsonAnswer{r: r}
	return a.finish(a.value(st))
}

func (r *request) scrub() error {
	var m wire.Scrub
	if err := m.Decode(r.body); err != nil {
		return err
	}
	if !r.caller.admin {
		return fmt.Errorf("only an administrator looks for damage in all files: %w", syscall.EPERM)
	}
	step, err := r.srv.cfg.FS.Scrub(r.ctx, m.Cursor, m.Bytes)
	if err != nil {
		return err
	}
	a := &jsonAnswer{r: r}
	return a.finish(a.value(step))
}

// subscribe starts the stream of events. It has a descriptor of its own for the
// same socket, so that it can wait for room for ever without a deadline: only
// answers have one. A session that never reads loses events, not its leases.
func (r *request) subscribe() error {
	if err := (&wire.Empty{}).Decode(r.body); err != nil {
		return err
	}
	r.mu.Lock()
	again := r.subscribed
	r.subscribed = true
	r.mu.Unlock()
	if again {
		return fmt.Errorf("session %d is subscribed already: %w", r.id, syscall.EEXIST)
	}
	f, err := r.copyOfSocket()
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	sub := r.srv.cfg.Arbiter.Subscribe(r.srv.cfg.Limits.Events)
	if err := r.done(nil); err != nil {
		sub.Close()
		return errors.Join(err, f.Close())
	}
	stream := &request{session: r.session, ctx: r.ctx, hdr: r.hdr, caller: r.caller}
	r.wg.Go(func() {
		defer f.Close()
		defer sub.Close()
		// Closing is what wakes a sender that waits for room.
		defer context.AfterFunc(r.ctx, func() { f.Close() })()
		stream.events(sub, packet.NewSender(raw, f.SetWriteDeadline, 0))
	})
	return nil
}

func (s *session) copyOfSocket() (f *os.File, err error) {
	ctl := s.raw.Control(func(fd uintptr) {
		var dup int
		if dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			f = os.NewFile(uintptr(dup), "session")
		}
	})
	return f, errors.Join(err, ctl)
}

// events sends the stream until the session ends.
func (r *request) events(sub *arbiter.Subscription, out *packet.Sender) {
	var buf []byte
	for {
		select {
		case <-r.ctx.Done():
			return
		case ev, ok := <-sub.C:
			if !ok {
				return
			}
			ev.Path = r.path(ev.Session, ev.Path)
			body, err := json.Marshal(struct {
				Dropped uint64         `json:"dropped"`
				Event   *arbiter.Event `json:"event"`
			}{sub.Dropped(), &ev})
			if err != nil || len(body) > maxPart {
				r.srv.cfg.Log.Error("event cannot be told", "seq", ev.Seq, "bytes", len(body), "err", err)
				continue
			}
			buf = wire.Append(buf[:0], wire.Header{Op: wire.OpEvent, Request: r.hdr.Request}, raw(body))
			if err := out.Send(buf, nil); err != nil {
				return
			}
		}
	}
}
