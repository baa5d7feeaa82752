package client_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/client"
	"holdfast/local/localtest"
	"holdfast/wire"
)

// pingPong returns a function that sends 24 bytes through a socket of the same type
// and gets 104 back from another goroutine: what a call costs when it does nothing.
func pingPong(b *testing.B) func() error {
	path := filepath.Join(b.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			c, err := l.AcceptUnix()
			if err != nil {
				return err
			}
			defer c.Close()
			buf, reply := make([]byte, 256), make([]byte, 104)
			for {
				if n, err := c.Read(buf); err != nil || n == 0 {
					return nil
				}
				if _, err := c.Write(reply); err != nil {
					return err
				}
			}
		}()
	}()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(c.Close(), l.Close(), <-served); err != nil {
			b.Error(err)
		}
	})
	return exchange(c, make([]byte, 24))
}

func exchange(c *net.UnixConn, msg []byte) func() error {
	buf := make([]byte, 256)
	return func() error {
		if _, err := c.Write(msg); err != nil {
			return err
		}
		_, err := c.Read(buf)
		return err
	}
}

// BenchmarkCall is LEASEINFO, in turns with a bare ping-pong: both meet the same noise
// of the machine. server-x is what our server costs a bare client, x the whole call of
// this library, both in ping-pongs.
func BenchmarkCall(b *testing.B) {
	s := localtest.Start(b, localtest.Options{})
	f := open(b, s.FS.Create("f", make([]byte, 4096)), os.O_RDWR)
	c := dial(b, s)
	l := lease(b, c, f, client.Range{End: 4096}, client.Options{})
	bare := pingPong(b)

	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: s.Socket, Net: "unixpacket"})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := exchange(conn, wire.Append(nil, wire.Header{Op: wire.OpHello}, &wire.Hello{Version: wire.Version}))(); err != nil {
		b.Fatal(err)
	}
	// Of a lease it does not have: the answer is an error of about the same size.
	raw := exchange(conn, wire.Append(nil, wire.Header{Op: wire.OpLeaseInfo, Request: 1}, &wire.ID{ID: 1 << 60}))
	call := func() error {
		_, err := l.Info(b.Context())
		return err
	}
	turns := []func() error{bare, raw, call}
	const n = 50
	spent := make([][]time.Duration, len(turns))
	for b.Loop() {
		for i, f := range turns {
			begin := time.Now()
			for range n {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
			spent[i] = append(spent[i], time.Since(begin))
		}
	}
	// Medians: a turn in which another program had the processor says nothing.
	var each [3]float64
	for i, s := range spent {
		slices.Sort(s)
		each[i] = float64(s[len(s)/2].Nanoseconds()) / n
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each[0], "ns/bare")
	b.ReportMetric(each[2], "ns/call")
	b.ReportMetric(each[1]/each[0], "server-x")
	b.ReportMetric(each[2]/each[0], "x")
}

// BenchmarkPinUnpin is two calls that run on goroutines of their own in the server.
func BenchmarkPinUnpin(b *testing.B) {
	s := localtest.Start(b, localtest.Options{})
	f := open(b, s.FS.Create("f", make([]byte, 4096)), os.O_RDWR)
	c := dial(b, s)
	l := lease(b, c, f, client.Range{End: 4096}, client.Options{})
	x, err := c.Register(b.Context(), client.Memory, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := x.Pin(b.Context(), l, client.Range{End: 4096}, client.Read)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Unpin(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLeaseRelease is a whole life: ACQUIRE with a descriptor, a new connection,
// ATTACH, RETURN, close: three calls and a connection, in turns with three bare
// ping-pongs and a bare connection.
func BenchmarkLeaseRelease(b *testing.B) {
	s := localtest.Start(b, localtest.Options{})
	f := open(b, s.FS.Create("f", make([]byte, 4096)), os.O_RDWR)
	c := dial(b, s)
	ping, connect := pingPong(b), bareConnect(b)
	var ours, bare time.Duration
	for b.Loop() {
		begin := time.Now()
		l, err := c.Lease(b.Context(), f, client.Range{End: 4096}, client.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Release(b.Context()); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := errors.Join(ping(), ping(), ping(), connect()); err != nil {
			b.Fatal(err)
		}
		ours += middle.Sub(begin)
		bare += time.Since(middle)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N), "ns/lease")
	b.ReportMetric(float64(bare.Nanoseconds())/float64(b.N), "ns/bare")
	b.ReportMetric(float64(ours)/float64(bare), "x")
}

// bareConnect returns a function that makes, has accepted and closes a connection.
func bareConnect(b *testing.B) func() error {
	path := filepath.Join(b.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	b.Cleanup(func() {
		l.Close()
		<-done
	})
	return func() error {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			return err
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 {
			return errors.Join(errors.New("no hang-up"), err)
		}
		return c.Close()
	}
}
