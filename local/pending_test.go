package local

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/wire"
)

// A holder that does not read costs a bounded number of events, delays nobody, and
// when it reads is told of everything, the latest of it merged.
func TestHolderThatDoesNotRead(t *testing.T) {
	h, err := newHub()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	}()
	srv := &Server{hub: h}
	srv.cfg.complete()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	lease := &handle{srv: srv, kind: wire.ObjectLease, id: 7, fd: -1}
	notify := func(i int) {
		r := arbiter.RangeOf(extent.Range{Off: int64(i) * 4096, End: int64(i+1) * 4096})
		deadline := time.Unix(1_000_000-int64(i), 0)
		lease.Notify(arbiter.Event{
			Kind: arbiter.EventBreak, Lease: 7, LeaseSeq: uint64(i + 2), Range: &r, Class: layout.Subtractive, Ask: layout.AskReturn, Deadline: &deadline,
		})
	}
	notify(0) // before it is attached
	if err := lease.attach(fds[0], nil, 1); err != nil {
		t.Fatal(err)
	}
	read := func() (hdr wire.Header, body []byte) {
		buf := make([]byte, 256)
		p := []unix.PollFd{{Fd: int32(fds[1]), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, 20_000); n != 1 || err != nil {
			t.Fatal("nothing comes", n, err)
		}
		n, err := unix.Read(fds[1], buf)
		if err != nil {
			t.Fatal(err)
		}
		if hdr, body, err = wire.ParseHeader(buf[:n]); err != nil {
			t.Fatal(err)
		}
		return hdr, body
	}
	if hdr, _ := read(); hdr.Op != wire.OpAttach || hdr.Request != 1 {
		t.Fatalf("first comes %+v", hdr)
	}
	if hdr, _ := read(); hdr.Op != wire.OpBreak {
		t.Fatalf("then comes %+v", hdr)
	}
	const n = 1000
	for i := 1; i < n; i++ {
		notify(i) // returns though nobody reads
	}
	lease.mu.Lock()
	if lease.queued != maxPending || !lease.full {
		t.Errorf("%d pending, waits for room: %v", lease.queued, lease.full)
	}
	lease.mu.Unlock()

	next, messages := int64(4096), 0
	for next < n*4096 {
		_, body := read()
		messages++
		var b wire.Break
		if err := b.Decode(body); err != nil {
			t.Fatal(err)
		}
		if b.Range.Off != next {
			t.Fatalf("break of %v, nothing told of %d", b.Range, next)
		}
		next = b.Range.End
		if merged := b.Range.Len() > 4096; merged != (b.Flags&wire.BreakMerged != 0) {
			t.Errorf("merged: %+v", b)
		} else if merged && (b.Seq != n+1 || b.Deadline != time.Unix(1_000_000-n+1, 0).UnixNano()) {
			t.Errorf("merged: %+v", b)
		}
	}
	if messages > 64 {
		t.Errorf("%d messages were kept for a holder that does not read", messages)
	}
	// It is heard again afterwards.
	notify(n)
	if _, body := read(); len(body) != wire.BreakSize {
		t.Errorf("%d bytes", len(body))
	}
	lease.mu.Lock()
	lease.watch.remove()
	lease.mu.Unlock()
}
