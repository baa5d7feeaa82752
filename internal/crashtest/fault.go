package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/fs"
	"holdfast/internal/sim"
	"holdfast/store"
	"holdfast/volume"
)

// Fault is one operation of the disk that fails with EIO: the N-th of its kind. If it lasts, all of
// its kind do from then on. All others go well, before and after.
type Fault struct {
	Device  bool
	Kind    sim.OpKind
	N       int
	Lasting bool
}

func (f Fault) String() string {
	on := "store"
	if f.Device {
		on = "device"
	}
	if f.Lasting {
		return fmt.Sprintf("all %ss of the %s from number %d on", f.Kind, on, f.N)
	}
	return fmt.Sprintf("%v of the %s, number %d", f.Kind, on, f.N)
}

// fuse is a Fault that is being waited for.
type fuse struct {
	Fault
	mu   sync.Mutex
	left int     // guarded by mu
	hit  *sim.Op // guarded by mu
}

func (f *fuse) hook(o sim.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.Device() != f.Device || o.Kind != f.Kind || f.hit != nil && !f.Lasting {
		return nil
	}
	if f.left--; f.left >= 0 {
		return nil
	}
	if f.hit == nil {
		f.hit = &o
	}
	return syscall.EIO
}

func (f *fuse) blown() *sim.Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hit
}

// Try runs a workload in which the fault happens, and reports whether it did. Each
// operation goes well or fails with EIO or EROFS; what is read is right; after a
// failure of a write or flush nothing can be changed any more and the volume says
// why; and what a restart finds is what a crash may leave.
func (f Fault) Try(t testing.TB, wl Workload, o Options) (happened bool, err error) {
	t.Helper()
	fuse := &fuse{Fault: f, left: f.N}
	o.Fault = fuse.hook
	w := newWorld(t, wl, o)
	w.reads = f.Kind == sim.Read
	wl.Run(w)
	end := w.disk.Pos()
	hit := fuse.blown()
	if err = w.verifyFailed(); err == nil {
		err = w.verifyLive()
	}
	if err == nil && hit != nil && f.Kind != sim.Read {
		err = w.verifyReadOnly()
	}
	r := w.recording(end)
	at := r.Disk.Cursor()
	for _, c := range []sim.Choice{sim.None, sim.All, sim.DeviceOnly, sim.StoreOnly, sim.Seeded(uint64(f.N)), sim.Seeded(uint64(f.N) + 1000)} {
		if err == nil {
			err = r.Try(w.ctx, at, Crash{Cut: end, Left: c, Again: -1})
		}
	}
	if err != nil {
		err = fmt.Errorf("%v (%v): %w", f, hit, err)
	}
	return hit != nil, err
}

// TryStart crashes a recording, and has the fault while what is left is opened and
// closed, and reports whether it did. That goes well or fails with EIO or EROFS, and
// whatever it has made of the disk, the next start finds what the crash may leave.
func (f Fault) TryStart(ctx context.Context, r *Recording, at *sim.Cursor, c Crash) (happened bool, err error) {
	at.Seek(c.Cut)
	d := at.Crash(c.Left)
	fuse := &fuse{Fault: f, left: f.N}
	d.Before(fuse.hook)
	opened := r.startOnce(ctx, d)
	d.Before(nil)
	hit := fuse.blown()
	if opened != nil && (hit == nil || !errors.Is(opened, syscall.EIO) && !errors.Is(opened, syscall.EROFS)) {
		return hit != nil, fmt.Errorf("%v (%v), %v: wrong errno: %w", f, hit, c, opened)
	}
	next := d.Cursor()
	next.Seek(d.Pos())
	for _, again := range []sim.Choice{sim.All, sim.None, sim.Seeded(uint64(f.N))} {
		if _, err := r.verifyDisk(ctx, next.Crash(again), c.Cut); err != nil {
			return hit != nil, fmt.Errorf("%v (%v), %v, then %v, after %v: %w", f, hit, c, again, opened, err)
		}
	}
	return hit != nil, nil
}

// startOnce opens the volume and closes it.
func (r *Recording) startOnce(ctx context.Context, d *sim.Disk) error {
	st, err := store.Open(metaDir, r.o.storeOptions(d))
	if err != nil {
		return err
	}
	vol, err := volume.Open(ctx, d.Device(), st, volume.Options{})
	if err == nil {
		err = vol.Close()
	}
	return errors.Join(err, st.Close())
}

// verifyFailed: whatever failed did so with an errno that says what is wrong. What
// is not there because of that is not there.
func (w *World) verifyFailed() error {
	for i, err := range w.failed {
		missing := i > 0 && (errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EEXIST) || errors.Is(err, syscall.ENOTEMPTY))
		if !missing && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("wrong errno: %w", err)
		}
	}
	return nil
}

// verifyLive: what can be read is right.
func (w *World) verifyLive() error {
	for p, n := range w.tree {
		f := w.files[n.ino]
		if f == nil {
			continue
		}
		got := make([]byte, f.largest()+10*block)
		k, err := w.fs.Read(w.ctx, n.ino, got, 0)
		switch {
		case errors.Is(err, syscall.EIO):
		case err != nil:
			return fmt.Errorf("read %s: wrong errno: %w", p, err)
		default:
			if err := f.verify(got[:k], 0, math.MaxInt); err != nil {
				return fmt.Errorf("while it serves: %w", err)
			}
		}
	}
	return nil
}

// verifyReadOnly: the first change may still find out, the next is refused.
func (w *World) verifyReadOnly() error {
	var err error
	for i := range 2 {
		if _, err = w.fs.Mknod(w.ctx, fs.Caller{}, extent.RootIno, fmt.Sprint("late", i), syscall.S_IFREG, 0); err == nil {
			if err = w.fs.FsyncDir(w.ctx, extent.RootIno); err == nil {
				return errors.New("it goes on as if nothing had been")
			}
		}
	}
	if !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("not read-only: %w", err)
	}
	if w.vol.FailReason() == nil || w.vol.Info().FailReason == "" {
		return errors.New("read-only for no reason")
	}
	return nil
}
