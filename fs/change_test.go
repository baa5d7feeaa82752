package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

const (
	block = extent.BlockSize
	inf   = extent.Inf
)

// testFile has four written blocks, four of a hole, four unwritten, and ends in the middle of a fifth written one.
func (r *rig) testFile(name string) extent.Ino {
	r.t.Helper()
	ino := r.file(name, bytes.Repeat([]byte{'a'}, 4*block))
	r.must(r.Fallocate(ctx, Caller{}, ino, 0, 8*block, 4*block))
	r.write(ino, bytes.Repeat([]byte{'b'}, 100), 12*block)
	return ino
}

// operations are all that can be done to a file's content or name, with the class that each has on testFile.
var operations = []struct {
	name  string
	class layout.Class
	do    func(r *rig, c Caller, ino extent.Ino) error
}{
	{"overwrite", layout.None, writes(block+1, 2*block)},
	{"overwrite in the tail", layout.None, writes(12*block+50, 50)},
	{"write into a hole", layout.Additive, writes(5*block, 10)},
	{"write into unwritten", layout.Additive, writes(9*block, 10)},
	{"write over data and hole", layout.Additive, writes(3*block, 2*block)},
	{"write within the last block behind the end", layout.Size, writes(12*block+50, 100)},
	{"append", layout.Additive, func(r *rig, c Caller, ino extent.Ino) error {
		return second(r.Write(ctx, c, ino, make([]byte, 2*block), 0, true, false))
	}},
	{"truncate to the same size", layout.None, truncates(12*block + 100)},
	{"truncate up", layout.Size, truncates(100 * block)},
	{"truncate down", layout.Subtractive, truncates(12*block + 50)},
	{"truncate to nothing", layout.Subtractive, truncates(0)},
	{"allocate what has blocks", layout.None, allocates(unix.FALLOC_FL_KEEP_SIZE, 8*block, 4*block)},
	{"allocate a hole", layout.Additive, allocates(unix.FALLOC_FL_KEEP_SIZE, 4*block, block)},
	{"allocate behind the end", layout.Additive, allocates(0, 20*block, block)},
	{"punch data", layout.Subtractive, allocates(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, block, block)},
	{"punch within a block", layout.Subtractive, allocates(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, block+10, 10)},
	{"punch a hole", layout.None, allocates(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 5*block, block)},
	{"zero data", layout.None, allocates(unix.FALLOC_FL_ZERO_RANGE, block, 2*block)},
	{"zero a hole", layout.Additive, allocates(unix.FALLOC_FL_ZERO_RANGE, 5*block, block)},
	{"collapse", layout.Subtractive, allocates(unix.FALLOC_FL_COLLAPSE_RANGE, 2*block, block)},
	{"insert", layout.Subtractive, allocates(unix.FALLOC_FL_INSERT_RANGE, 2*block, block)},
	{"clone over data", layout.Subtractive, clones(block)},
	{"clone over a hole", layout.Additive, clones(5 * block)},
	{"clone from it", layout.None, func(r *rig, c Caller, ino extent.Ino) error {
		return second(r.CopyRange(ctx, c, ino, 0, r.file("copy", nil), 0, 2*block))
	}},
	{"chmod", layout.None, func(r *rig, c Caller, ino extent.Ino) error {
		return second(r.SetAttr(ctx, c, ino, SetAttr{Valid: SetMode, Mode: 0o600}))
	}},
	{"chown, utimes", layout.None, func(r *rig, c Caller, ino extent.Ino) error {
		return second(r.SetAttr(ctx, c, ino, SetAttr{Valid: SetUID | SetMtime, UID: 1000, Mtime: 1}))
	}},
	{"setxattr", layout.None, func(r *rig, c Caller, ino extent.Ino) error {
		return r.SetXattr(ctx, c, ino, "user.x", []byte("y"), 0)
	}},
	{"link, rename", layout.None, func(r *rig, c Caller, ino extent.Ino) error {
		if _, err := r.Link(ctx, c, ino, root, "l"); err != nil {
			return err
		}
		r.Forget(ino, 1)
		return r.Rename(ctx, c, root, "f", root, "f2", 0)
	}},
	{"read, stat, readdir", layout.None, func(r *rig, c Caller, ino extent.Ino) error {
		_, err := r.Read(ctx, ino, make([]byte, 20*block), 0)
		return errors.Join(err, second(r.GetAttr(ctx, c, ino)), r.ReadDir(ctx, c, root, 0,
			func(string, extent.Ino, uint32, uint64) bool { return true }))
	}},
	{"unlink", layout.None, func(r *rig, c Caller, ino extent.Ino) error { return r.Unlink(ctx, c, root, "f") }},
	{"rename over", layout.None, func(r *rig, c Caller, ino extent.Ino) error { return r.Rename(ctx, c, root, "g", root, "f", 0) }},
}

type operation = func(*rig, Caller, extent.Ino) error

func writes(off int64, n int) operation {
	return func(r *rig, c Caller, ino extent.Ino) error {
		return second(r.Write(ctx, c, ino, make([]byte, n), off, false, false))
	}
}

func truncates(size int64) operation {
	return func(r *rig, c Caller, ino extent.Ino) error {
		return second(r.SetAttr(ctx, c, ino, SetAttr{Valid: SetSize, Size: size}))
	}
}

// clones clones two blocks of another file to a place in this one.
func clones(to int64) operation {
	return func(r *rig, c Caller, ino extent.Ino) error {
		src := r.file("src", bytes.Repeat([]byte{'s'}, int(2*block)))
		return second(r.CopyRange(ctx, c, src, 0, ino, to, 2*block))
	}
}

func allocates(mode uint32, off, n int64) operation {
	return func(r *rig, c Caller, ino extent.Ino) error { return r.Fallocate(ctx, c, ino, mode, off, n) }
}

// TestWhatOperationsMeet holds each operation against each kind of hold on the whole
// file, by others and by the caller, and looks that what was refused altered nothing.
func TestWhatOperationsMeet(t *testing.T) {
	for _, hold := range []struct {
		name string
		own  bool
		req  arbiter.AcquireRequest
		pin  bool
		want map[layout.Class]syscall.Errno
	}{
		{name: "nothing", own: true},
		{name: "pin", pin: true, want: map[layout.Class]syscall.Errno{layout.Subtractive: syscall.ETXTBSY}},
		{name: "unbreakable", req: arbiter.AcquireRequest{Unbreakable: true}, want: map[layout.Class]syscall.Errno{layout.Subtractive: syscall.ETXTBSY}},
		{name: "exclusive and unbreakable", req: arbiter.AcquireRequest{Unbreakable: true, Mode: layout.Exclusive},
			want: map[layout.Class]syscall.Errno{layout.Subtractive: syscall.ETXTBSY, layout.Additive: syscall.ETXTBSY}},
		{name: "own pin", own: true, pin: true, want: map[layout.Class]syscall.Errno{layout.Subtractive: syscall.EDEADLK}},
		{name: "own exclusive lease", own: true, req: arbiter.AcquireRequest{Unbreakable: true, Mode: layout.Exclusive}},
	} {
		for _, op := range operations {
			t.Run(hold.name+"/"+op.name, func(t *testing.T) {
				r := newRig(t)
				ino := r.testFile("f")
				r.file("g", nil)
				h := r.session(4711)
				req := hold.req
				req.File, req.Range, req.Access = ino, rng(0, inf), layout.Write
				l := h.acquire(req)
				if hold.pin {
					h.pin(l, rng(0, inf), layout.Write)
				}
				c := Caller{Session: r.session(4712).id}
				if hold.own {
					c = h.caller()
				}
				before, attr := r.content(ino), r.attr(ino)
				err := op.do(r, c, ino)
				want := hold.want[op.class]
				if want == 0 && err != nil || want != 0 && !errors.Is(err, want) {
					t.Fatalf("%v, want %v", err, want)
				}
				if err != nil && (!bytes.Equal(r.content(ino), before) || r.attr(ino) != attr) {
					t.Error("a refused change has altered something")
				}
				if len(h.events) > 0 {
					t.Errorf("the holder was told %+v", <-h.events)
				}
			})
		}
	}
}

// TestBreakableLeaseIsAsked: exactly the subtractive operations ask the holder of a
// breakable lease, and go on when he has given back what they need and no more.
func TestBreakableLeaseIsAsked(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			r := newRig(t)
			ino := r.testFile("f")
			r.file("g", nil)
			h := r.session(4711)
			l := h.lease(ino, rng(0, inf), layout.Write)
			done := make(chan error, 1)
			go func() { done <- op.do(r, Caller{Wait: arbiter.WaitForever}, ino) }()
			if op.class != layout.Subtractive {
				r.must(<-done)
				if len(h.events) > 0 {
					t.Errorf("the holder was told %+v", <-h.events)
				}
				return
			}
			ev := <-h.events
			select {
			case err := <-done:
				t.Fatalf("the change did not wait: %v", err)
			default:
			}
			if ev.Kind != arbiter.EventBreak || ev.Range.Extent() == rng(0, inf) && op.name != "truncate to nothing" {
				t.Errorf("the holder was told %+v", ev)
			}
			r.must(r.arb.Return(ctx, h.id, l, ev.Range.Extent().RoundOut()))
			r.must(<-done)
		})
	}
}

// TestNothingHangs: while a truncate waits for a holder, everybody else works on
// the same file and directory.
func TestNothingHangs(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Read)
	const waiters = 100
	done := make(chan error, waiters)
	for range waiters {
		go func() { done <- truncates(block)(r, Caller{Wait: arbiter.WaitForever}, ino) }()
	}
	<-h.events // at least one has begun to wait
	r.attr(ino)
	r.content(ino)
	for _, op := range []struct {
		name string
		do   operation
	}{{"overwrite", writes(0, 10)}, {"write into a hole", writes(5*block, 10)}, {"append", writes(20*block, 10)}} {
		if err := op.do(r, Caller{}, ino); err != nil {
			t.Errorf("%s while a truncate waits: %v", op.name, err)
		}
	}
	r.must(r.Fsync(ctx, ino, false))
	r.must(r.Open(ctx, Caller{}, ino, 0))
	r.Release(ino)
	other := r.file("other", []byte("x"))
	r.must(r.Rename(ctx, Caller{}, root, "other", root, "another", 0))
	r.must(r.Unlink(ctx, Caller{}, root, "another"))
	r.Forget(other, 1)
	r.must(r.Rename(ctx, Caller{}, root, "f", root, "f2", 0))
	r.ticks <- r.clock()
	select {
	case err := <-done:
		t.Fatalf("a truncate did not wait: %v", err)
	default:
	}
	h.release(l)
	for range waiters {
		r.must(<-done)
	}
	if size := r.attr(ino).Size; size != block {
		t.Errorf("size %d after the truncates", size)
	}
}

// TestGrownWhileWaiting: a file that grew while its truncate waited is cut all the same.
func TestGrownWhileWaiting(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 4*block))
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Read)
	done := make(chan error, 1)
	r.must(truncates(8*block+1)(r, Caller{}, ino)) // up: no need to wait
	go func() {
		done <- truncates(2*block)(r, Caller{Wait: arbiter.WaitForever}, ino)
	}()
	<-h.events
	r.write(ino, []byte("grown"), 40*block)
	h.release(l)
	r.must(<-done)
	if size := r.attr(ino).Size; size != 2*block {
		t.Errorf("size %d", size)
	}
}

// TestOutgrownPlan: leave is asked again for a plan that grew while nobody looked.
func TestOutgrownPlan(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	h := r.session(4711)
	h.pin(h.lease(ino, rng(0, inf), layout.Read), rng(0, inf), layout.Read)
	i := mustGet(r, ino)
	for _, first := range []plan{{}, {class: layout.Additive, r: rng(0, block)}, {class: layout.Size, r: rng(0, block)}} {
		plans := []plan{first, {class: layout.Subtractive, r: rng(0, block)}}
		next := func() (plan, error) {
			p := plans[0]
			if len(plans) > 1 {
				plans = plans[1:]
			}
			return p, nil
		}
		err := r.change(ctx, Caller{}, i, next, func() error {
			t.Error("applied without leave")
			return nil
		})
		wantErr(t, err, syscall.ETXTBSY, "a change that became subtractive")
	}
	wider := []plan{{class: layout.Additive, r: rng(0, block)}, {class: layout.Additive, r: rng(0, 2*block)}, {class: layout.Additive, r: rng(0, 2*block)}}
	asked := 0
	r.must(r.change(ctx, Caller{}, i, func() (plan, error) {
		asked++
		return wider[min(asked, len(wider))-1], nil
	}, func() error { return nil }))
	if asked != 3 {
		t.Errorf("the plan was made %d times", asked)
	}
}

// TestOverwriteShares: an overwrite does not wait for readers.
func TestOverwriteShares(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	i := mustGet(r, ino)
	i.mu.RLock()
	r.write(ino, []byte("beside a reader"), 0)
	i.mu.RUnlock()
	if a := r.attr(ino); a.Mtime != a.Ctime || a.Mtime <= a.Btime {
		t.Errorf("times after an overwrite: %+v", a)
	}
}

// TestInterruptedChange alters nothing, and lets others through afterwards.
func TestInterruptedChange(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Read)
	cancelled, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := r.SetAttr(cancelled, Caller{Wait: arbiter.WaitForever}, ino, SetAttr{Valid: SetSize | SetMode})
		done <- err
	}()
	<-h.events
	before := r.attr(ino)
	cancel()
	wantErr(t, <-done, syscall.EINTR, "interrupted truncate")
	if r.attr(ino) != before {
		t.Error("an interrupted change altered attributes")
	}
	h.release(l)
	r.must(truncates(0)(r, Caller{}, ino))
}

// TestMountWait: a change that waits too long is EAGAIN.
func TestMountWait(t *testing.T) {
	r := newRig(t, func(r *rig) { r.arbs.MountWait = 1 })
	ino := r.testFile("f")
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Read)
	wantErr(t, truncates(0)(r, Caller{}, ino), syscall.EAGAIN, "truncate after mount_wait")
	h.release(l)
}

// TestPageWriteback: a page of a memory mapping must not undo what the holder of
// another's write lease wrote directly.
func TestPageWriteback(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	h := r.session(4711)
	writeback := func(c Caller, off int64) error {
		return second(r.Write(ctx, c, ino, make([]byte, block), off, false, true))
	}
	l := h.lease(ino, rng(0, 2*block), layout.Write)
	wantErr(t, writeback(Caller{}, block), syscall.EIO, "write-back by the kernel")
	wantErr(t, writeback(Caller{PID: 1}, block), syscall.EIO, "write-back by another process")
	r.must(writeback(Caller{PID: 4711}, block))
	r.must(writeback(Caller{}, 2*block))
	r.must(writes(0, block)(r, Caller{}, ino)) // write(2) is what the caller means
	h.release(l)
	h.lease(ino, rng(0, 2*block), layout.Read)
	r.must(writeback(Caller{}, block))
}

// TestUnlinkKeepsLeased: an unlinked file lives as long as a lease, and is shown as deleted.
func TestUnlinkKeepsLeased(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	h := r.session(4711)
	l := h.lease(ino, rng(0, inf), layout.Write)
	c, _ := h.pin(l, rng(0, block), layout.Write)
	free := r.vol.Statfs().Free
	r.must(r.Unlink(ctx, Caller{}, root, "f"))
	r.Forget(ino, 1)
	h.release(l) // the context has it now
	if got := r.arb.Leases(arbiter.Filter{File: ino}); len(got) != 1 || got[0].Path != "/f (deleted)" {
		t.Errorf("leases after unlink: %+v", got)
	}
	if r.vol.Statfs().Free != free {
		t.Error("an unlinked file with a pin gave up space")
	}
	r.must(r.arb.CloseContext(ctx, c))
	wantErr(t, second(r.GetAttr(ctx, Caller{}, ino)), syscall.ENOENT, "the file after the last pin")
	if r.vol.Statfs().Free <= free {
		t.Error("the file's space was not freed")
	}
}

// TestHeldBlocksStay: what a pin holds is not given to another file even when the
// arbiter lets its own file give it up.
func TestHeldBlocksStay(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 4*block))
	hold, err := (*storage)(r.FS).Hold(ino, rng(0, 4*block), 0)
	r.must(err)
	free := r.vol.Statfs().Free
	r.must(r.Truncate(ctx, Caller{}, ino, 0))
	r.must(r.Fsync(ctx, ino, false))
	if got := r.vol.Statfs().Free; got != free {
		t.Errorf("%d bytes became free under a hold", got-free)
	}
	(*storage)(r.FS).Unhold(hold)
	if got := r.vol.Statfs().Free; got != free+4*block {
		t.Errorf("%d bytes became free after the hold", got-free)
	}
}

func TestPrepare(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	h := r.session(4711)
	l := h.acquire(arbiter.AcquireRequest{File: ino, Range: rng(0, inf), Access: layout.Write, Prepare: arbiter.PrepareWritten})
	h.release(l)
	info, err := r.Stat(ctx, ino)
	r.must(err)
	var written int64
	for _, e := range info.Extents {
		if e.State == extent.Written {
			written += e.Len
		}
	}
	if size := r.attr(ino).Size; written != 13*block || size != 12*block+100 {
		t.Errorf("after prepare %d bytes are written, size %d", written, size)
	}
	if got := r.content(ino)[4*block : 12*block]; !bytes.Equal(got, make([]byte, 8*block)) {
		t.Error("prepared blocks do not read as zeros")
	}
	_, err = r.arb.Acquire(ctx, h.id, arbiter.AcquireRequest{File: root, Range: rng(0, inf)}, h)
	wantErr(t, err, syscall.EISDIR, "lease on a directory")
	_, err = r.arb.Acquire(ctx, h.id, arbiter.AcquireRequest{File: ino, Range: rng(0, 1<<40), Prepare: arbiter.PrepareAllocate}, h)
	wantErr(t, err, syscall.ENOSPC, "prepare of more than there is")
	if n := len(r.arb.Leases(arbiter.Filter{File: ino})); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

// TestClass is what `would write` shows.
func TestClass(t *testing.T) {
	r := newRig(t)
	ino := r.testFile("f")
	for _, c := range []struct {
		r    extent.Range
		want layout.Class
	}{
		{rng(0, 10), layout.None}, {rng(0, 5*block), layout.Additive}, {rng(9*block, 10*block), layout.Additive},
		{rng(12*block, 12*block+200), layout.Size}, {rng(40*block, 41*block), layout.Additive},
	} {
		got, err := r.Class(ctx, ino, c.r)
		if got != c.want || err != nil {
			t.Errorf("write to %v: %v, %v; want %v", c.r, got, err, c.want)
		}
	}
}

// TestLargeAndSparse works with files of more than 4 GiB.
func TestLargeAndSparse(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", []byte("start"))
	for _, off := range []int64{1<<32 - 2, 5 << 32, 1 << 52} {
		r.write(ino, []byte("here"), off)
	}
	r.reopen()
	for _, off := range []int64{1<<32 - 2, 5 << 32, 1 << 52} {
		p := make([]byte, 8)
		n, err := r.Read(ctx, ino, p, off-2)
		r.must(err)
		if want := "\x00\x00here\x00\x00"[:n]; string(p[:n]) != want || n < 6 {
			t.Errorf("at %d: %q", off, p[:n])
		}
	}
	if a := r.attr(ino); a.Size != 1<<52+4 || a.Blocks > 1<<20/512 {
		t.Errorf("size %d, %d blocks", a.Size, a.Blocks)
	}
	var data []string
	for pos, whence := int64(0), unix.SEEK_DATA; ; whence ^= unix.SEEK_DATA ^ unix.SEEK_HOLE {
		next, err := r.Seek(ctx, ino, pos, whence)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		r.must(err)
		data = append(data, fmt.Sprint(next))
		pos = next
	}
	want := fmt.Sprint([]int64{0, block, 1<<32 - block, 1<<32 + block, 5 << 32, 5<<32 + block, 1 << 52, 1<<52 + 4})
	if got := fmt.Sprint(data); got != want {
		t.Errorf("data and holes at %s, want %s", got, want)
	}
}
