package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"holdfast/client"
	"holdfast/local/localtest"
	"holdfast/wire"
)

// A lease that is granted after its caller has stopped waiting is given back.
func TestGrantedTooLate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- grantLate(listener, cancel) }()

	s, err := client.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := open(t, os.DevNull, os.O_RDWR)
	if _, err := s.Lease(ctx, f, client.Range{End: 4096}, client.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("lease: %v", err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// grantLate is a server that grants one lease, but only after cancel has been called
// and CANCEL has come, and then wants it back.
func grantLate(l *net.UnixListener, cancel func()) error {
	c, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256)
	next := func(op wire.Op) (wire.Header, []byte, error) {
		n, err := c.Read(buf)
		if err != nil {
			return wire.Header{}, nil, err
		}
		h, body, err := wire.ParseHeader(buf[:n])
		if err == nil && h.Op != op {
			err = errors.New("want " + op.String() + ", got " + h.Op.String())
		}
		return h, body, err
	}
	answer := func(h wire.Header, body wire.Body) error {
		_, err := c.Write(wire.Append(nil, wire.Header{Op: h.Op, Flags: wire.FlagReply, Request: h.Request}, body))
		return err
	}
	h, _, err := next(wire.OpHello)
	if err := errors.Join(err, answer(h, &wire.HelloReply{Version: 1})); err != nil {
		return err
	}
	asked, _, err := next(wire.OpAcquire)
	if err != nil {
		return err
	}
	cancel()
	if _, _, err = next(wire.OpCancel); err != nil {
		return err
	}
	granted := &wire.LeaseReply{Lease: 7, Range: client.Range{End: 4096}, Access: wire.AccessRead, Mode: wire.ModeShared}
	if err := answer(asked, granted); err != nil {
		return err
	}
	_, body, err := next(wire.OpReturn)
	if err != nil {
		return err
	}
	var back wire.Return
	if err := back.Decode(body); err != nil {
		return err
	}
	if back.Lease != 7 || back.Range != (client.Range{End: client.Inf}) {
		return errors.New("something else is given back")
	}
	return nil
}

// Close ends the goroutine of a channel from which nobody takes the event.
func TestCloseWithUnreadEvent(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	f := open(t, s.FS.Create("f", make([]byte, 8192)), os.O_RDWR)
	c, other := dial(t, s), dial(t, s)
	l := lease(t, c, f, client.Range{End: 8192}, client.Options{})
	changed := make(chan error, 1)
	go func() { changed <- other.Truncate(t.Context(), f, 0, client.ChangeOptions{}) }()
	if !pollable(t, l.File(), 20_000) {
		t.Fatal("no break came")
	}
	l.Events()
	// The goroutine has read the event when the handle is not readable any more.
	s.Await(t, "event is read", func() bool { return !pollable(t, l.File(), 0) })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-changed; err != nil {
		t.Fatal(err)
	}
}
