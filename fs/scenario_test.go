package fs

import (
	"bytes"
	"syscall"
	"testing"
	"testing/synctest"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// Scenarios of the discussion of 2019 with a holder on another machine: it writes to the device by the addresses it was told, and
// nothing of it passes the filesystem.

// deviceWrite is what such a holder does: it writes p at off of the file, at the addresses that the file had then.
func (r *rig) deviceWrite(ino extent.Ino, p []byte, off int64) {
	r.t.Helper()
	info, err := r.Stat(ctx, ino)
	r.must(err)
	for _, e := range info.Extents {
		part := e.Range().Intersect(rng(off, off+int64(len(p))))
		if part.Empty() {
			continue
		}
		if e.State != extent.Written || e.Addr.Seg != extent.Device {
			r.t.Fatalf("%v is not complete and static", e)
		}
		_, err := r.dev.WriteAt(p[part.Off-off:part.End-off], e.Addr.Off+part.Off-e.Off)
		r.must(err)
	}
}

// A lease reaches beyond the end of the file; what is written there becomes content with the size, and not before.
func TestScenario15BeyondEnd(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", []byte("begin"))
	h := r.session(0)
	l := h.acquire(arbiter.AcquireRequest{
		File: ino, Range: rng(0, 16*extent.BlockSize), Access: layout.Write, Prepare: arbiter.PrepareWritten,
	})
	written := bytes.Repeat([]byte{7}, 3*extent.BlockSize)
	r.deviceWrite(ino, written, extent.BlockSize)
	if got := r.content(ino); string(got) != "begin" {
		t.Fatalf("before the commit the file has %q", got)
	}
	size := int64(4*extent.BlockSize - 100)
	r.must(r.Commit(ctx, l, ino, rng(extent.BlockSize, 4*extent.BlockSize), size))
	want := append(append([]byte("begin"), make([]byte, extent.BlockSize-5)...), written...)[:size]
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("after the commit the file has %d bytes, want %d as written", len(got), len(want))
	}
	wantErr(t, r.Commit(ctx, l, ino, rng(0, extent.BlockSize), 2*extent.BlockSize), syscall.EINVAL, "a size behind what is committed")
	h.release(l)
	r.reopen()
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("after a restart the file has %d bytes, want %d as written", len(got), len(want))
	}
}

// A request for a layout that meets a recall is turned away (NFS4ERR_RECALLCONFLICT) and has asked nobody; the return that crosses the
// recall answers it; and the next request is granted what is there after the change.
func TestScenario16RecallRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ino := r.file("f", bytes.Repeat([]byte{1}, 8*extent.BlockSize))
		a, b := r.session(0), r.session(0)
		whole := rng(0, 8*extent.BlockSize)
		l := a.lease(ino, whole, layout.Write)
		done := make(chan error)
		go func() {
			_, err := r.SetAttr(ctx, Caller{Wait: arbiter.WaitForever}, ino, SetAttr{Valid: SetSize})
			done <- err
		}()
		ev := <-a.events
		if ev.Kind != arbiter.EventBreak || ev.Lease != l {
			t.Fatalf("the holder was told %+v", ev)
		}
		for _, h := range []*holder{a, b} {
			_, err := r.arb.Acquire(ctx, h.id, arbiter.AcquireRequest{File: ino, Range: whole, Access: layout.Write, NoWait: true}, h)
			wantErr(t, err, syscall.EAGAIN, "a request under a recall")
		}
		if len(a.events)+len(b.events) != 0 {
			t.Error("a request that was turned away has told somebody")
		}
		r.must(r.arb.Return(ctx, a.id, l, whole))
		r.must(<-done)
		b.release(b.lease(ino, whole, layout.Write))
		if got := r.content(ino); len(got) != 0 {
			t.Errorf("%d bytes are left", len(got))
		}
	})
}
