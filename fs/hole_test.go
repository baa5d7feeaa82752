package fs

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/layout"
)

// TestReadersWindowTakesNothing: who maps a sparse file for reading takes no block of the
// volume, sees what others write into the holes, and leaves the others holes.
func TestReadersWindowTakesNothing(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", []byte("x"))
	r.must(r.Truncate(ctx, Caller{}, ino, 1000*block))
	r.must(r.Fsync(ctx, ino, false))
	before, free := r.attr(ino), r.vol.Statfs().Free
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Read)
	v := h.mmap(l, ino, rng(0, 2000*block), false) // half of it behind the end of file
	defer v.close()
	if got := v.at(0); got[0] != 'x' || !bytes.Equal(got[1:], make([]byte, 2000*block-1)) {
		t.Error("the window does not show the byte and zeros")
	}
	r.must(r.Fsync(ctx, ino, false))
	r.flushed()
	if got := r.vol.Statfs().Free; got != free {
		t.Errorf("a reader's window took %d bytes", free-got)
	}
	if got := r.attr(ino); got != before {
		t.Errorf("attributes: %+v, before %+v", got, before)
	}
	if pos, err := r.Seek(ctx, ino, block, unix.SEEK_DATA); err == nil {
		t.Errorf("there is data at %d", pos)
	}

	r.write(ino, []byte("mount"), 100*block+10)
	r.write(ino, []byte("extended"), 1500*block)
	for off, want := range map[int64]string{100*block + 10: "mount", 1500 * block: "extended"} {
		if got := string(v.at(off)[:len(want)]); got != want {
			t.Errorf("the window shows %q at %d, want %q", got, off, want)
		}
	}
	want := ranges{rng(0, block), rng(100*block, 101*block), rng(1500*block, 1501*block)}
	check := func(when string) {
		t.Helper()
		r.must(r.Fsync(ctx, ino, false))
		if got := r.allocated(ino); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: allocated is %v, want %v", when, got, want)
		}
		if got := free - r.vol.Statfs().Free; got != want.bytes()-block {
			t.Errorf("%s: %d bytes less are free", when, got)
		}
		if got := string(r.home(ino, 101*block)[100*block+10:][:5]); got != "mount" {
			t.Errorf("%s: the device has %q", when, got)
		}
	}
	r.Release(ino) // nobody keeps blocks ahead
	check("mapped")
	content := r.content(ino)
	h.release(l)
	check("released")
	r.reopen()
	check("after a restart")
	if got := r.content(ino); !bytes.Equal(got, content) {
		t.Errorf("content differs after a restart at %d", firstDiff(got, content))
	}
}

// TestWriterSharesReadersWindow: who maps a hole for writing that is in a reader's window
// has blocks before he has memory. What he puts down beside his range, where nothing can
// be written back, is not content, and no content when that gets blocks.
func TestWriterSharesReadersWindow(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", nil)
	r.must(r.Truncate(ctx, Caller{}, ino, 16*block))
	rd, w := r.session(1), r.session(2)
	lr := rd.lease(ino, rng(0, 16*block), layout.Read)
	vr := rd.mmap(lr, ino, rng(0, 16*block), false)
	defer vr.close()
	lw := w.lease(ino, rng(4*block, 20*block), layout.Write)
	vw := w.mmap(lw, ino, rng(4*block, 20*block), true)
	defer vw.close()
	if vw.pieces[0].Window != vr.pieces[0].Window {
		t.Fatal("they do not share the window")
	}
	if got, want := r.allocated(ino), rng(4*block, 20*block); len(got) != 1 || got[0] != want {
		t.Errorf("allocated is %v, want %v", got, want)
	}
	copy(vw.at(5*block), "direct")
	if got := string(vr.at(5 * block)[:6]); got != "direct" || r.read(ino, 5*block, 6) != got {
		t.Errorf("the reader sees %q, the mount %q", got, r.read(ino, 5*block, 6))
	}
	_, err := vw.files[0].WriteAt([]byte("beside"), block)
	r.must(err)
	want := make([]byte, 16*block)
	copy(want[5*block:], "direct")
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("what was put down beside shows at %d", firstDiff(got, want))
	}
	r.write(ino, []byte("mount"), block+100)
	copy(want[block+100:], "mount")
	w.release(lw)
	if got := vr.at(0); !bytes.Equal(got, want) {
		t.Errorf("the reader's window differs at %d", firstDiff(got, want))
	}
	rd.release(lr)
	r.reopen()
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs at %d", firstDiff(got, want))
	}
	// The writer's blocks behind the end stay, as those of fallocate do.
	if got := r.allocated(ino); fmt.Sprint(got) != fmt.Sprint(ranges{rng(block, 2*block), rng(4*block, 20*block)}) {
		t.Errorf("allocated is %v", got)
	}
}

// TestHoleInWindowOfFullVolume: a hole in a reader's window is not promised any space. Who
// writes there is told that there is none, and nothing has changed.
func TestHoleInWindowOfFullVolume(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", nil)
	all := rng(0, 64*block)
	r.must(r.Truncate(ctx, Caller{}, ino, all.End))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 32*block), layout.Read)
	v := h.mmap(l, ino, rng(0, 32*block), false)
	defer v.close()
	hog := r.file("hog", nil)
	r.must(r.Fallocate(ctx, Caller{}, hog, 0, 0, r.vol.Statfs().Free-2*block))

	wantErr(t, r.Fallocate(ctx, Caller{}, ino, 0, 0, 3*block), syscall.ENOSPC, "allocate the hole")
	writer := r.session(4712)
	lw := writer.lease(ino, all, layout.Write)
	used := r.windowBytes.Load()
	for _, m := range []struct{ off, end int64 }{{0, 32}, {30, 33}, {31, 34}, {32, 40}} {
		_, err := r.Map(ctx, lw, ino, rng(m.off*block, m.end*block), true)
		wantErr(t, err, syscall.ENOSPC, "map blocks %d to %d for writing", m.off, m.end)
		if got := r.windowBytes.Load(); got != used {
			t.Errorf("%d bytes of windows after a mapping that failed, %d before", got, used)
		}
		if got := r.allocated(ino); len(got) != 0 {
			t.Errorf("a mapping that failed took %v", got)
		}
	}
	r.write(ino, []byte("fits"), 2*block)
	if got := string(v.at(2 * block)[:4]); got != "fits" {
		t.Errorf("the window shows %q", got)
	}
	if got := r.allocated(ino); len(got) != 1 || got[0] != rng(2*block, 3*block) {
		t.Errorf("allocated is %v", got)
	}
	if n, err := r.Write(ctx, Caller{}, ino, bytes.Repeat([]byte("short"), block), 2*block, false, false); n != 2*block || err != nil {
		t.Errorf("write of five blocks with room for one more: %d bytes, %v", n, err)
	}
	_, err := r.Write(ctx, Caller{}, ino, make([]byte, 3*block), 4*block, false, false)
	wantErr(t, err, syscall.ENOSPC, "write into the hole")
	h.release(l)
	writer.release(lw)
	want := make([]byte, all.End)
	copy(want[2*block:], bytes.Repeat([]byte("short"), block)[:2*block])
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs at %d", firstDiff(got, want))
	}
}

// TestCloneOverMappedHole: a window over a hole would not show what a clone puts there, so its holder is in the way.
func TestCloneOverMappedHole(t *testing.T) {
	r := newRig(t)
	ino, src := r.file("f", nil), r.file("src", bytes.Repeat([]byte("s"), 2*block))
	r.must(r.Truncate(ctx, Caller{}, ino, 8*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Read)
	v := h.mmap(l, ino, rng(0, 4*block), false)
	defer v.close()
	if n, err := r.CopyRange(ctx, Caller{}, src, 0, ino, 4*block, 2*block); n != 2*block || err != nil || len(h.events) != 0 {
		t.Errorf("into a hole that nobody maps: %d, %v, %d events", n, err, len(h.events))
	}
	_, err := r.CopyRange(ctx, Caller{Wait: 1}, src, 0, ino, 0, 2*block)
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("a clone over a hole that is mapped: %v", err)
	}
	if ev := <-h.events; ev.Class != layout.Subtractive {
		t.Errorf("told: %+v", ev)
	}
	h.release(l)
	if n, err := r.CopyRange(ctx, Caller{}, src, 0, ino, 0, 2*block); n != 2*block || err != nil || r.read(ino, 0, 3) != "sss" {
		t.Errorf("when it is given back: %d, %v", n, err)
	}
}
