package local_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/local/localtest"
	"holdfast/wire"
)

// hungUp reports whether poll says that the connection has ended, which it does
// whether or not what came before has been read.
func (r *raw) hungUp(ms int) bool {
	r.t.Helper()
	var p [1]unix.PollFd
	var err error
	ctl := r.rc.Control(func(fd uintptr) {
		p[0] = unix.PollFd{Fd: int32(fd)}
		for {
			if _, err = unix.Poll(p[:], ms); !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	})
	if ctl != nil || err != nil {
		r.t.Fatal(ctl, err)
	}
	return p[0].Revents&unix.POLLHUP != 0
}

// breaks reads what a handle is told, up to the first event that a cut is complete.
func (r *raw) breaks() (last wire.Break) {
	r.t.Helper()
	for last.Kind != wire.BreakRevoked {
		hdr, body, _, ended := r.receive()
		if ended || hdr.Op != wire.OpBreak {
			r.t.Fatalf("handle: %+v, ended: %v, after %+v", hdr, ended, last)
		}
		if err := last.Decode(body); err != nil {
			r.t.Fatal(err)
		}
	}
	return last
}

// The handle of a lease that was cut hangs up once nothing is left of it, after its
// holder was told, and not before.
func TestRevokeHangsUp(t *testing.T) {
	s := localtest.Start(t, localtest.Options{BreakTime: 20 * time.Millisecond})
	fd := open(t, s.FS.Create("f", make([]byte, 1<<20)), unix.O_RDWR)
	other, _ := hello(t, s.Socket, 0)
	blocks := func(from, to int64) extent.Range {
		return extent.Range{Off: from * extent.BlockSize, End: to * extent.BlockSize}
	}
	punch := func(r extent.Range) {
		t.Helper()
		other.must(wire.OpChange, &wire.Change{Kind: wire.ChangePunch, Range: r}, nil, fd)
	}
	hold := func(t *testing.T, r extent.Range) (ses, h *raw, l wire.LeaseReply) {
		t.Helper()
		ses, _ = hello(t, s.Socket, 0)
		ses.must(wire.OpAcquire, acquire(r), &l, fd)
		h = connect(t, s.Socket)
		h.must(wire.OpAttach, &wire.Attach{Ticket: l.Ticket}, &wire.AttachReply{})
		return ses, h, l
	}
	all := extent.Range{End: extent.Inf}

	t.Run("at once", func(t *testing.T) {
		ses, h, l := hold(t, blocks(0, 2))
		punch(blocks(0, 2))
		if b := h.breaks(); b.Range != blocks(0, 2) {
			t.Errorf("revoked: %+v", b)
		}
		if !h.hungUp(20_000) {
			t.Fatal("no hang-up")
		}
		h.ended()
		if errno := ses.call(wire.OpLeaseInfo, &wire.ID{ID: l.Lease}, nil); errno != syscall.ENOENT {
			t.Errorf("info of a revoked lease: %v", errno)
		}
	})
	t.Run("piece by piece", func(t *testing.T) {
		ses, h, l := hold(t, blocks(0, 3))
		punch(blocks(0, 1))
		h.breaks()
		var x wire.RegisterReply
		ses.must(wire.OpRegister, &wire.Register{Kind: wire.ContextMemory}, &x)
		var pin wire.ID
		ses.must(wire.OpPin, &wire.Pin{Context: x.Context, Lease: l.Lease, Range: blocks(2, 3), Access: wire.AccessRead}, &pin)
		punch(blocks(1, 2)) // what is pinned is left
		h.breaks()
		var info wire.LeaseReply
		ses.must(wire.OpLeaseInfo, &wire.ID{ID: l.Lease}, &info)
		if info.Range != blocks(2, 3) || h.hungUp(0) {
			t.Errorf("lease has %v, hung up: %v", info.Range, h.hungUp(0))
		}
		ses.must(wire.OpUnpin, &pin, nil)
		punch(blocks(2, 3))
		h.breaks()
		h.ended()
	})
	t.Run("the rest given back", func(t *testing.T) {
		ses, h, l := hold(t, blocks(0, 2))
		punch(blocks(0, 1))
		h.breaks()
		ses.must(wire.OpReturn, &wire.Return{Lease: l.Lease, Range: all}, &wire.LeaseReply{})
		h.ended()
	})
	t.Run("never read", func(t *testing.T) {
		const n = 20
		ses, h, _ := hold(t, blocks(0, n))
		for i := range int64(n) {
			if h.hungUp(0) {
				t.Fatalf("hung up with %d blocks left", n-i)
			}
			punch(blocks(i, i+1))
		}
		if !h.hungUp(20_000) {
			t.Error("no hang-up while its holder does not read")
		}
		h.ended() // what had room is there still
		ses.ping()
	})
	t.Run("before it is attached", func(t *testing.T) {
		ses, _ := hello(t, s.Socket, 0)
		var l wire.LeaseReply
		ses.must(wire.OpAcquire, acquire(blocks(0, 1)), &l, fd)
		punch(blocks(0, 1))
		h := connect(t, s.Socket)
		h.must(wire.OpAttach, &wire.Attach{Ticket: l.Ticket}, &wire.AttachReply{})
		h.breaks()
		h.ended()
	})
	s.Await(t, "no handle is left", func() bool { return s.Stats().Handles == 0 })
}
