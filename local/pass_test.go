package local_test

import (
	"encoding/json"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/local"
	"holdfast/local/localtest"
	"holdfast/wire"
)

// number is the descriptor of the connection.
func (r *raw) number() (n int) {
	if err := r.rc.Control(func(fd uintptr) { n = int(fd) }); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// copied returns another copy of the connection.
func (r *raw) copied() *raw {
	dup, err := unix.FcntlInt(uintptr(r.number()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return newRaw(r.t, dup)
}

// context registers a context and attaches its handle.
func (r *raw) context(s *localtest.Server) (*raw, uint64) {
	r.t.Helper()
	var c wire.RegisterReply
	r.must(wire.OpRegister, &wire.Register{Kind: wire.ContextMemory}, &c)
	h := connect(r.t, s.Socket)
	h.must(wire.OpAttach, &wire.Attach{Ticket: c.Ticket}, nil)
	return h, c.Context
}

func TestClaim(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	a, _ := hello(t, s.Socket, 0)
	b, bHello := hello(t, s.Socket, 0)
	_, l := a.lease(s, fd)
	h, c := a.context(s)
	var pin wire.ID
	a.must(wire.OpPin, &wire.Pin{Context: c, Lease: l.Lease, Range: block, Access: wire.AccessRead}, &pin)
	claim := func(r *raw, with int) syscall.Errno { return r.call(wire.OpClaim, &wire.ID{ID: c}, nil, with) }

	other, _ := a.context(s)
	for name, with := range map[string]int{
		"data descriptor": fd, "another handle": other.number(), "the session": a.number(), "something else": open(t, "/dev/null", unix.O_RDWR),
	} {
		if errno := claim(b, with); errno != syscall.EPERM {
			t.Errorf("claim with %s as the handle: %v", name, errno)
		}
	}
	if errno := b.call(wire.OpClaim, &wire.ID{ID: c}, nil); errno != syscall.EINVAL {
		t.Errorf("claim by name only: %v", errno)
	}
	if errno := b.call(wire.OpClaim, &wire.ID{ID: 99}, nil, h.number()); errno != syscall.ENOENT {
		t.Errorf("claim of nothing: %v", errno)
	}
	if n := len(s.Arbiter.Contexts(arbiter.Filter{})); n != 2 {
		t.Fatalf("%d contexts live: a wrong proof has ended one", n)
	}
	if errno := claim(b, h.number()); errno != syscall.EPERM {
		t.Errorf("claim without a lease: %v", errno)
	}
	_, bl := b.lease(s, fd)
	if errno := claim(b, h.number()); errno != 0 {
		t.Fatalf("claim with a lease: %v", errno)
	}
	if p := s.Arbiter.Pins(arbiter.Filter{}); len(p) != 1 || uint64(p[0].Session) != bHello.Session || uint64(p[0].Lease) != bl.Lease {
		t.Errorf("after the claim: %+v", p)
	}
	if errno := claim(b, h.number()); errno != 0 {
		t.Errorf("claim again: %v", errno)
	}
	if errno := a.call(wire.OpUnpin, &pin, nil); errno != syscall.EPERM {
		t.Errorf("the first session unpins what is not its own any more: %v", errno)
	}
	if errno := a.call(wire.OpPin, &wire.Pin{Context: c, Lease: l.Lease, Range: block, Access: wire.AccessRead}, &pin); errno != syscall.ENOENT {
		t.Errorf("it pins through it: %v", errno)
	}
	a.f.Close()
	b.must(wire.OpPin, &wire.Pin{Context: c, Lease: bl.Lease, Range: block, Access: wire.AccessRead}, nil)
	b.must(wire.OpUnpin, &pin, nil)
	h.f.Close()
	s.Await(t, "the context ends with its handle", func() bool {
		return len(s.Arbiter.Contexts(arbiter.Filter{Session: layout.SessionID(bHello.Session)})) == 0
	})
	if errno := b.call(wire.OpPin, &wire.Pin{Context: c, Lease: bl.Lease, Range: block, Access: wire.AccessRead}, nil); errno != syscall.ENOENT {
		t.Errorf("pin through a context that has ended: %v", errno)
	}
}

// TestClaimUnattended: nobody speaks for a context whose session has died, until somebody with the right claims it. It counts
// among his.
func TestClaimUnattended(t *testing.T) {
	s := localtest.Start(t, localtest.Options{Limits: local.Limits{Contexts: 1}})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	a, _ := hello(t, s.Socket, 0)
	b, _ := hello(t, s.Socket, 0)
	lh, l := a.lease(s, fd)
	h, c := a.context(s)
	a.must(wire.OpPin, &wire.Pin{Context: c, Lease: l.Lease, Range: block, Access: wire.AccessRead}, nil)
	a.f.Close()
	lh.f.Close()
	s.Await(t, "it is unattended", func() bool { p := s.Arbiter.Pins(arbiter.Filter{}); return len(p) == 1 && p[0].Unattended })
	s.Await(t, "its lease is the context's", func() bool { return s.Arbiter.Leases(arbiter.Filter{})[0].Closed })
	b.lease(s, fd)
	own, _ := b.context(s)
	if errno := b.call(wire.OpClaim, &wire.ID{ID: c}, nil, h.number()); errno != syscall.EMFILE {
		t.Errorf("claim of one too many: %v", errno)
	}
	own.f.Close()
	s.Await(t, "his own ends", func() bool { return len(s.Arbiter.Contexts(arbiter.Filter{})) == 1 })
	b.must(wire.OpClaim, &wire.ID{ID: c}, nil, h.number())
	if p := s.Arbiter.Pins(arbiter.Filter{}); len(p) != 1 || p[0].Unattended {
		t.Errorf("after the claim: %+v", p)
	}
	if ls, ss := s.Arbiter.Leases(arbiter.Filter{}), s.Arbiter.Sessions(arbiter.Filter{}); len(ls) != 1 || len(ss) != 1 {
		t.Errorf("of the dead session are left: %+v %+v", ls, ss)
	}
}

func TestShareStrict(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	a, _ := hello(t, s.Socket, 0)
	b, _ := hello(t, s.Socket, 0)
	h, l := a.lease(s, fd)
	if errno := b.call(wire.OpShare, &wire.ID{ID: l.Lease}, nil, h.number(), fd); errno != syscall.EPERM {
		t.Errorf("under strict: %v", errno)
	}
}

func TestShare(t *testing.T) {
	s := localtest.Start(t, localtest.Options{OnPass: layout.Share})
	path := s.FS.Create("f", make([]byte, 8192))
	fd, other := open(t, path, unix.O_RDWR), open(t, s.FS.Create("g", make([]byte, 8192)), unix.O_RDWR)
	a, _ := hello(t, s.Socket, 0)
	b, bHello := hello(t, s.Socket, 0)
	var l wire.LeaseReply
	two := extent.Range{End: 2 * extent.BlockSize}
	a.must(wire.OpAcquire, &wire.Acquire{Range: two, Access: wire.AccessWrite, Mode: wire.ModeShared}, &l, fd)
	h := connect(t, s.Socket)
	h.must(wire.OpAttach, &wire.Attach{Ticket: l.Ticket}, nil)
	share := func(handle, file int, want syscall.Errno, what string) {
		t.Helper()
		if errno := b.call(wire.OpShare, &wire.ID{ID: l.Lease}, nil, handle, file); errno != want {
			t.Errorf("share %s: %v, want %v", what, errno, want)
		}
	}
	share(fd, fd, syscall.EPERM, "without the handle")
	share(h.number(), other, syscall.EINVAL, "with another file")
	share(h.number(), open(t, path, unix.O_RDONLY), syscall.EACCES, "of a write lease without the right to write")
	if errno := b.call(wire.OpShare, &wire.ID{ID: l.Lease}, nil, h.number()); errno != syscall.EINVAL {
		t.Errorf("share without a file: %v", errno)
	}
	if errno := b.call(wire.OpLeaseInfo, &wire.ID{ID: l.Lease}, nil); errno != syscall.ENOENT {
		t.Errorf("what was refused is held: %v", errno)
	}
	var joined wire.LeaseReply
	b.must(wire.OpShare, &wire.ID{ID: l.Lease}, &joined, h.number(), fd)
	bh := connect(t, s.Socket)
	bh.must(wire.OpAttach, &wire.Attach{Ticket: joined.Ticket}, nil)

	t.Run("both are told", func(t *testing.T) {
		change, _ := hello(t, s.Socket, 0)
		change.send(wire.Append(nil, wire.Header{Op: wire.OpChange, Request: 1}, &wire.Change{Kind: wire.ChangePunch, Range: block}), fd)
		for _, h := range []*raw{h, bh} {
			if hdr, body, _, ended := h.receive(); ended || hdr.Op != wire.OpBreak || len(body) != wire.BreakSize {
				t.Fatalf("on a handle: %+v, ended %v", hdr, ended)
			}
		}
		b.must(wire.OpReturn, &wire.Return{Lease: l.Lease, Range: block}, nil)
		if errno, text := change.answer(); errno != 0 {
			t.Errorf("the change: %v %s", errno, text)
		}
		var told wire.Break
		if _, body, _, _ := h.receive(); told.Decode(body) != nil || told.Kind != wire.BreakRevoked || told.Range != block {
			t.Errorf("the other was told %+v", told)
		}
	})
	t.Run("the first goes, the second stays", func(t *testing.T) {
		a.f.Close()
		h.f.Close()
		s.Await(t, "one holder is left", func() bool {
			ls := s.Arbiter.Leases(arbiter.Filter{})
			return len(ls) == 1 && ls[0].Holders == nil && uint64(ls[0].Session) == bHello.Session && !ls[0].Unattended
		})
		b.must(wire.OpModify, &wire.Modify{Lease: l.Lease, Access: wire.AccessRead, Mode: wire.ModeShared}, nil)
	})
	t.Run("a third joins by the second's handle", func(t *testing.T) {
		c, _ := hello(t, s.Socket, 0)
		c.must(wire.OpShare, &wire.ID{ID: l.Lease}, &joined, bh.copied().number(), fd)
		ch := connect(t, s.Socket)
		ch.must(wire.OpAttach, &wire.Attach{Ticket: joined.Ticket}, nil)
		c.must(wire.OpReturn, &wire.Return{Lease: l.Lease, Range: extent.Range{End: extent.Inf}}, nil)
		ch.ended()
		bh.ended()
		s.Await(t, "the lease is gone", func() bool { return leases(s) == 0 })
	})
	b.ping()
}

// TestShareUnbreakable: holders are listed, and who has not attached his handle leaves with his session.
func TestShareUnbreakable(t *testing.T) {
	s := localtest.Start(t, localtest.Options{OnPass: layout.Share})
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	a, aHello := hello(t, s.Socket, 0)
	b, bHello := hello(t, s.Socket, 0)
	var l wire.LeaseReply
	a.must(wire.OpAcquire, &wire.Acquire{Range: block, Access: wire.AccessWrite, Mode: wire.ModeShared, Flags: wire.LeaseUnbreakable}, &l, fd)
	h := connect(t, s.Socket)
	h.must(wire.OpAttach, &wire.Attach{Ticket: l.Ticket}, nil)
	var joined wire.LeaseReply
	b.must(wire.OpShare, &wire.ID{ID: l.Lease}, &joined, h.number(), fd)
	b.send(wire.Append(nil, wire.Header{Op: wire.OpList, Request: 1}, &wire.List{Kind: wire.ListLeases}))
	_, body := b.answer()
	var list []arbiter.LeaseInfo
	if err := json.Unmarshal(body, &list); err != nil || len(list) != 1 || len(list[0].Holders) != 2 ||
		uint64(list[0].Holders[0].Session) != aHello.Session || uint64(list[0].Holders[1].Session) != bHello.Session {
		t.Errorf("listed: %s %v", body, err)
	}
	if errno := a.call(wire.OpModify, &wire.Modify{Lease: l.Lease, Access: 1, Mode: 1}, nil); errno != syscall.EBUSY {
		t.Errorf("one of two alters the lease: %v", errno)
	}
	// A ticket that is not used in time ends that holding, not the lease.
	b.f.Close()
	s.Await(t, "the second has left", func() bool { return s.Arbiter.Leases(arbiter.Filter{})[0].Holders == nil })
	a.must(wire.OpModify, &wire.Modify{Lease: l.Lease, Access: 1, Mode: 1}, nil)
}
