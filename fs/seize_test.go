package fs

import (
	"bytes"
	"testing"

	"holdfast/layout"
)

// TestSeizeOfSharedWindow: what is seized is taken out of a window where nobody else leases it; the rest stays with the other, and also
// with whom it was taken from, who has it mapped.
func TestSeizeOfSharedWindow(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'f'}, 8*block))
	a, b := r.session(1001), r.session(1002)
	la, lb := a.lease(ino, rng(0, 8*block), layout.Write), b.lease(ino, rng(4*block, 8*block), layout.Read)
	va, vb := a.mmap(la, ino, rng(0, 8*block), true), b.mmap(lb, ino, rng(4*block, 8*block), false)
	defer va.close()
	defer vb.close()
	copy(va.at(0), "until then")
	r.must(r.arb.Seize(ctx, la))
	if ev := <-a.events; len(b.events) != 0 {
		t.Errorf("the other was told %+v, the first %+v", <-b.events, ev)
	}
	copy(va.at(block), "late")
	r.write(ino, []byte("mount"), 5*block)
	for name, got := range map[string]string{"who was seized": string(va.at(5 * block)[:5]), "the other": string(vb.at(5 * block)[:5])} {
		if got != "mount" {
			t.Errorf("%s sees %q in what they shared", name, got)
		}
	}
	if got := r.read(ino, 0, 10) + r.read(ino, block, 4); got != "until thenffff" {
		t.Errorf("the file has %q where the lease was seized", got)
	}
	b.release(lb)
	if !va.dead(0) || !vb.dead(0) {
		t.Error("the window outlives the last lease")
	}
}
