package fs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// inParallel runs fn in goroutines with a source of randomness each.
func inParallel(goroutines, rounds int, fn func(g int, rnd *rand.Rand)) {
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(g)))
			for range rounds {
				fn(g, rnd)
			}
		})
	}
	wg.Wait()
}

// TestStressNames renames directories into each other from all sides, among
// creations and removals: nothing may lock up, no loop may form, and the check at the
// end finds every link count right.
func TestStressNames(t *testing.T) {
	r := newRig(t)
	var dirs []extent.Ino
	for i := range 6 {
		parent := root
		if i%2 == 1 {
			parent = dirs[i-1]
		}
		dirs = append(dirs, r.mkdir(parent, "d"+fmt.Sprint(i)))
	}
	dirs = append(dirs, root)
	names := []string{"d0", "d1", "d2", "d3", "d4", "d5", "x", "y"}
	inParallel(8, 400, func(_ int, rnd *rand.Rand) {
		pick := func() extent.Ino { return dirs[rnd.IntN(len(dirs))] }
		name := func() string { return names[rnd.IntN(len(names))] }
		var err error
		switch rnd.IntN(8) {
		case 0, 1, 2:
			err = r.Rename(ctx, Caller{}, pick(), name(), pick(), name(), 0)
		case 3:
			err = r.Rename(ctx, Caller{}, pick(), name(), pick(), name(), unix.RENAME_EXCHANGE)
		case 4:
			_, err = r.Mknod(ctx, Caller{}, pick(), name(), syscall.S_IFREG|0o644, 0)
		case 5:
			err = r.Unlink(ctx, Caller{}, pick(), name())
		case 6:
			var a Attr
			if a, err = r.Lookup(ctx, Caller{}, pick(), name()); err == nil {
				r.Path(a.Ino)
				_, err = r.Link(ctx, Caller{}, a.Ino, pick(), name())
			}
		case 7:
			err = r.ReadDir(ctx, Caller{}, pick(), 0, func(string, extent.Ino, uint32, uint64) bool { return true })
		}
		var errno syscall.Errno
		if err != nil && (!errors.As(err, &errno) || errno == syscall.EIO || errno == syscall.ESTALE || errno == syscall.EUCLEAN) {
			t.Errorf("%v", err)
		}
	})
	for _, d := range dirs { // each is still below the root, unless it was renamed over
		if _, err := r.GetAttr(ctx, Caller{}, d); err == nil && r.attr(d).Nlink > 0 {
			r.must(r.notBelow(mustGet(r, d), &inode{ino: 1 << 60}))
		}
	}
}

// TestRenameCross: of two directories that are moved into each other at once, one
// stays where it is.
func TestRenameCross(t *testing.T) {
	r := newRig(t)
	a, b := r.mkdir(root, "a"), r.mkdir(root, "b")
	for range 500 {
		var wg sync.WaitGroup
		var errs [2]error
		wg.Go(func() { errs[0] = r.Rename(ctx, Caller{}, root, "a", b, "a", 0) })
		wg.Go(func() { errs[1] = r.Rename(ctx, Caller{}, root, "b", a, "b", 0) })
		wg.Wait()
		switch {
		case errs[0] == nil && errors.Is(errs[1], syscall.EINVAL):
			r.must(r.Rename(ctx, Caller{}, b, "a", root, "a", 0))
		case errs[1] == nil && errors.Is(errs[0], syscall.EINVAL):
			r.must(r.Rename(ctx, Caller{}, a, "b", root, "b", 0))
		default:
			t.Fatalf("%v and %v", errs[0], errs[1])
		}
	}
}

// mustGet returns an inode and keeps no reference: the kernel has a lookup of it.
func mustGet(r *rig, ino extent.Ino) *inode {
	r.t.Helper()
	i, err := r.get(ino)
	r.must(err)
	r.put(i)
	return i
}

// TestStressContent reads, writes, truncates, punches, maps, commits and releases one
// file from all sides, and copies from and to another, with the flusher at work.
func TestStressContent(t *testing.T) {
	r := newRig(t, func(r *rig) { r.arbs.BreakTime = 1e6 })
	ino, twin := r.file("f", make([]byte, 32*block)), r.file("twin", make([]byte, 32*block))
	inParallel(6, 60, func(g int, rnd *rand.Rand) {
		off, n := rnd.Int64N(32*block), 1+rnd.Int64N(8*block)
		c := Caller{Wait: arbiter.WaitForever}
		var err error
		switch rnd.IntN(13) {
		case 8, 9:
			_, err = r.CopyRange(ctx, c, ino, off, twin, off, n)
		case 10:
			_, err = r.CopyRange(ctx, c, twin, 0, ino, off&^(block-1), n)
		case 11:
			err = r.Fallocate(ctx, c, ino, unix.FALLOC_FL_ZERO_RANGE, off, n)
		case 12:
			mode := []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE}[rnd.IntN(2)]
			if err = r.Fallocate(ctx, c, ino, mode, off&^(block-1), block); errors.Is(err, syscall.EINVAL) {
				err = nil // it is not in the file
			}
		case 0, 1:
			_, err = r.Write(ctx, c, ino, make([]byte, n), off, rnd.IntN(4) == 0, false)
		case 2:
			_, err = r.Read(ctx, ino, make([]byte, n), off)
		case 3:
			_, err = r.SetAttr(ctx, c, ino, SetAttr{Valid: SetSize, Size: off})
		case 4:
			err = r.Fallocate(ctx, c, ino, 3, off, n)
		case 5:
			err = r.Fsync(ctx, ino, false)
		case 6:
			r.ticks <- r.clock()
		case 7:
			err = useWindow(r, int32(1000+g), ino, rng(off, off+n))
		}
		if err != nil {
			t.Errorf("%v", err)
		}
	})
}

// useWindow takes a lease, maps it, works on it, and releases it. It may be cut at
// any time.
func useWindow(r *rig, pid int32, ino extent.Ino, rn extent.Range) error {
	h := r.session(pid)
	defer r.arb.EndSession(h.id)
	l, err := r.arb.Acquire(ctx, h.id, arbiter.AcquireRequest{File: ino, Range: rn, Access: layout.Write}, h)
	if err != nil {
		return err
	}
	defer r.arb.CloseLease(ctx, l.ID)
	pieces, err := r.Map(ctx, l.ID, ino, rn, true)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOENT) {
		return nil // cut meanwhile
	}
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if f, err := p.Window.Open(true); err == nil {
			f.WriteAt([]byte("holder"), p.Off) // EFBIG or a hole if it was cut
			f.Close()
		}
	}
	if err := r.Commit(ctx, l.ID, ino, rn, -1); err != nil && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return nil
}
