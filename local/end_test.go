package local_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/local"
	"holdfast/local/localtest"
	"holdfast/wire"
)

// What a session has without another copy ends with it, in whatever order: no lease before its pins, and nothing is left.
func TestEndOfTheSession(t *testing.T) {
	s := localtest.Start(t, localtest.Options{Clock: &clock{now: time.Unix(1000, 0)}}) // no ticket expires
	fd := open(t, s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR)
	r, _ := hello(t, s.Socket, 0)
	var l wire.LeaseReply
	r.must(wire.OpAcquire, acquire(block), &l, fd)
	var c wire.RegisterReply
	r.must(wire.OpRegister, &wire.Register{Kind: wire.ContextMemory}, &c)
	r.must(wire.OpPin, &wire.Pin{Context: c.Context, Lease: l.Lease, Range: block, Access: wire.AccessRead}, &wire.ID{})
	events := s.Arbiter.Subscribe(64)
	defer events.Close()
	r.f.Close()
	s.Await(t, "the lease ends", func() bool { return leases(s) == 0 && len(s.Arbiter.Contexts(arbiter.Filter{})) == 0 })
	at := map[arbiter.EventKind]int{}
	for i := 1; at[arbiter.EventRelease] == 0 || at[arbiter.EventContextClose] == 0; i++ {
		at[(<-events.C).Kind] = i
	}
	if at[arbiter.EventSessionEnd] != 1 || at[arbiter.EventUnpin] == 0 || at[arbiter.EventUnpin] > at[arbiter.EventRelease] {
		t.Errorf("events came in the order %v", at)
	}
	s.Await(t, "nothing is left", func() bool { return s.Stats() == local.Stats{} && len(s.Arbiter.Sessions(arbiter.Filter{})) == 0 })
}
