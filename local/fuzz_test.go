package local_test

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/local/localtest"
	"holdfast/wire"
)

// FuzzServer feeds whatever to a live session: input is cut into messages by a byte of
// length and a byte that says what descriptor goes along. Another session, its lease
// and its handle must not notice.
func FuzzServer(f *testing.F) {
	s := localtest.Start(f, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 8192))
	fds := []int{open(f, path, unix.O_RDWR), open(f, path, unix.O_RDONLY), open(f, "/dev/null", unix.O_RDWR), open(f, path, unix.O_PATH)}
	other, _ := hello(f, s.Socket, 0)
	mine := open(f, s.FS.Create("mine", make([]byte, 8192)), unix.O_RDWR)
	_, held := other.lease(s, mine)

	add := func(msgs ...[]byte) {
		var in []byte
		for _, m := range msgs {
			in = append(append(in, byte(len(m)), 1), m...)
		}
		f.Add(in)
	}
	add(message(wire.OpAcquire, acquire(block)), message(wire.OpMap, &wire.Map{Lease: 65, Range: block}))
	add(message(wire.OpRegister, &wire.Register{Kind: wire.ContextMemory}), message(wire.OpPin, &wire.Pin{Context: 1, Lease: 1, Range: block, Access: 1}))
	add(message(wire.OpChange, &wire.Change{Kind: wire.ChangePunch, Range: block, Wait: 1}), message(wire.OpCancel, &wire.Cancel{Request: 5}))
	add(message(wire.OpReturn, &wire.Return{Lease: held.Lease, Range: extent.Range{End: extent.Inf}}))
	add(message(wire.OpList, &wire.List{Kind: wire.ListLeases}), message(wire.OpSubscribe, nil), message(wire.OpWho, nil), nil, []byte{1, 2, 3})

	// Each other request once, so that none has to be found by chance.
	for op, body := range map[wire.Op]wire.Body{
		wire.OpHello: &wire.Hello{Version: wire.Version}, wire.OpAttach: &wire.Attach{}, wire.OpModify: &wire.Modify{Lease: 1, Access: 1, Mode: 1},
		wire.OpUnpin: &wire.ID{ID: 1}, wire.OpCommit: &wire.Commit{Lease: 1, Range: block, Size: -1}, wire.OpAdmit: nil,
		wire.OpLeaseInfo: &wire.ID{ID: held.Lease}, wire.OpWould: &wire.Would{Kind: wire.ChangePunch, Range: block}, wire.OpStat: nil,
		wire.OpGrow: &wire.Grow{Size: 1 << 20}, wire.OpClaim: &wire.ID{ID: 1}, wire.OpShare: &wire.ID{ID: held.Lease},
		wire.OpSeize: &wire.ID{ID: 1}, wire.OpExpire: &wire.ID{ID: 99},
	} {
		add(message(op, body))
	}

	f.Fuzz(func(t *testing.T, in []byte) {
		other.t = t
		r, _ := hello(t, s.Socket, 0)
		defer r.f.Close()
		for len(in) >= 2 {
			n, with := int(in[0]), in[1]
			in = in[2:]
			msg := in[:min(n, len(in))]
			in = in[len(msg):]
			if with&0x80 != 0 && len(msg) >= wire.HeaderSize { // most messages shall have a right header
				msg = append([]byte(nil), msg...)
				binary.LittleEndian.PutUint32(msg[8:], uint32(len(msg)-wire.HeaderSize))
				msg[2], msg[3], msg[12], msg[13], msg[14], msg[15] = 0, 0, 0, 0, 0, 0
			}
			var send []int
			for i := range with & 7 {
				send = append(send, fds[(i+with>>3)%4])
			}
			if r.try(msg, send...) != nil {
				break // full, or ended
			}
		}
		other.ping()
		list := s.Arbiter.Leases(arbiter.Filter{})
		for _, l := range list {
			if uint64(l.ID) == held.Lease && l.State.String() == "granted" && !l.Unattended {
				return
			}
		}
		t.Fatalf("the other session's lease is harmed: %+v", list)
	})
}
