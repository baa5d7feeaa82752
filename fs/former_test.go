package fs

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
)

// survivor is a holder that lives longer than the server, with the memory of its windows.
type survivor struct {
	*holder
	process arbiter.Process
	lease   layout.LeaseID
	pieces  []Piece
	memory  []*os.File
}

// survivor maps a range under a lease of its own.
func (r *rig) survivor(pid int32, ino extent.Ino, rg extent.Range, access layout.Access) *survivor {
	r.t.Helper()
	id, err := r.arb.OpenSession(arbiter.SessionInfo{Kind: "test", PID: pid, Start: uint64(pid) + 1000, UID: 7})
	r.must(err)
	s := &survivor{holder: &holder{r: r, id: id, events: make(chan arbiter.Event, 64)}}
	s.process = arbiter.Process{PID: pid, Start: uint64(pid) + 1000, UID: 7}
	s.lease = s.holder.lease(ino, rg, access)
	s.pieces, err = r.Map(ctx, s.lease, ino, rg, access == layout.Write)
	r.must(err)
	for _, p := range s.pieces {
		m, err := p.Window.Open(access == layout.Write)
		r.must(err)
		s.memory = append(s.memory, m)
	}
	return s
}

func (s *survivor) store(p []byte, off int64) {
	s.r.t.Helper()
	_, err := s.memory[0].WriteAt(p, s.pieces[0].Off+off-s.pieces[0].FileOff)
	s.r.must(err)
}

// crash ends the server as SIGKILL would, and starts another.
func (r *rig) crash() {
	r.t.Helper()
	r.FS.stop()
	<-r.FS.stopped
	r.arb.Close()
	r.start()
	r.must(r.Restore(ctx))
}

// reclaim gives back all that the survivor had.
func (s *survivor) reclaim() error {
	if err := s.r.arb.Resume(s.id, s.process); err != nil {
		return err
	}
	if _, err := s.r.arb.ReclaimLease(s.id, s.lease, s.holder); err != nil {
		return err
	}
	for k, p := range s.pieces {
		if err := s.adopt(k, p); err != nil {
			return err
		}
	}
	return s.r.arb.Settle(ctx, s.id)
}

func (s *survivor) adopt(k int, p Piece) error {
	info, err := s.r.arb.Lease(s.lease)
	if err != nil {
		return err
	}
	return s.r.Adopt(ctx, s.lease, info.File, p.Window.Segment(), int(s.memory[k].Fd()))
}

func (r *rig) exposures() (n int) {
	r.must(r.vol.Exposures(func(volume.Exposure) error { n++; return nil }))
	return n
}

// What a holder stored and did not commit is there after a crash of the server, also where the file had no blocks, once he has
// given his memory back; until then the last committed content is, and nobody can take the range away under his pin.
func TestReclaim(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'o'}, 4*extent.BlockSize))
	r.must(r.Fsync(ctx, ino, false))
	s := r.survivor(4711, ino, rng(0, 6*extent.BlockSize), layout.Write)
	c, _ := s.pin(s.lease, rng(0, extent.BlockSize), layout.Write)
	s.store(bytes.Repeat([]byte{'n'}, 6*extent.BlockSize), 0)

	r.crash()
	if got := r.content(ino); !bytes.Equal(got, bytes.Repeat([]byte{'o'}, 4*extent.BlockSize)) {
		t.Errorf("before it is claimed the content is not what was committed: %.10q", got)
	}
	pins := r.arb.Pins(arbiter.Filter{})
	if len(pins) != 1 || !pins[0].Unclaimed || pins[0].Context != c || pins[0].Lease != s.lease || pins[0].PID != 4711 {
		t.Errorf("pins are %+v", pins)
	}
	_, err := r.SetAttr(ctx, Caller{}, ino, SetAttr{Valid: SetSize, Size: 0})
	wantErr(t, err, syscall.ETXTBSY, "truncate under an unclaimed pin")
	other := r.session(4712)
	l := other.lease(ino, rng(0, extent.BlockSize), layout.Read)
	_, err = r.Map(ctx, l, ino, rng(0, extent.BlockSize), false)
	wantErr(t, err, syscall.EAGAIN, "map of what is unclaimed")

	// What the mount writes meanwhile is later than what the holder stored.
	r.write(ino, []byte("mount"), 10)
	r.must(s.reclaim())
	want := bytes.Repeat([]byte{'n'}, 4*extent.BlockSize)
	copy(want[10:], "mount")
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content is not what was stored: differs at %d", differs(got, want))
	}
	s.store([]byte("again"), 100)
	copy(want[100:], "again")
	r.must(r.Commit(ctx, s.lease, ino, rng(0, 6*extent.BlockSize), 6*extent.BlockSize))
	want = append(want, bytes.Repeat([]byte{'n'}, 2*extent.BlockSize)...)
	if pins := r.arb.Pins(arbiter.Filter{}); len(pins) != 0 {
		t.Errorf("pins that were not claimed: %+v", pins)
	}
	s.release(s.lease)
	other.release(l)
	if n := r.exposures(); n != 0 {
		t.Errorf("%d exposures are left", n)
	}
	r.reopen()
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("after a restart the content differs at %d", differs(got, want))
	}
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// Two who share a window get it back whoever comes first.
func TestReclaimShared(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'o'}, 4*extent.BlockSize))
	r.must(r.Fsync(ctx, ino, false))
	a := r.survivor(1, ino, rng(0, 4*extent.BlockSize), layout.Write)
	b := r.survivor(2, ino, rng(2*extent.BlockSize, 4*extent.BlockSize), layout.Read)
	a.store([]byte("shared"), 3*extent.BlockSize)
	r.crash()
	r.must(b.reclaim())
	r.must(a.reclaim())
	if got := r.content(ino)[3*extent.BlockSize:]; !bytes.HasPrefix(got, []byte("shared")) {
		t.Errorf("content is %.10q", got)
	}
	if used := r.windowBytes.Load(); used != 4*extent.BlockSize {
		t.Errorf("%d bytes of windows", used)
	}
	a.release(a.lease)
	a.store([]byte("late"), 0)
	b.release(b.lease)
	if got := r.content(ino); !bytes.HasPrefix(got, []byte("ooo")) || !bytes.HasPrefix(got[3*extent.BlockSize:], []byte("shared")) {
		t.Errorf("content is %.10q, %.10q", got, got[3*extent.BlockSize:])
	}
}

// A holder can give back only what he was given, and only he.
func TestReclaimHostile(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'o'}, extent.BlockSize))
	secret := r.file("g", bytes.Repeat([]byte{'s'}, extent.BlockSize))
	r.must(r.Sync(ctx))
	s := r.survivor(1, ino, rng(0, extent.BlockSize), layout.Write)
	other := r.survivor(2, secret, rng(0, extent.BlockSize), layout.Write)
	r.crash()

	wantErr(t, r.arb.Resume(s.id, other.process), syscall.EPERM, "session of another process")
	reborn := s.process
	reborn.Start++
	wantErr(t, r.arb.Resume(s.id, reborn), syscall.EPERM, "process of the same number")
	r.must(r.arb.Resume(s.id, s.process))
	wantErr(t, r.arb.Resume(s.id, s.process), syscall.EBUSY, "a second time")
	_, err := r.arb.ReclaimLease(s.id, other.lease, s.holder)
	wantErr(t, err, syscall.EPERM, "lease of another")

	fd, err := unix.MemfdCreate("holdfast:2+0", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	r.must(err)
	own := os.NewFile(uintptr(fd), "memfd")
	defer own.Close()
	r.must(own.Truncate(extent.BlockSize))
	_, err = unix.FcntlInt(own.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW)
	r.must(err)
	plain, err := os.Create(r.dir + "/plain")
	r.must(err)
	defer plain.Close()
	for what, memory := range map[string]*os.File{"memory of his own": own, "another's window": other.memory[0], "a plain file": plain} {
		err := r.Adopt(ctx, s.lease, ino, s.pieces[0].Window.Segment(), int(memory.Fd()))
		wantErr(t, err, syscall.EINVAL, "%s", what)
	}
	wantErr(t, r.Adopt(ctx, s.lease, ino, other.pieces[0].Window.Segment(), int(other.memory[0].Fd())), syscall.ENOENT, "another's window under its own name")
	r.must(s.memory[0].Truncate(0))
	wantErr(t, s.adopt(0, s.pieces[0]), syscall.ESTALE, "memory that was cut short")
	r.must(r.arb.Settle(ctx, s.id))
	if got := r.content(ino); !bytes.Equal(got, bytes.Repeat([]byte{'o'}, extent.BlockSize)) {
		t.Errorf("content is %.10q", got)
	}
	r.must(other.reclaim())
	other.release(other.lease)
}

// What nobody comes back for is cut: a change that meets it without a pin does that, the end of the process, a reboot.
func TestForsaken(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.Boot = "boot 1" })
	ino := r.file("f", bytes.Repeat([]byte{'o'}, 4*extent.BlockSize))
	r.must(r.Sync(ctx))
	s := r.survivor(1, ino, rng(0, 4*extent.BlockSize), layout.Write)
	pinned := r.survivor(2, ino, rng(0, extent.BlockSize), layout.Write)
	pinned.pin(pinned.lease, rng(0, extent.BlockSize), layout.Write)
	s.store(bytes.Repeat([]byte{'n'}, 4*extent.BlockSize), 0)

	r.crash()
	r.must(r.Fallocate(ctx, Caller{}, ino, punchHole, 2*extent.BlockSize, extent.BlockSize))
	r.crash() // what was punched is not in the memory any more for the next server either
	r.must(s.reclaim())
	want := bytes.Repeat([]byte{'n'}, 4*extent.BlockSize)
	clear(want[2*extent.BlockSize : 3*extent.BlockSize])
	if got := r.content(ino); !bytes.Equal(got, want) {
		t.Errorf("content differs at %d", differs(got, want))
	}
	r.must(r.Commit(ctx, s.lease, ino, rng(0, extent.BlockSize), -1))
	s.release(s.lease)

	_, err := r.SetAttr(ctx, Caller{}, ino, SetAttr{Valid: SetSize, Size: 0})
	wantErr(t, err, syscall.ETXTBSY, "truncate under the other's pin")
	r.arb.EndSession(pinned.id)
	if n := len(r.arb.Leases(arbiter.Filter{})) + len(r.arb.Pins(arbiter.Filter{})) + len(r.arb.Contexts(arbiter.Filter{})) + len(r.arb.Sessions(arbiter.Filter{Session: pinned.id})) + r.exposures(); n != 0 {
		t.Errorf("%d things are left of who does not come back", n)
	}
	_, err = r.SetAttr(ctx, Caller{}, ino, SetAttr{Valid: SetSize, Size: 0})
	r.must(err)

	again := r.survivor(3, ino, rng(0, extent.BlockSize), layout.Write)
	again.pin(again.lease, rng(0, extent.BlockSize), layout.Write)
	r.opts.Boot = "boot 2"
	r.crash()
	if n := len(r.arb.Leases(arbiter.Filter{})) + r.exposures(); n != 0 {
		t.Errorf("%d things are left after a reboot", n)
	}
}

// A part that was taken out of a window before the crash does not come back with the rest.
func TestReclaimRest(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'o'}, 4*extent.BlockSize))
	r.must(r.Sync(ctx))
	s := r.survivor(1, ino, rng(0, 4*extent.BlockSize), layout.Write)
	s.store(bytes.Repeat([]byte{'n'}, 4*extent.BlockSize), 0)
	r.must(r.arb.Return(ctx, s.id, s.lease, rng(extent.BlockSize, 2*extent.BlockSize)))
	s.store([]byte("late"), extent.BlockSize) // a page that belongs to nobody
	r.crash()
	r.must(s.reclaim())
	if got := r.content(ino); !bytes.Equal(got, bytes.Repeat([]byte{'n'}, 4*extent.BlockSize)) {
		t.Errorf("content differs at %d: %.10q", differs(got, bytes.Repeat([]byte{'n'}, 4*extent.BlockSize)), got[extent.BlockSize:])
	}
	s.release(s.lease)
}

// What a file has given up under a hold is not taken for the file's after a crash: its memory is nobody's to give back.
func TestOrphanIsNotReclaimed(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", bytes.Repeat([]byte{'o'}, 4*extent.BlockSize))
	r.must(r.Fsync(ctx, ino, false))
	s := r.survivor(4711, ino, rng(0, 4*extent.BlockSize), layout.Write)
	hold := r.hold(ino, 0, 4)
	r.must(r.Storage().Orphan(ino, hold, rng(0, 4*extent.BlockSize)))
	if n := r.exposures(); n != 0 {
		t.Errorf("%d exposures of what is no file's", n)
	}
	r.must(r.arb.Return(ctx, s.id, s.lease, rng(0, extent.Inf)))
	r.must(r.Truncate(ctx, Caller{}, ino, 0))
	r.write(ino, bytes.Repeat([]byte{'n'}, 4*extent.BlockSize), 0)
	r.must(r.Fsync(ctx, ino, false))
	s.store([]byte("late"), 0)

	r.crash()
	if err := s.reclaim(); err == nil {
		t.Error("it is given back")
	}
	if got := r.content(ino); !bytes.Equal(got, bytes.Repeat([]byte{'n'}, 4*extent.BlockSize)) {
		t.Errorf("the content is %.10q", got)
	}
}

// What is put back is charged to its user as it was, and to nobody when it is gone.
func TestReclaimIsCharged(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 4*extent.BlockSize))
	r.must(r.Fsync(ctx, ino, false))
	s := r.survivor(4711, ino, rng(0, 4*extent.BlockSize), layout.Write)
	c, pin := s.pin(s.lease, rng(0, extent.BlockSize), layout.Write)
	used := func(want map[arbiter.Limit]int64) {
		t.Helper()
		for _, u := range r.arb.Uses(nil) {
			if u.User == 7 && u.Used != want[u.Limit] {
				t.Errorf("%d %v are charged, want %d", u.Used, u.Limit, want[u.Limit])
			}
		}
	}
	all := map[arbiter.Limit]int64{arbiter.LimitLeases: 1, arbiter.LimitPins: 1, arbiter.LimitSessions: 1, arbiter.LimitWindows: 4 * extent.BlockSize}
	used(all)
	r.crash()
	r.must(r.arb.Resume(s.id, s.process))
	_, err := r.arb.ReclaimLease(s.id, s.lease, s.holder)
	r.must(err)
	r.must(s.adopt(0, s.pieces[0]))
	r.must(r.arb.ReclaimContext(s.id, c))
	_, err = r.arb.ReclaimPin(s.id, pin, c, s.lease, rng(0, extent.BlockSize), layout.Write)
	r.must(err)
	r.must(r.arb.Settle(ctx, s.id))
	used(all)
	r.must(r.arb.CloseContext(ctx, c))
	s.release(s.lease)
	r.arb.EndSession(s.id)
	used(nil)
}
