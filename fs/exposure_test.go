package fs

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/store"
)

// durable returns the records of exposures that a crash at this moment leaves.
func (r *rig) durable() map[string]string {
	r.t.Helper()
	st, err := store.Open("meta", store.Options{FS: r.mem.CrashClone(vfs.CrashCloneCfg{})})
	r.must(err)
	all := map[string]string{}
	r.must(st.Scan([]byte{'w'}, []byte{'w' + 1}, func(k, v []byte) (bool, error) {
		all[string(k)] = string(v)
		return true, nil
	}))
	r.must(st.Close())
	return all
}

// TestExposedBeforeHandedOut: when Map has returned it is durable who has what, and when Pin has, that he has it pinned; the next pin has
// nothing to add.
func TestExposedBeforeHandedOut(t *testing.T) {
	r := newRig(t, func(r *rig) { r.mem = vfs.NewCrashableMem() })
	ino := r.file("f", make([]byte, 4*block))
	id, err := r.arb.OpenSession(arbiter.SessionInfo{Kind: "test", PID: 4711, Start: 1, UID: 7})
	r.must(err)
	h := &holder{r: r, id: id, events: make(chan arbiter.Event, 64)}
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	if n := len(r.durable()); n != 0 {
		t.Errorf("%d exposures before anything was mapped", n)
	}
	_, err = r.Map(ctx, l, ino, rng(0, 4*block), true)
	r.must(err)
	mapped := r.durable()
	for _, text := range mapped {
		if !strings.Contains(text, "4711") {
			t.Errorf("it does not say who has it: %q", text)
		}
	}
	c, _ := h.pin(l, rng(0, block), layout.Write)
	pinned := r.durable()
	if len(mapped) != 1 || len(pinned) != 1 || maps.Equal(mapped, pinned) {
		t.Errorf("mapped %q, pinned %q", mapped, pinned)
	}
	_, err = r.arb.Pin(ctx, h.id, c, l, rng(block, 2*block), layout.Write)
	r.must(err)
	if again := r.durable(); !maps.Equal(again, pinned) {
		t.Errorf("a second pin made %q of %q", again, pinned)
	}
	r.must(r.arb.CloseContext(ctx, c))
	h.release(l)
}

// TestNotKept: a crash of the server ends leases that were never mapped and contexts without pins, and a file without a name, though its
// holder has its memory.
func TestNotKept(t *testing.T) {
	r := newRig(t)
	ino, gone := r.file("f", make([]byte, block)), r.file("gone", bytes.Repeat([]byte{'g'}, block))
	r.must(r.Sync(ctx))
	s := r.survivor(1, ino, rng(0, block), layout.Write)
	nameless := r.survivor(2, gone, rng(0, block), layout.Write)
	s.holder.lease(ino, rng(4*block, 5*block), layout.Write) // not mapped
	_, err := r.arb.Register(s.id, testContext{})
	r.must(err)
	r.must(r.Unlink(ctx, Caller{}, root, "gone"))
	r.must(r.Sync(ctx))
	free := r.vol.Statfs().Free
	r.crash()
	if ls := r.arb.Leases(arbiter.Filter{}); len(ls) != 1 || ls[0].ID != s.lease {
		t.Errorf("leases %+v, want that which was mapped", ls)
	}
	if n := len(r.arb.Contexts(arbiter.Filter{})); n != 0 {
		t.Errorf("%d contexts", n)
	}
	if err := nameless.reclaim(); err == nil {
		t.Error("the memory of a file without a name was given back")
	}
	if got := r.vol.Statfs().Free; got < free+extent.BlockSize {
		t.Errorf("%d bytes are free, %d were when it had no name", got, free)
	}
	r.must(s.reclaim())
	s.release(s.lease)
}
