package fs

import (
	"fmt"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// BenchmarkRevokeToReuse: from the deadline of a holder who does not answer, and has a window pinned, until the truncate that wants it is done.
func BenchmarkRevokeToReuse(b *testing.B) {
	for _, size := range []int64{64 << 10, 4 << 20} {
		for _, dirty := range []bool{false, true} {
			b.Run(fmt.Sprintf("window=%dKiB/dirty=%v", size>>10, dirty), func(b *testing.B) { benchRevoke(b, size, dirty) })
		}
	}
}

func benchRevoke(b *testing.B, size int64, dirty bool) {
	r := newRig(b, func(r *rig) { r.arbs.BreakTime = time.Nanosecond })
	h := r.session(4711)
	access := layout.Read
	if dirty {
		access = layout.Write
	}
	c := Caller{OnHold: layout.Revoke, Wait: arbiter.WaitForever}
	for b.Loop() {
		b.StopTimer()
		ino := r.file("f", make([]byte, size))
		l := h.lease(ino, rng(0, size), access)
		v := h.mmap(l, ino, rng(0, size), dirty)
		ctxID, _ := h.pin(l, rng(0, size), access)
		b.StartTimer()
		_, err := r.SetAttr(ctx, c, ino, SetAttr{Valid: SetSize})
		r.must(err)
		b.StopTimer()
		v.close()
		r.must(r.arb.CloseContext(ctx, ctxID))
		r.must(r.Unlink(ctx, Caller{}, extent.RootIno, "f"))
		for len(h.events) > 0 {
			<-h.events
		}
		b.StartTimer()
	}
}
