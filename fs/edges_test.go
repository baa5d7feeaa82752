package fs

import (
	"bytes"
	"context"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/layout"
)

// A flush that is cancelled half way leaves what it did not reach to the next.
func TestFlushCancelled(t *testing.T) {
	r := newRig(t)
	want := map[extent.Ino]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		ino := r.file(name, []byte("content of "+name))
		want[ino] = "content of " + name
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := r.Sync(cancelled); err == nil {
		t.Fatal("a cancelled flush succeeded")
	}
	r.reopen()
	for ino, w := range want {
		if got := string(r.content(ino)); got != w {
			t.Errorf("inode %d after a clean stop: %q, want %q", ino, got, w)
		}
	}
}

// A punch by the holder himself leaves what lies around it in its blocks.
func TestPunchOwnWindowEdges(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte("x"), 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	copy(v.at(0), "holder")
	r.write(ino, []byte("mount"), 10)
	r.write(ino, []byte("end"), 3*block-3)
	want := r.content(ino)
	clear(want[100 : 3*block-100])
	r.must(r.Fallocate(ctx, h.caller(), ino, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100, 3*block-200))
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs at %d", firstDiff(got, want))
	}
	h.release(l)
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs after release at %d", firstDiff(got, want))
	}
}

func TestPunchOwnWindowInBlock(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte("x"), 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	r.write(ino, []byte("mount"), block+10)
	want := r.content(ino)
	clear(want[block+100 : block+200])
	r.must(r.Reshape(ctx, h.caller(), ino, punchHole, rng(block+100, block+200)))
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs at %d", firstDiff(got, want))
	}
	copy(v.at(block), "still mapped")
	if got := r.read(ino, block, 5); got != "still" {
		t.Errorf("the mount reads %q through a window that nothing was taken of", got)
	}
	h.release(l)
}

// Write-back of a mapping's pages never lets the file grow.
func TestWritebackBehindEnd(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte("x"), 3*block))
	r.must(r.Truncate(ctx, Caller{}, ino, block+10)) // by another way than the mount
	old := bytes.Repeat([]byte("o"), block)
	for off := int64(0); off < 3*block; off += block {
		if n, err := r.Write(ctx, Caller{}, ino, old, off, false, true); n != block || err != nil {
			t.Errorf("write-back at %d: %d, %v", off, n, err)
		}
	}
	if got, want := r.content(ino), bytes.Repeat([]byte("o"), block+10); !bytes.Equal(got, want) {
		t.Errorf("size %d after write-back, want %d", len(got), len(want))
	}
	r.must(r.Truncate(ctx, Caller{}, ino, 3*block))
	want := append(bytes.Repeat([]byte("o"), block+10), make([]byte, 2*block-10)...)
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("after growth content differs at %d", firstDiff(got, want))
	}
}

// A mapping that is refused for want of memory takes no blocks.
func TestMapRefusedTakesNothing(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.MaxWindowBytes = 8 * block })
	ino := r.file("f", []byte("x"))
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Write)
	before, _ := r.Statfs(ctx)
	if _, err := r.Map(ctx, l, ino, rng(0, 4096*block), true); err == nil {
		t.Fatal("mapped")
	}
	after, _ := r.Statfs(ctx)
	if d := before.Free - after.Free; d > 0 {
		t.Errorf("a refused mapping took %d blocks", d)
	}
	h.release(l)
}

// What a holder left behind the end of file does not appear after his release,
// though somebody else still maps it.
func TestTailOfSharedWindow(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", []byte("12345"))
	w, rd := r.session(1), r.session(2)
	lw := w.lease(ino, rng(0, 4*block), layout.Write)
	lr := rd.lease(ino, rng(0, 4*block), layout.Read)
	vw := w.mmap(lw, ino, rng(0, 4*block), true)
	defer vw.close()
	vr := rd.mmap(lr, ino, rng(0, 4*block), false)
	defer vr.close()
	copy(vw.at(5), "junk")
	copy(vw.at(2*block), "junk")
	w.release(lw)
	r.must(r.Truncate(ctx, Caller{}, ino, 4*block))
	want := append([]byte("12345"), make([]byte, 4*block-5)...)
	a := r.content(ino)
	r.must(r.Fsync(ctx, ino, false))
	rd.release(lr)
	b := r.content(ino)
	if !bytes.Equal(a, b) {
		t.Errorf("content changed by itself at %d", firstDiff(a, b))
	}
	if !bytes.Equal(a, want) {
		t.Errorf("junk shows at %d", firstDiff(a, want))
	}
}

func TestMapMoreThanTheVolume(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.MaxWindowBytes = 1 << 41 })
	ino := r.file("f", []byte("x"))
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Write)
	_, err := r.Map(ctx, l, ino, rng(0, 1<<40), true)
	wantErr(t, err, syscall.ENOSPC, "map more than the volume")
	_, err = r.Map(ctx, l, ino, rng(0, 1<<40), false)
	wantErr(t, err, syscall.ENOMEM, "map more than memory for reading")
	h.release(l)
}

// TestKillPriv: what somebody other than an administrator changes by another way than the
// mount loses set-user-id, as it does by the mount.
func TestKillPriv(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		what string
		do   func(Caller, extent.Ino) error
	}{
		{"truncate down", func(c Caller, ino extent.Ino) error { return r.Truncate(ctx, c, ino, block) }},
		{"truncate up", func(c Caller, ino extent.Ino) error { return r.Truncate(ctx, c, ino, 9*block) }},
		{"punch", func(c Caller, ino extent.Ino) error { return r.Reshape(ctx, c, ino, punchHole, rng(1, 2*block)) }},
	} {
		for _, admin := range []bool{false, true} {
			ino := r.file(fmt.Sprint(c.what, admin), make([]byte, 3*block))
			_, err := r.SetAttr(ctx, Caller{}, ino, SetAttr{Valid: SetMode, Mode: 0o6775})
			r.must(err)
			r.must(c.do(Caller{UID: 1000, Admin: admin}, ino))
			want := uint32(0o775)
			if admin {
				want = 0o6775
			}
			if got := r.attr(ino).Mode & permission; got != want {
				t.Errorf("%s, admin %v: mode %o, want %o", c.what, admin, got, want)
			}
		}
	}
}
