package wire_test

import (
	"bytes"
	"testing"

	"holdfast/wire"
)

// fuzz feeds a decoder: it must not panic, must not accept what it would write
// differently, and must not alter or keep its input.
func fuzz(f *testing.F, name string) {
	var proto wire.Body
	for _, s := range samples() {
		if s.name == name {
			proto = s.body
			f.Add(s.body.Append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		body := fresh(proto)
		err := body.Decode(b)
		if !bytes.Equal(in, b) {
			t.Fatal("input was altered")
		}
		if err != nil {
			return
		}
		clear(b)
		if out := body.Append(nil); !bytes.Equal(out, in) {
			t.Fatalf("%+v\nfrom %x\nto   %x", body, in, out)
		}
	})
}

func FuzzHello(f *testing.F)         { fuzz(f, "Hello") }
func FuzzHelloReply(f *testing.F)    { fuzz(f, "HelloReply") }
func FuzzAttach(f *testing.F)        { fuzz(f, "Attach") }
func FuzzAttachReply(f *testing.F)   { fuzz(f, "AttachReply") }
func FuzzAcquire(f *testing.F)       { fuzz(f, "Acquire") }
func FuzzReturn(f *testing.F)        { fuzz(f, "Return") }
func FuzzModify(f *testing.F)        { fuzz(f, "Modify") }
func FuzzLeaseReply(f *testing.F)    { fuzz(f, "LeaseReply") }
func FuzzRegister(f *testing.F)      { fuzz(f, "Register") }
func FuzzRegisterReply(f *testing.F) { fuzz(f, "RegisterReply") }
func FuzzPin(f *testing.F)           { fuzz(f, "Pin") }
func FuzzID(f *testing.F)            { fuzz(f, "ID") }
func FuzzMap(f *testing.F)           { fuzz(f, "Map") }
func FuzzMapReply(f *testing.F)      { fuzz(f, "MapReply") }
func FuzzCommit(f *testing.F)        { fuzz(f, "Commit") }
func FuzzChange(f *testing.F)        { fuzz(f, "Change") }
func FuzzWould(f *testing.F)         { fuzz(f, "Would") }
func FuzzList(f *testing.F)          { fuzz(f, "List") }
func FuzzCancel(f *testing.F)        { fuzz(f, "Cancel") }
func FuzzGrow(f *testing.F)          { fuzz(f, "Grow") }
func FuzzScrub(f *testing.F)         { fuzz(f, "Scrub") }
func FuzzReclaim(f *testing.F)       { fuzz(f, "Reclaim") }
func FuzzBreak(f *testing.F)         { fuzz(f, "Break") }
func FuzzEmpty(f *testing.F)         { fuzz(f, "Empty") }

func FuzzHeader(f *testing.F) {
	f.Add(wire.Append(nil, wire.Header{Op: wire.OpUnpin, Request: 9}, &wire.ID{ID: 1}))
	f.Add(wire.AppendError(nil, wire.Header{Op: wire.OpPin}, 16, "busy"))
	f.Fuzz(func(t *testing.T, b []byte) {
		hdr, body, err := wire.ParseHeader(b)
		if err != nil {
			return
		}
		if out := append(wire.AppendHeader(nil, hdr), body...); !bytes.Equal(out, b) {
			t.Fatalf("%+v\nfrom %x\nto   %x", hdr, b, out)
		}
	})
}
