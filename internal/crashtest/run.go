package crashtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/internal/sim"
	"holdfast/store"
)

// Recording is a workload that has run, with the log of its disk and all that was
// promised.
type Recording struct {
	Disk *sim.Disk
	// First and Last are the positions between which the power can fail.
	First, Last int
	o           Options
	names       names
	files       map[extent.Ino]*fileModel
	sizes       []growth
	shrunk      []growth
	tried       []growth // to grow, and failed
	kept        []*Kept
}

// Record runs a workload. The positions are those of its own time: the volume is
// open and settled when it begins, and not closed when it ends.
//
// It runs in a bubble, so that two recordings of a workload are the same: after each
// batch it waits until the store has written in the background what it means to.
func Record(t *testing.T, wl Workload, o Options) (r *Recording) {
	t.Helper()
	wrap := o.Wrap
	o.Wrap = func(d device.Device, s store.Store) (device.Device, store.Store) {
		s = paced{s}
		if wrap != nil {
			d, s = wrap(d, s)
		}
		return d, s
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, wl, o)
		w.disk.Before(unhurried(o.Fault))
		wl.Run(w)
		end := w.disk.Pos()
		if o.Fault == nil {
			w.compare()
		}
		r = w.recording(end)
	})
	return r
}

// paced is a store in a bubble that has nothing left to do before and after each batch. Pebble writes its log beside whoever
// applies a batch: it would write what it finds, one part or both, and the wake-up is lost on one who has just looked for more. So
// each write of the log takes a moment of the bubble (unhurried), which only passes when the batch is complete, and after it several pass.
type paced struct{ store.Store }

func (p paced) Apply(b *store.Batch) error {
	synctest.Wait()
	err := p.Store.Apply(b)
	time.Sleep(time.Microsecond)
	synctest.Wait()
	return err
}

// unhurried lets writes of the store take a moment.
func unhurried(hook func(sim.Op) error) func(sim.Op) error {
	return func(o sim.Op) error {
		if !o.Device() && o.Kind == sim.Write {
			time.Sleep(time.Nanosecond)
		}
		if hook == nil {
			return nil
		}
		return hook(o)
	}
}

// recording ends the world.
func (w *World) recording(end int) *Recording {
	w.end()
	r := &Recording{Disk: w.disk, First: w.first, Last: end, o: w.o, names: w.names, files: w.files, sizes: w.sizes, shrunk: w.shrunk, tried: w.tried, kept: w.kept}
	r.o.Fault, r.o.Wrap, r.o.After = nil, nil, nil
	for _, f := range r.files {
		for i, c := range f.changes {
			if c.what == synced || i > 0 && f.changes[i-1].what == edited {
				f.content(i) // from now on it is only read, by several
			}
		}
	}
	return r
}

func newWorld(t testing.TB, wl Workload, o Options) *World {
	t.Helper()
	if wl.Size == 0 {
		wl.Size = 1 << 20
	}
	w := &World{t: t, ctx: context.Background(), o: o, last: extent.RootIno, tree: make(tree), files: make(map[extent.Ino]*fileModel)}
	w.names.moments = []moment{{}}
	w.names.syncs = []nameSync{{}}
	var err error
	if w.stack, err = start(w.ctx, wl.Size, &o); err != nil {
		t.Fatal(err)
	}
	w.disk.Before(o.Fault)
	return w
}

// end stops what is not needed for the recording any more.
func (w *World) end() {
	w.disk.Before(nil)
	if err := w.stop(w.ctx); err != nil && w.o.Fault == nil {
		w.t.Error(err)
	}
}

// compare makes sure that the workload has met no bug that needs no crash.
func (w *World) compare() {
	w.t.Helper()
	for p, n := range w.tree {
		f := w.files[n.ino]
		if f == nil {
			continue
		}
		want := f.content(len(f.changes))
		got := make([]byte, len(want)+1)
		k, err := w.fs.Read(w.ctx, n.ino, got, 0)
		if err != nil || string(got[:k]) != string(want) {
			w.t.Fatalf("%s differs without a crash: %d bytes of %d, %v", p, k, len(want), err)
		}
	}
}

// Crash is one crash of a recording: where and what it left, and the same once more
// while what it left was opened, if Again is not negative.
type Crash struct {
	Cut       int
	Left      sim.Choice
	Again     int
	LeftAgain sim.Choice
}

func (c Crash) String() string {
	s := fmt.Sprintf("cut=%d left=%v", c.Cut, c.Left)
	if c.Again >= 0 {
		s += fmt.Sprintf(" again=%d leftagain=%v", c.Again, c.LeftAgain)
	}
	return s
}

// ParseCrash reads what String has written.
func ParseCrash(s string) (Crash, error) {
	c := Crash{Again: -1}
	for _, f := range strings.Fields(s) {
		key, value, _ := strings.Cut(f, "=")
		var err error
		switch key {
		case "cut":
			_, err = fmt.Sscan(value, &c.Cut)
		case "again":
			_, err = fmt.Sscan(value, &c.Again)
		case "left":
			c.Left, err = sim.ParseChoice(value)
		case "leftagain":
			c.LeftAgain, err = sim.ParseChoice(value)
		default:
			err = fmt.Errorf("unknown %q", key)
		}
		if err != nil {
			return c, fmt.Errorf("crash %q: %w", s, err)
		}
	}
	return c, nil
}

// Try crashes at a place and verifies what is left. The cursor is the caller's; it
// is fastest if it goes forward.
func (r *Recording) Try(ctx context.Context, at *sim.Cursor, c Crash) error {
	at.Seek(c.Cut)
	d := at.Crash(c.Left)
	opened, err := r.verifyDisk(ctx, d, c.Cut)
	if err == nil && c.Again >= 0 {
		next := d.Cursor()
		next.Seek(c.Again % (opened + 1))
		_, err = r.verifyDisk(ctx, next.Crash(c.LeftAgain), c.Cut)
	}
	if err != nil {
		err = fmt.Errorf("crash %v: %w", c, err)
	}
	return err
}

// Exhaust tries all positions, each with every choice that needs no number and some
// seeds; where less than all sectors are in doubt, with all choices there are. It
// returns how many crashes it tried and the first error.
func (r *Recording) Exhaust(seeds int) (int, error) {
	return r.run(func(at *sim.Cursor, cut int, yield func(Crash) bool) {
		var choices []sim.Choice
		if device, st, names := at.Atoms(); device+st+names <= maxMasked {
			for bits := range uint64(1) << (device + st + names) {
				choices = append(choices, sim.Masked(bits))
			}
		} else {
			choices = append(choices, sim.None, sim.All, sim.DeviceOnly, sim.StoreOnly)
			for s := range seeds {
				choices = append(choices, sim.Seeded(uint64(cut*seeds+s)))
			}
			for n := 1; n < st; n += 1 + st/maxTorn {
				choices = append(choices, sim.Torn(n))
			}
		}
		for _, c := range choices {
			if !yield(Crash{Cut: cut, Left: c, Again: -1}) {
				return
			}
		}
		rng := rand.New(rand.NewPCG(uint64(cut), 1))
		yield(Crash{cut, sim.Seeded(rng.Uint64()), rng.IntN(1 << 20), sim.Seeded(rng.Uint64())})
	}, r.First, 1)
}

const (
	maxMasked = 3  // with how many sectors and names in doubt all choices are tried
	maxTorn   = 16 // at how many places a write of the store is torn
)

// Sample tries n positions, as seed says, in order.
func (r *Recording) Sample(seed uint64, n int) (int, error) {
	step := max(1, (r.Last-r.First)/max(1, n))
	rng := rand.New(rand.NewPCG(seed, 2))
	return r.run(func(_ *sim.Cursor, cut int, yield func(Crash) bool) {
		c := Crash{Cut: cut, Again: -1}
		switch rng.IntN(8) {
		case 0:
			c.Left = sim.DeviceOnly
		case 1:
			c.Left = sim.StoreOnly
		case 2:
			c.Left = sim.None
		default:
			c.Left = sim.Seeded(rng.Uint64())
		}
		if rng.IntN(8) == 0 {
			c.Again, c.LeftAgain = rng.IntN(1<<20), sim.Seeded(rng.Uint64())
		}
		yield(c)
	}, r.First+rng.IntN(step), step)
}

func (r *Recording) run(crashes func(at *sim.Cursor, cut int, yield func(Crash) bool), first, step int) (tried int, err error) {
	at := r.Disk.Cursor()
	for cut := first; cut <= r.Last; cut += step {
		at.Seek(cut)
		crashes(at, cut, func(c Crash) bool {
			tried++
			err = r.Try(context.Background(), at, c)
			return err == nil
		})
		if err != nil {
			return tried, fmt.Errorf("%w\nthe log around it:\n%s", err, strings.Join(r.Disk.Trace(cut, 6), "\n"))
		}
	}
	return tried, nil
}
