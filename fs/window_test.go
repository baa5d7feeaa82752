package fs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/window"
)

// TestWindowCoherence: a window begins as the file is, and from then on the holder
// and the mount see each other.
func TestWindowCoherence(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	want := r.content(ino)
	h := r.session(4711)
	l := h.lease(ino, rng(0, 20*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 20*block), true)
	defer v.close()
	if got := v.at(0); !bytes.Equal(got[:len(want)], want) || !bytes.Equal(got[len(want):], make([]byte, 20*block-len(want))) {
		t.Fatal("the window does not begin with the content and zeros behind it")
	}
	for _, off := range []int64{10, 5 * block, 9 * block, 12 * block} { // data, hole, unwritten, tail
		copy(v.at(off), "holder")
		if got := r.read(ino, off, 6); got != "holder" {
			t.Errorf("the mount reads %q at %d", got, off)
		}
		r.write(ino, []byte("mount"), off+50)
		if got := string(v.at(off + 50)[:5]); got != "mount" {
			t.Errorf("the holder sees %q at %d", got, off+50)
		}
	}
	// Behind the end of file the mount extends it, and the holder sees that.
	r.write(ino, []byte("extended"), 15*block)
	if got := string(v.at(15 * block)[:8]); got != "extended" {
		t.Errorf("the holder sees %q where the file was extended", got)
	}
	want = r.content(ino)
	h.release(l)
	if !v.dead(0) {
		t.Error("the window lives after its release")
	}
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs after release, at %d", firstDiff(got, want))
	}
	if got := r.home(ino, len(want)); !bytes.Equal(got, want) {
		t.Errorf("the device differs after release, at %d", firstDiff(got, want))
	}
	r.reopen()
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs after a restart, at %d", firstDiff(got, want))
	}
}

// TestWindowTail: what a holder wrote behind the end of file does not become content
// by his release, nor when the file grows later.
func TestWindowTail(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", []byte("12345"))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	copy(v.at(3), "45junk")
	copy(v.at(2*block), "junk")
	if got := r.read(ino, 0, 100); got != "12345" {
		t.Errorf("the mount reads %q", got)
	}
	r.must(r.Fsync(ctx, ino, false))
	if got := r.home(ino, 4*block); !bytes.Equal(got[5:], make([]byte, 4*block-5)) {
		t.Error("what lies behind the end of file was written back")
	}
	r.must(mustGet(r, ino).n.HomeExtents(rng(block, 4*block), func(e extent.Extent) bool {
		if e.State == extent.Written {
			t.Errorf("%v behind the end of file is written", e.Range())
		}
		return true
	}))
	h.release(l)
	r.must(r.Truncate(ctx, Caller{}, ino, 4*block))
	want := append([]byte("12345"), make([]byte, 4*block-5)...)
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("what lay behind the end of file shows at %d", firstDiff(got, want))
	}
}

func TestMapErrors(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.MaxWindowBytes = 8 * block })
	ino, other := r.testFile("f"), r.file("g", nil)
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Write)
	reader := h.lease(ino, rng(0, 2*block), layout.Read)
	for _, c := range []struct {
		what  string
		lease layout.LeaseID
		ino   extent.Ino
		r     extent.Range
		write bool
		want  syscall.Errno
	}{
		{"infinite", l, ino, rng(0, inf), true, syscall.EINVAL},
		{"empty", l, ino, rng(5, 5), true, syscall.EINVAL},
		{"too far", l, ino, rng(0, extent.MaxSize+block), true, syscall.EFBIG},
		{"too large", l, ino, rng(0, 9*block), true, syscall.ENOMEM},
		{"other file", l, other, rng(0, block), true, syscall.EINVAL},
		{"outside of the lease", reader, ino, rng(block, 3*block), false, syscall.EPERM},
		{"writable by a reader", reader, ino, rng(0, block), true, syscall.EPERM},
		{"no lease", 1 << 40, ino, rng(0, block), false, syscall.ENOENT},
		{"much too large", l, ino, rng(0, 1<<40), true, syscall.ENOMEM},
	} {
		_, err := r.Map(ctx, c.lease, c.ino, c.r, c.write)
		wantErr(t, err, c.want, "map %s", c.what)
	}
	_, err := r.Map(ctx, l, ino, rng(0, 9*block), true)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(8*block)) {
		t.Errorf("the error does not name the limit: %v", err)
	}
	if used := r.windowBytes.Load(); used != 0 {
		t.Errorf("%d bytes of windows are left after errors", used)
	}
	// The limit counts what lives, and what two share once.
	v := h.mmap(l, ino, rng(0, 8*block), true)
	h.mmap(reader, ino, rng(0, 2*block), false).close()
	_, err = r.Map(ctx, l, ino, rng(8*block, 9*block), true)
	wantErr(t, err, syscall.ENOMEM, "one block more than the limit")
	v.close()
	h.release(reader)
	h.release(l)
	l = h.lease(ino, rng(8*block, 16*block), layout.Write)
	h.mmap(l, ino, rng(8*block, 16*block), true).close()
}

// TestWindowsShared: holders of the same bytes share the memory, it lives until the
// last one goes, and what only one had goes with him.
func TestWindowsShared(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'f'}, 12*block))
	a, b := r.session(1001), r.session(1002)
	la, lb := a.lease(ino, rng(0, 8*block), layout.Write), b.lease(ino, rng(4*block, 12*block), layout.Read)
	va, vb := a.mmap(la, ino, rng(0, 8*block), true), b.mmap(lb, ino, rng(4*block, 12*block), false)
	defer va.close()
	defer vb.close()
	if len(va.pieces) != 1 || len(vb.pieces) != 2 || vb.pieces[0].Window != va.pieces[0].Window {
		t.Fatalf("pieces: %+v and %+v", va.pieces, vb.pieces)
	}
	copy(va.at(5*block), "from a")
	if got := string(vb.at(5 * block)[:6]); got != "from a" {
		t.Errorf("the other holder sees %q", got)
	}
	copy(va.at(0), "only a")
	a.release(la)
	if got := r.read(ino, 0, 6); got != "only a" {
		t.Errorf("the mount reads %q of what was only mapped by the first", got)
	}
	if got := string(r.home(ino, 12*block)[5*block:][:6]); got != "from a" {
		t.Errorf("the device has %q of what the first one wrote and the other one still maps", got)
	}
	if got := va.at(0)[:6]; !bytes.Equal(got, make([]byte, 6)) {
		t.Errorf("what was detached shows %q to its old holder", got)
	}
	r.write(ino, []byte("mount"), 5*block)
	if got := string(vb.at(5 * block)[:5]); got != "mount" {
		t.Errorf("the second holder sees %q after the first has gone", got)
	}
	r.write(ino, []byte("later"), 0)
	if bytes.Contains(va.at(0)[:4*block], []byte("later")) {
		t.Error("an old mapping shows later bytes")
	}
	b.release(lb)
	if !vb.dead(0) || !vb.dead(1) {
		t.Error("windows live on after the last holder")
	}
	if got := r.read(ino, 5*block, 6); got != "mounta" {
		t.Errorf("content after all: %q", got)
	}
}

// TestPartialReturn detaches what is returned and leaves the rest as it is.
func TestPartialReturn(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'f'}, 8*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 8*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 8*block), true)
	defer v.close()
	copy(v.at(3*block), "returned")
	copy(v.at(6*block), "kept")
	r.must(r.arb.Return(ctx, h.id, l, rng(2*block, 4*block)))
	if got := r.read(ino, 3*block, 8); got != "returned" {
		t.Errorf("content of what was returned: %q", got)
	}
	copy(v.at(3*block), "too late")
	if got := r.read(ino, 3*block, 8); got != "returned" {
		t.Errorf("a store after the return shows: %q", got)
	}
	copy(v.at(6*block+4), "+more")
	if got := r.read(ino, 6*block, 9); got != "kept+more" {
		t.Errorf("content of what was kept: %q", got)
	}
	_, err := r.Map(ctx, l, ino, rng(0, 8*block), true)
	wantErr(t, err, syscall.EPERM, "map of what was returned")
	r.must(r.Reshape(ctx, Caller{}, ino, punchHole, rng(2*block, 4*block)))
	h.release(l)
}

// TestCommit makes what was written directly durable, and the file as long as it says.
func TestCommit(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", nil)
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	var invalid []extent.Ino
	r.OnDrop(func(ino extent.Ino) { invalid = append(invalid, ino) })
	copy(v.at(0), "committed")
	copy(v.at(block), "not yet")
	before := r.attr(ino)
	for _, c := range []struct {
		what string
		r    extent.Range
		size int64
		want syscall.Errno
	}{
		{"behind its range", rng(0, block), 2 * block, syscall.EINVAL}, {"a negative size", rng(0, block), -2, syscall.EINVAL},
		{"nothing", rng(0, 0), -1, syscall.EINVAL}, {"outside of the lease", rng(0, 5*block), -1, syscall.EPERM},
	} {
		wantErr(t, r.Commit(ctx, l, ino, c.r, c.size), c.want, "commit of %s", c.what)
	}
	r.must(r.Commit(ctx, l, ino, rng(0, block), 9))
	after := r.attr(ino)
	if after.Size != 9 || after.Mtime == before.Mtime || after.Ctime == before.Ctime {
		t.Errorf("after commit: size %d, mtime %d, before %d", after.Size, after.Mtime, before.Mtime)
	}
	if got := string(r.home(ino, 9)); got != "committed" {
		t.Errorf("the device has %q", got)
	}
	if i, err := r.get(ino); err != nil || i.n.Dirty() {
		t.Errorf("a committed file has something to sync (%v)", err)
	} else {
		r.put(i)
	}
	r.must(r.Commit(ctx, l, ino, rng(0, 4*block), 3)) // only grows
	if size := r.attr(ino).Size; size != 9 {
		t.Errorf("a commit made the file shorter: %d", size)
	}
	if len(invalid) != 2 || invalid[0] != ino {
		t.Errorf("invalidated: %v", invalid)
	}
	reader := h.lease(ino, rng(0, block), layout.Read)
	wantErr(t, r.Commit(ctx, reader, ino, rng(0, block), -1), syscall.EPERM, "commit of a read lease")
}

// TestFsyncWritesBack both what holders and what the mount wrote; the flusher only
// what the mount wrote.
func TestFsyncWritesBack(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 2*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 2*block), true)
	defer v.close()
	reader := h.lease(ino, rng(2*block, 6*block), layout.Read)
	vr := h.mmap(reader, ino, rng(2*block, 6*block), false)
	defer vr.close()
	home := func(off int, n int) string { return strings.Trim(string(r.home(ino, 6*block)[off:off+n]), "\x00") }
	copy(v.at(0), "holder")
	r.write(ino, []byte("mount"), 2*block)
	r.flushed()
	if home(0, 6) != "" || home(2*block, 5) != "mount" {
		t.Errorf("after a flush the device has %q and %q", home(0, 6), home(2*block, 5))
	}
	r.write(ino, []byte("again"), 3*block)
	r.must(r.Fsync(ctx, ino, false))
	if home(0, 6) != "holder" || home(3*block, 5) != "again" {
		t.Errorf("after fsync the device has %q and %q", home(0, 6), home(3*block, 5))
	}
	r.write(ino, []byte("extended"), 5*block)
	r.must(r.Fsync(ctx, ino, false))
	if home(5*block, 8) != "extended" {
		t.Errorf("after the file was extended in a window the device has %q", home(5*block, 8))
	}
}

// TestOwnTruncate: the holder's own truncate takes his windows with it; what he
// stores there late is in no file.
func TestOwnTruncate(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'f'}, 8*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Write)
	v := h.mmap(l, ino, rng(0, 8*block), true)
	defer v.close()
	_, err := r.SetAttr(ctx, h.caller(), ino, SetAttr{Valid: SetSize, Size: 2*block + 10})
	r.must(err)
	if got := v.at(2*block + 8)[:4]; string(got) != "ff\x00\x00" {
		t.Errorf("the holder sees %q around the new end", got)
	}
	copy(v.at(4*block), "late")
	r.must(r.Truncate(ctx, Caller{}, ino, 8*block))
	if got := r.read(ino, 4*block, 4); got != "\x00\x00\x00\x00" {
		t.Errorf("a late store shows: %q", got)
	}
	again := h.mmap(l, ino, rng(0, 8*block), true)
	defer again.close()
	copy(again.at(4*block), "new")
	copy(v.at(0), "old")
	if got := r.read(ino, 4*block, 3) + r.read(ino, 0, 3); got != "newold" {
		t.Errorf("after mapping again: %q", got)
	}
	r.must(r.Fallocate(ctx, h.caller(), ino, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 8*block))
	if !again.dead(len(again.pieces) - 1) {
		t.Error("a window lives after its last block was punched")
	}
	h.release(l)
}

// TestCut: a holder who does nothing is cut after the break time, and what he wrote
// until then is content.
func TestCut(t *testing.T) {
	r := newRig(t, func(r *rig) { r.arbs.BreakTime = 1 })
	ino := r.file("f", bytes.Repeat([]byte{'f'}, 8*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 8*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 8*block), true)
	defer v.close()
	copy(v.at(0), "kept")
	copy(v.at(block), "kept too")
	r.must(r.Reshape(ctx, Caller{Wait: arbiter.WaitForever}, ino, punchHole, rng(block+10, 2*block-10)))
	want := bytes.Repeat([]byte{'f'}, 8*block)
	copy(want, "kept")
	copy(want[block:], "kept too")
	clear(want[block+10 : 2*block-10])
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content after the cut differs at %d", firstDiff(got, want))
	}
	copy(v.at(block), bytes.Repeat([]byte{'!'}, block)) // an adversary goes on
	r.write(r.file("g", nil), make([]byte, 16*block), 0)
	if got := r.content(ino); bytes.IndexByte(got, '!') >= 0 {
		t.Error("a store after the cut shows")
	}
	h.release(l)
}

// TestDamagedWindow: a holder who destroys his window hurts this file only, and gets
// nobody stuck.
func TestDamagedWindow(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'f'}, 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	r.must(v.files[0].Truncate(0))
	_, err := r.Read(ctx, ino, make([]byte, 10), 0)
	if !errors.Is(err, window.ErrDamaged) || !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	_, err = r.Write(ctx, Caller{}, ino, []byte("x"), 0, false, false)
	wantErr(t, err, syscall.EIO, "write")
	wantErr(t, r.Fsync(ctx, ino, false), syscall.EIO, "fsync")
	wantErr(t, r.Commit(ctx, l, ino, rng(0, 4*block), -1), syscall.EIO, "commit")
	r.file("other", []byte("fine"))
	h.release(l)
	if got := r.content(ino); !bytes.Equal(got, bytes.Repeat([]byte{'f'}, 4*block)) {
		t.Error("the content is not what was last written back")
	}
	r.must(r.Truncate(ctx, Caller{}, ino, 0))
}

// TestReadHolderCannotSpoil: the window of a read lease gives no way to write, and
// is not written back.
func TestReadHolderCannotSpoil(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'f'}, block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, block), layout.Read)
	v := h.mmap(l, ino, rng(0, block), false)
	defer v.close()
	if _, err := unix.Mmap(int(v.files[0].Fd()), 0, block, unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, syscall.EACCES) {
		t.Errorf("writable mapping: %v", err)
	}
	before := r.attr(ino)
	h.release(l)
	if r.attr(ino) != before {
		t.Error("the release of a read lease altered attributes")
	}
}

// TestUnlinkedWindow: a file without a name lives on in its windows.
func TestUnlinkedWindow(t *testing.T) {
	r := newRig(t)
	free := r.vol.Statfs().Free
	ino := r.file("f", make([]byte, 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	r.must(r.Unlink(ctx, Caller{}, root, "f"))
	r.Forget(ino, 1)
	copy(v.at(0), "alive")
	if got := r.read(ino, 0, 5); got != "alive" {
		t.Errorf("content: %q", got)
	}
	r.ticks <- r.clock()
	h.release(l)
	r.flushed() // a flush that has the file is over
	if got := r.vol.Statfs().Free; got != free {
		t.Errorf("%d bytes are free after release, %d before", got, free)
	}
}

// TestCloseWritesBack: a server that stops with windows out writes them back.
func TestCloseWritesBack(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 2*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 2*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 2*block), true)
	defer v.close()
	copy(v.at(0), "holder")
	r.write(ino, []byte("mount"), block)
	r.reopen()
	if got := r.read(ino, 0, 6) + r.read(ino, block, 5); got != "holdermount" {
		t.Errorf("after a restart: %q", got)
	}
	if !v.dead(0) {
		t.Error("the window lives after Close")
	}
}

// TestLargeWindow is one of more than one chunk.
func TestLargeWindow(t *testing.T) {
	r := newRig(t)
	content := make([]byte, 5*chunk+block+100)
	for i := range content {
		content[i] = byte(i * 7 / 13)
	}
	ino := r.file("f", content)
	h := r.session(4711)
	all := rng(0, 6*chunk)
	l := h.lease(ino, all, layout.Write)
	v := h.mmap(l, ino, all, true)
	defer v.close()
	if got := v.at(0)[:len(content)]; !bytes.Equal(got, content) {
		t.Fatalf("the window differs at %d", firstDiff(got, content))
	}
	for _, off := range []int{0, chunk - 3, 3*chunk - 3, len(content) - 6} {
		copy(v.at(int64(off)), "holder")
		copy(content[off:], "holder")
	}
	h.release(l)
	if got := r.home(ino, len(content)); !bytes.Equal(got, content) {
		t.Errorf("the device differs at %d", firstDiff(got, content))
	}
}
