package wire_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"holdfast/extent"
	"holdfast/wire"
)

// A sample is a message of one kind, and the size docs/protocol.md states.
type sample struct {
	name string
	body wire.Body
	size int
}

var rng = extent.Range{Off: 4096, End: 12288}

// samples has one of each body.
func samples() []sample {
	return []sample{
		{"Hello", &wire.Hello{Version: wire.Version, Flags: wire.HelloShared}, 8},
		{"HelloReply", &wire.HelloReply{Version: 1, MaxMessage: 65536, Session: 7, BreakTime: 45e9, MaxLeases: 9, MaxRequests: 64}, 32},
		{"Attach", &wire.Attach{Ticket: wire.Ticket{1, 2, 15: 3}}, 16},
		{"AttachReply", &wire.AttachReply{Kind: wire.ObjectLease, ID: 5}, 16},
		{"Acquire", &wire.Acquire{Range: rng, Access: wire.AccessWrite, Mode: wire.ModeShared, Flags: wire.LeaseUnbreakable | wire.LeaseAllocate}, 24},
		{"Return", &wire.Return{Lease: 3, Range: extent.Range{End: extent.Inf}}, 24},
		{"Modify", &wire.Modify{Lease: 3, Access: wire.AccessRead, Mode: wire.ModeExclusive, Flags: wire.LeaseNoWait}, 16},
		{"LeaseReply", &wire.LeaseReply{
			Lease: 3, File: 9, Seq: 2, Range: rng, Access: wire.AccessRead, Mode: wire.ModeShared, Flags: wire.LeaseUnbreakable,
			State: wire.StateBreaking, Ticket: wire.Ticket{1}, Pieces: []extent.Range{{Off: 4096, End: 8192}, {Off: 8192, End: extent.Inf}},
		}, 72 + 2*16},
		{"Register", &wire.Register{Kind: wire.ContextIOUring, Capabilities: wire.CapGiveBack, Number: 7}, 16},
		{"RegisterReply", &wire.RegisterReply{Context: 2, Ticket: wire.Ticket{9}, Name: "socket:[12] AF_XDP"}, 32 + 18},
		{"Pin", &wire.Pin{Context: 2, Lease: 3, Range: rng, Access: wire.AccessWrite}, 40},
		{"ID", &wire.ID{ID: 11}, 8},
		{"Map", &wire.Map{Lease: 3, Range: rng}, 24},
		{"MapReply", &wire.MapReply{Access: wire.AccessWrite, Pieces: []wire.Piece{
			{FileOff: 4096, Len: 4096, WindowOff: 4096, Segment: 2}, {FileOff: 8192, Len: 4096, Segment: 3, FD: 1},
		}}, 16 + 2*40},
		{"Commit", &wire.Commit{Lease: 3, Range: rng, Size: wire.NoSize}, 32},
		{"Change", &wire.Change{Kind: wire.ChangeTruncate, OnHold: wire.OnHoldWait, Flags: wire.ChangeDropOwn, Range: extent.Range{Off: 5, End: extent.Inf}, Wait: 1e9}, 32},
		{"Would", &wire.Would{Kind: wire.ChangePunch, Range: rng}, 24},
		{"Reclaim", &wire.Reclaim{Kind: wire.ReclaimPin, Access: wire.AccessRead, Object: 7, Lease: 3, Context: 2, Range: rng}, 48},
		{"ReclaimWindow", &wire.Reclaim{Kind: wire.ReclaimWindow, Object: 9, Lease: 3}, 48},
		{"Reclaimed", &wire.Reclaimed{ID: 3, Ticket: wire.Ticket{7}}, 24},
		{"List", &wire.List{Kind: wire.ListPins, File: 4, Session: 5}, 24},
		{"Cancel", &wire.Cancel{Request: 77}, 8},
		{"Grow", &wire.Grow{Size: 20 << 30}, 8},
		{"Scrub", &wire.Scrub{Bytes: 1 << 20, Cursor: []byte("f and so on")}, 16 + 11},
		{"Break", &wire.Break{
			Lease: 3, Seq: 4, Change: 5, Range: rng, Deadline: 1e18, Kind: wire.BreakAsked, Class: wire.ClassSubtractive,
			Ask: wire.AskReturn, Flags: wire.BreakMerged,
		}, 56},
		{"Empty", &wire.Empty{}, 0},
	}
}

// fresh returns an empty body of the same kind.
func fresh(b wire.Body) wire.Body {
	return reflect.New(reflect.TypeOf(b).Elem()).Interface().(wire.Body)
}

func TestSizesAndRoundTrip(t *testing.T) {
	for _, s := range samples() {
		b := s.body.Append(nil)
		if len(b) != s.size {
			t.Errorf("%s has %d bytes, want %d", s.name, len(b), s.size)
		}
		got := fresh(s.body)
		if err := got.Decode(b); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if !reflect.DeepEqual(got, s.body) {
			t.Errorf("%s: got %+v, want %+v", s.name, got, s.body)
		}
	}
}

// A body that is a byte too short or too long is refused, whatever it holds.
func TestWrongSizes(t *testing.T) {
	for _, s := range samples() {
		b := s.body.Append(nil)
		for n := range len(b) + 40 {
			if n == len(b) {
				continue
			}
			p := append(bytes.Clone(b), make([]byte, 40)...)[:n]
			if err := fresh(s.body).Decode(p); !errors.Is(err, syscall.EBADMSG) {
				t.Errorf("%s with %d bytes instead of %d: %v", s.name, n, len(b), err)
			}
		}
	}
}

// Each single bit of a message means something, or is refused when set: what
// decodes encodes to the same bytes.
func TestEveryBitCounts(t *testing.T) {
	for _, s := range samples() {
		b := s.body.Append(nil)
		for bit := range len(b) * 8 {
			p := bytes.Clone(b)
			p[bit/8] ^= 1 << (bit % 8)
			got := fresh(s.body)
			if got.Decode(p) != nil {
				continue
			}
			if again := got.Append(nil); !bytes.Equal(again, p) {
				t.Errorf("%s with bit %d flipped: read as %+v", s.name, bit, got)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		off, length uint64
		errno       syscall.Errno
	}{
		{0, 1, 0},
		{0, math.MaxUint64, 0},
		{math.MaxInt64 - 2, 1, 0},
		{0, 0, syscall.EINVAL},
		{math.MaxInt64, 1, syscall.EINVAL},
		{math.MaxUint64, math.MaxUint64, syscall.EINVAL},
		{1, math.MaxInt64, syscall.EINVAL},
		{math.MaxInt64 - 1, 2, syscall.EINVAL},
		{4096, math.MaxUint64 - 1, syscall.EINVAL},
	} {
		b := (&wire.Map{Lease: 1, Range: rng}).Append(nil)
		copy(b[8:], u64(c.off))
		copy(b[16:], u64(c.length))
		err := (&wire.Map{}).Decode(b)
		if c.errno == 0 && err != nil || c.errno != 0 && !errors.Is(err, c.errno) {
			t.Errorf("range %d+%d: %v, want errno %d", c.off, c.length, err, c.errno)
		}
	}
}

func u64(v uint64) (b []byte) {
	for i := range 8 {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

func TestHeader(t *testing.T) {
	good := wire.Append(nil, wire.Header{Op: wire.OpUnpin, Request: 9}, &wire.ID{ID: 1})
	for _, c := range []struct {
		name  string
		edit  func(b []byte) []byte
		errno syscall.Errno
	}{
		{"whole", func(b []byte) []byte { return b }, 0},
		{"empty", func([]byte) []byte { return nil }, syscall.EBADMSG},
		{"half a header", func(b []byte) []byte { return b[:8] }, syscall.EBADMSG},
		{"half a body", func(b []byte) []byte { return b[:20] }, syscall.EBADMSG},
		{"too long", func(b []byte) []byte { return append(b, 0) }, syscall.EBADMSG},
		{"huge size", func(b []byte) []byte { copy(b[8:], "\xff\xff\xff\xff"); return b }, syscall.EBADMSG},
		{"unknown flag", func(b []byte) []byte { b[3] = 0x80; return b }, syscall.EINVAL},
		{"status of no answer", func(b []byte) []byte { b[12] = 1; return b }, syscall.EINVAL},
	} {
		hdr, body, err := wire.ParseHeader(c.edit(bytes.Clone(good)))
		switch {
		case c.errno != 0:
			if !errors.Is(err, c.errno) {
				t.Errorf("%s: %v, want errno %d", c.name, err, c.errno)
			}
		case err != nil || hdr.Op != wire.OpUnpin || hdr.Request != 9 || len(body) != 8:
			t.Errorf("%s: %+v %v %v", c.name, hdr, body, err)
		}
	}
}

func TestErrorAnswer(t *testing.T) {
	b := wire.AppendError(nil, wire.Header{Op: wire.OpPin, Request: 4}, syscall.EBUSY, string(make([]byte, 5000)))
	hdr, body, err := wire.ParseHeader(b)
	if err != nil || hdr.Status != uint32(syscall.EBUSY) || hdr.Request != 4 || hdr.Flags != wire.FlagReply || len(body) != wire.MaxText {
		t.Fatalf("%+v, %d bytes, %v", hdr, len(body), err)
	}
}

// The largest messages fit what they are promised to fit.
func TestLargest(t *testing.T) {
	lease := &wire.LeaseReply{Range: rng, Access: wire.AccessRead, Mode: wire.ModeShared, Pieces: make([]extent.Range, wire.MaxPieces)}
	for i := range lease.Pieces {
		lease.Pieces[i] = rng
	}
	memory := &wire.MapReply{Access: wire.AccessRead, Pieces: make([]wire.Piece, wire.MaxMapPieces)}
	for i := range memory.Pieces {
		memory.Pieces[i].Len = 4096
	}
	for _, b := range []wire.Body{lease, memory} {
		p := b.Append(nil)
		if len(p)+wire.HeaderSize > wire.MaxMessage {
			t.Errorf("%T has %d bytes", b, len(p))
		}
		if err := fresh(b).Decode(p); err != nil {
			t.Errorf("%T: %v", b, err)
		}
	}
	for _, s := range samples() {
		if _, reply := s.body.(*wire.LeaseReply); !reply && s.size+wire.HeaderSize > wire.MaxRequest {
			t.Errorf("%s does not fit a request", s.name)
		}
	}
}

// Random bodies survive the way there and back.
func TestRoundTrip(t *testing.T) {
	anyRange := rapid.Custom(func(t *rapid.T) extent.Range {
		off := rapid.Int64Range(0, extent.MaxSize-1).Draw(t, "off")
		if rapid.Bool().Draw(t, "infinite") {
			return extent.Range{Off: off, End: extent.Inf}
		}
		return extent.Range{Off: off, End: rapid.Int64Range(off+1, extent.MaxSize).Draw(t, "end")}
	})
	access := rapid.SampledFrom([]wire.Access{wire.AccessRead, wire.AccessWrite})
	mode := rapid.SampledFrom([]wire.Mode{wire.ModeShared, wire.ModeExclusive})
	id := rapid.Uint64()
	rapid.Check(t, func(t *rapid.T) {
		var pieces []extent.Range
		for range rapid.IntRange(0, 5).Draw(t, "pieces") {
			pieces = append(pieces, anyRange.Draw(t, "piece"))
		}
		for _, b := range []wire.Body{
			&wire.Acquire{Range: anyRange.Draw(t, "r"), Access: access.Draw(t, "a"), Mode: mode.Draw(t, "m"), Flags: rapid.Uint16Range(0, 7).Draw(t, "f")},
			&wire.Return{Lease: id.Draw(t, "l"), Range: anyRange.Draw(t, "r")},
			&wire.Modify{Lease: id.Draw(t, "l"), Access: access.Draw(t, "a"), Mode: mode.Draw(t, "m"), Flags: rapid.Uint16Range(0, 3).Draw(t, "f")},
			&wire.Pin{Context: id.Draw(t, "c"), Lease: id.Draw(t, "l"), Range: anyRange.Draw(t, "r"), Access: access.Draw(t, "a")},
			&wire.Commit{Lease: id.Draw(t, "l"), Range: anyRange.Draw(t, "r"), Size: rapid.Int64Range(-1, extent.MaxSize).Draw(t, "s")},
			&wire.LeaseReply{
				Lease: id.Draw(t, "l"), File: id.Draw(t, "i"), Seq: id.Draw(t, "q"), Range: anyRange.Draw(t, "r"), Access: access.Draw(t, "a"),
				Mode: mode.Draw(t, "m"), State: wire.State(rapid.Uint8Range(0, 7).Draw(t, "s")), Pieces: pieces,
			},
			&wire.RegisterReply{Context: id.Draw(t, "c"), Name: rapid.StringN(0, 20, wire.MaxName).Draw(t, "n")},
			&wire.Break{
				Lease: id.Draw(t, "l"), Seq: id.Draw(t, "q"), Change: id.Draw(t, "c"), Range: anyRange.Draw(t, "r"),
				Deadline: rapid.Int64Min(0).Draw(t, "d"), Kind: wire.BreakKind(rapid.Uint8Range(1, 3).Draw(t, "k")),
				Class: wire.Class(rapid.Uint8Range(0, 4).Draw(t, "cl")), Ask: wire.Ask(rapid.Uint8Range(0, 3).Draw(t, "as")),
			},
		} {
			got := fresh(b)
			if err := got.Decode(b.Append(nil)); err != nil || !reflect.DeepEqual(got, b) {
				t.Fatalf("%+v became %+v, %v", b, got, err)
			}
		}
	})
}

func TestNames(t *testing.T) {
	for op := wire.OpHello; op <= wire.OpEvacuate; op++ {
		if s := op.String(); s == "" || s[0] == 'O' {
			t.Errorf("operation %d has no name", op)
		}
	}
	if s := wire.Op(999).String(); s != "OP(999)" {
		t.Error(s)
	}
}
