package client

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/wire"
)

// An answer that was there before another call began is read while that waits, whoever
// reads and for however long.
func TestAnswerBeforeAnotherCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	answered, asked, over, served := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan error, 2)
	serve := func(then func(c *net.UnixConn) error) *Session {
		go func() { served <- answerWho(listener, then) }()
		s, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := serve(func(c *net.UnixConn) error {
		close(answered)
		// It sees the next request and does not read it, which would wake the client.
		err := peek(c)
		close(asked)
		<-over
		return err
	})
	// One that has asked, and has not come to waiting yet.
	id, first, err := s.begin(wire.OpWho, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-answered
	// The poller has seen that answer once it has woken others for what came later.
	other := serve(func(*net.UnixConn) error { return nil })
	for range 100 {
		if err := other.ask(t.Context(), wire.OpWho, nil, &wire.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() {
		_, err := s.call(ctx, wire.OpStat, nil) // is never answered
		second <- err
	}()
	<-asked // so it has the right to read
	bounded, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if _, err := s.wait(bounded, id, first); err != nil {
		t.Error("the first:", err)
	}
	close(over)
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Error("the second:", err)
	}
	if err := errors.Join(s.Close(), other.Close(), <-served, <-served); err != nil {
		t.Error(err)
	}
}

// peek waits until there is something to receive.
func peek(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	wait := raw.Read(func(fd uintptr) bool {
		_, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(wait, err)
}

// answerWho is a server of one connection that answers HELLO and WHO, calls then after
// each WHO, and answers nothing else.
func answerWho(l *net.UnixListener, then func(c *net.UnixConn) error) error {
	c, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256)
	for {
		n, err := c.Read(buf)
		if err != nil || n == 0 {
			return nil
		}
		h, _, err := wire.ParseHeader(buf[:n])
		if err != nil {
			return err
		}
		var body wire.Body
		switch h.Op {
		case wire.OpHello:
			body = &wire.HelloReply{Version: wire.Version}
		case wire.OpWho:
		default:
			continue
		}
		if _, err := c.Write(wire.Append(nil, wire.Header{Op: h.Op, Flags: wire.FlagReply, Request: h.Request}, body)); err != nil {
			return err
		}
		if h.Op == wire.OpWho {
			if err := then(c); err != nil {
				return err
			}
		}
	}
}
