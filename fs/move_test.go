package fs

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// scattered makes two files of which every other block is the other's.
func (r *rig) scattered(n int64) (a, b extent.Ino) {
	r.t.Helper()
	a, b = r.file("a", nil), r.file("b", nil)
	for i := range n {
		for _, ino := range []extent.Ino{a, b} {
			r.write(ino, bytes.Repeat([]byte{byte('a' + i%20)}, block), i*block)
			r.must(r.Fsync(ctx, ino, false))
		}
	}
	return a, b
}

// runs returns of how many runs of blocks a file consists.
func (r *rig) runs(ino extent.Ino) int {
	r.t.Helper()
	at := r.addrs(ino)
	n := 0
	for k := range at {
		if k == 0 || at[k] != at[k-1]+block {
			n++
		}
	}
	return n
}

func TestDefrag(t *testing.T) {
	r := newRig(t)
	a, b := r.scattered(40)
	want := r.content(a)
	if r.runs(a) < 2 {
		t.Skipf("the file has %d runs", r.runs(a))
	}
	before := r.addrs(b)
	m, err := r.Defrag(ctx, Caller{}, a, false)
	r.must(err)
	if n := r.runs(a); n != 1 || m.Bytes != 40*block || len(m.Skipped) != 0 {
		t.Errorf("%d runs, %+v", n, m)
	}
	if !bytes.Equal(r.content(a), want) || len(before) != len(r.addrs(b)) {
		t.Error("the content differs")
	}
	if m, err = r.Defrag(ctx, Caller{}, a, false); m.Bytes != 0 || err != nil {
		t.Errorf("a second time %+v, %v", m, err)
	}
	r.reopen()
	if !bytes.Equal(r.content(a), want) {
		t.Error("the content differs after a restart")
	}
}

// TestScenario20Defrag: two programs that know nothing of each other reach a file directly;
// it is not moved then, and who reaches it is named.
func TestScenario20Defrag(t *testing.T) {
	r := newRig(t)
	a, _ := r.scattered(40)
	h, o := r.session(4711), r.session(4712)
	l1, l2 := h.lease(a, rng(0, 40*block), layout.Write), o.lease(a, rng(8*block, 16*block), layout.Read)
	c1, _ := h.pin(l1, rng(0, 8*block), layout.Write)
	o.pin(l2, rng(8*block, 16*block), layout.Read)
	at := r.addrs(a)
	m, err := r.Defrag(ctx, Caller{}, a, false)
	r.must(err)
	if len(m.Skipped) != 1 || m.Bytes != 0 || len(m.Skipped[0].Blockers) < 2 || m.Skipped[0].Path != "/a" || m.Skipped[0].Reason == "" {
		t.Errorf("%+v", m)
	}
	for k, got := range r.addrs(a) {
		if got != at[k] {
			t.Fatalf("block %d was moved under a pin", k)
		}
	}
	r.must(r.arb.CloseContext(ctx, c1))
	h.release(l1)
	if m, err = r.Defrag(ctx, Caller{}, a, false); len(m.Skipped) != 1 || err != nil {
		t.Errorf("under the other's pin: %+v, %v", m, err)
	}
}

// TestDefragOfAHeldBlock: what only a hold is on, and no lease, is not moved, either.
func TestDefragOfAHeldBlock(t *testing.T) {
	r := newRig(t)
	a, _ := r.scattered(10)
	hold := r.hold(a, 3, 1)
	m, err := r.Defrag(ctx, Caller{}, a, false)
	if len(m.Skipped) != 1 || m.Bytes != 0 || err != nil {
		t.Errorf("%+v, %v", m, err)
	}
	r.Storage().Unhold(hold)
}

func TestEvacuate(t *testing.T) {
	r := newRig(t)
	big := r.file("big", make([]byte, 40<<20))
	r.must(r.Fsync(ctx, big, false))
	a := r.file("a", bytes.Repeat([]byte("abc"), 1<<20))
	r.must(r.Fsync(ctx, a, false))
	twin := r.file("twin", nil)
	_, err := r.CopyRange(ctx, Caller{}, a, 0, twin, 0, 3<<20)
	r.must(err)
	r.must(r.Truncate(ctx, Caller{}, big, 1<<20))
	want := r.content(a)
	const size = 20 << 20
	h := r.session(4711)
	l := h.lease(twin, rng(block, 2*block), layout.Read)
	c, _ := h.pin(l, rng(block, 2*block), layout.Read)
	_, err = r.Evacuate(ctx, Caller{}, size, false)
	wantErr(t, err, syscall.EBUSY, "with a pin behind the end")
	if err == nil || !strings.Contains(err.Error(), "/twin") {
		t.Errorf("the refusal does not name the file: %v", err)
	}
	if i := r.vol.Info(); i.Size != testSize || i.Away != 0 {
		t.Errorf("after the refusal %+v", i)
	}
	r.must(r.arb.CloseContext(ctx, c))
	h.release(l)
	m, err := r.Evacuate(ctx, Caller{}, size, false)
	r.must(err)
	i := r.vol.Info()
	if i.Size != size || i.Total != size-1<<20 || len(m.Skipped) != 0 || i.Away != 0 {
		t.Errorf("%+v, %+v", i, m)
	}
	for _, ino := range []extent.Ino{a, twin} {
		if !bytes.Equal(r.content(ino), want) {
			t.Error("the content differs")
		}
	}
	if !r.shared(a, rng(0, 1<<20)) {
		t.Error("what was shared is shared no more")
	}
	full, free := r.file("full", nil), r.vol.Statfs().Free
	if n, err := r.Write(ctx, Caller{}, full, make([]byte, size), 0, false, false); int64(n) != free || err != nil {
		t.Errorf("of a file as long as the volume %d bytes were written, %v; %d were free", n, err, free)
	}
	r.must(r.Truncate(ctx, Caller{}, full, 0))
	r.reopen()
	if i := r.vol.Info(); i.Size != size || !bytes.Equal(r.content(a), want) {
		t.Errorf("after a restart %+v", i)
	}
	_, err = r.Grow(ctx, testSize)
	r.must(err)
	r.write(twin, make([]byte, 30<<20), 0)
	r.must(r.Fsync(ctx, twin, false))
}

// TestDefragForced: with force the holders are asked.
func TestDefragForced(t *testing.T) {
	r := newRig(t)
	a, _ := r.scattered(10)
	h := r.session(4711)
	l := h.lease(a, rng(0, 10*block), layout.Read)
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-h.events:
			h.release(l)
		case <-over:
		}
	}()
	m, err := r.Defrag(ctx, Caller{Admin: true, Wait: arbiter.WaitForever}, a, true)
	close(over)
	<-done
	if errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("on_hold=revoke is not there")
	}
	if err != nil || m.Bytes == 0 {
		t.Errorf("%+v, %v", m, err)
	}
}
