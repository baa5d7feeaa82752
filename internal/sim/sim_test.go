package sim

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"holdfast/device"
)

const (
	devSize = 64 << 10
	stale   = 16 << 10
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func put(t *testing.T, d *Disk, b byte, off int64, n int) {
	t.Helper()
	_, err := d.Device().WriteAt(fill(b, n), off)
	must(t, err)
}

func get(t *testing.T, d *Disk, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	_, err := d.Device().ReadAt(p, off)
	must(t, err)
	return p
}

func create(t *testing.T, d *Disk, name, text string) vfs.File {
	t.Helper()
	f, err := d.FS().Create(name, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write([]byte(text))
	must(t, err)
	return f
}

func syncDir(t *testing.T, d *Disk, name string) {
	t.Helper()
	f, err := d.FS().OpenDir(name)
	must(t, err)
	must(t, f.Sync())
}

func names(t *testing.T, d *Disk) string {
	t.Helper()
	list, err := d.FS().List("/")
	must(t, err)
	return string(bytes.Join(slices.Collect(func(yield func([]byte) bool) {
		for _, n := range list {
			if !yield([]byte(n)) {
				return
			}
		}
	}), []byte(" ")))
}

func text(t *testing.T, d *Disk, name string) string {
	t.Helper()
	f, err := d.FS().Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	must(t, err)
	st, err := f.Stat()
	must(t, err)
	p := make([]byte, st.Size())
	_, err = f.ReadAt(p, 0)
	must(t, err)
	return string(p)
}

// crash is the disk as it is when the power fails now.
func crash(d *Disk, c Choice) *Disk {
	cur := d.Cursor()
	cur.Seek(d.Pos())
	return cur.Crash(c)
}

// TestFlush: what was flushed is there after a crash, of either half; of the rest
// that which the choice says.
func TestFlush(t *testing.T) {
	d := New(devSize, stale)
	f := create(t, d, "f", "old")
	must(t, f.Sync())
	syncDir(t, d, "/")
	put(t, d, 1, 0, 4096)
	must(t, d.Device().Sync())
	put(t, d, 2, 0, 4096)
	_, err := f.Write([]byte(" new"))
	must(t, err)
	if got := get(t, d, 0, 1)[0]; got != 2 || text(t, d, "f") != "old new" {
		t.Fatal("reads do not see what was written last")
	}
	for c, want := range map[Choice]struct {
		b    byte
		text string
	}{None: {1, "old"}, All: {2, "old new"}, DeviceOnly: {2, "old"}, StoreOnly: {1, "old new"}} {
		after := crash(d, c)
		if got := get(t, after, 0, 4096); !bytes.Equal(got, fill(want.b, 4096)) || text(t, after, "f") != want.text {
			t.Errorf("%v: device %d, file %q", c, got[0], text(t, after, "f"))
		}
	}
	if got := get(t, d, stale, 1)[0]; got != Stale {
		t.Errorf("a new device holds %#x", got)
	}
}

// TestTorn: any sectors of a write may be there, each as a whole; of two writes to
// one sector the second is not there without the first.
func TestTorn(t *testing.T) {
	d := New(devSize, stale)
	put(t, d, 1, 100, 8*Sector)
	_, err := d.Device().WriteAt(fill(2, 50), 0)
	must(t, err)
	seen := make(map[string]bool)
	for seed := range uint64(500) {
		p := get(t, crash(d, Seeded(seed)), 0, 9*Sector)
		for s := range 9 {
			sector := p[s*Sector:][:Sector]
			lo, hi := 0, Sector
			if s == 0 {
				lo = 100
			} else if s == 8 {
				hi = 100
			}
			if !bytes.Equal(sector[lo:hi], fill(sector[lo], hi-lo)) {
				t.Fatalf("seed %d: sector %d is mixed", seed, s)
			}
			if s == 0 && sector[0] == 2 && sector[100] != 1 {
				t.Fatalf("seed %d: the second write is there without the first", seed)
			}
		}
		seen[string(p)] = true
	}
	if len(seen) < 50 {
		t.Errorf("500 seeds gave %d outcomes", len(seen))
	}
}

// TestTornLog: the first sectors of the store and all of the device.
func TestTornLog(t *testing.T) {
	d := New(devSize, stale)
	put(t, d, 1, 0, 2*Sector)
	create(t, d, "f", string(fill('x', 3*Sector)))
	for n := range 4 {
		after := crash(d, Torn(n))
		if got := text(t, after, "f"); got != string(fill('x', n*Sector)) || get(t, after, Sector, 1)[0] != 1 {
			t.Errorf("%d: %d bytes", n, len(got))
		}
	}
}

// TestMasked goes through all outcomes.
func TestMasked(t *testing.T) {
	d := New(devSize, stale)
	put(t, d, 1, 0, 2*Sector)
	put(t, d, 1, 8*Sector, Sector)
	create(t, d, "f", "x")
	cur := d.Cursor()
	cur.Seek(d.Pos())
	if dev, st, names := cur.Atoms(); dev != 3 || st != 1 || names != 1 {
		t.Fatalf("%d sectors of the device, %d of the store, %d names", dev, st, names)
	}
	seen := make(map[string]bool)
	for bits := range uint64(32) {
		after := cur.Crash(Masked(bits))
		p := get(t, after, 0, 9*Sector)
		seen[string([]byte{p[0], p[Sector], p[8*Sector]})+text(t, after, "f")] = true
	}
	if len(seen) != 8*3 { // without its name nothing is seen of the file
		t.Errorf("%d outcomes", len(seen))
	}
}

// TestNames: a name is there for sure after a sync of its directory; before that a
// rename is done or not, and the file has one of the two names or, where no name
// goes, both.
func TestNames(t *testing.T) {
	d := New(devSize, stale)
	must(t, create(t, d, "a", "a").Sync())
	if got := names(t, crash(d, None)); got != "" {
		t.Fatalf("a name that was not synced is there: %s", got)
	}
	syncDir(t, d, "/")
	must(t, create(t, d, "b", "b").Sync())
	must(t, d.FS().Rename("b", "a"))
	must(t, d.FS().Remove("a"))
	seen := make(map[string]bool)
	for seed := range uint64(200) {
		after := crash(d, Seeded(seed))
		seen[names(t, after)+":"+text(t, after, "a")] = true
	}
	want := []string{":-", "a b:a", "a b:b", "a:a", "a:b"}
	if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	syncDir(t, d, "/")
	if got := names(t, crash(d, None)); got != "" {
		t.Errorf("after the sync of the directory: %s", got)
	}
}

// TestSeek: a cursor comes to the same by whatever way.
func TestSeek(t *testing.T) {
	d := New(devSize, stale)
	for i := range byte(20) {
		put(t, d, i, int64(i)*700, 3000)
		if i%4 == 3 {
			must(t, d.Device().Sync())
		}
	}
	forward, back := d.Cursor(), d.Cursor()
	back.Seek(d.Pos())
	for pos := range d.Pos() + 1 {
		forward.Seek(pos)
		back.Seek(pos)
		for _, c := range []Choice{None, All, Seeded(uint64(pos))} {
			if !bytes.Equal(get(t, forward.Crash(c), 0, devSize), get(t, back.Crash(c), 0, devSize)) {
				t.Fatalf("at %d, %v", pos, c)
			}
		}
		back.Seek(d.Pos())
	}
	d.Settle()
	if d.Pos() != 0 || get(t, crash(d, None), 19*700, 1)[0] != 19 {
		t.Error("not everything is durable after Settle")
	}
}

// TestFailed: what a failed flush was for stays in doubt; the device takes no more
// writes; half of a failed write is there.
func TestFailed(t *testing.T) {
	d := New(devSize, stale)
	dev := d.Device()
	fail := Flush
	d.Before(func(o Op) error {
		if o.Device() && o.Kind == fail {
			return syscall.EIO
		}
		return nil
	})
	_, err := dev.WriteAt(fill(1, 1000), 0)
	must(t, err)
	if err := dev.Sync(); !errors.Is(err, device.ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	fail = Write
	if _, err := dev.WriteAt(fill(1, 10), 0); !errors.Is(err, device.ErrFailed) {
		t.Fatal(err)
	}
	dev = d.Device() // opened anew
	if n, err := dev.WriteAt(fill(2, 100), 4096); !errors.Is(err, syscall.EIO) || n != 50 {
		t.Fatal(n, err)
	}
	fail = Read
	if _, err := dev.ReadAt(make([]byte, 1), 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.Before(nil)
	if p := get(t, d, 4096, 51); p[49] != 2 || p[50] != 0 {
		t.Error("half of the failed write is not there")
	}
	must(t, d.Device().Sync()) // as if nothing had been
	if got := get(t, crash(d, None), 0, 1)[0]; got != 0 {
		t.Error("a later flush made durable what the failed one had not")
	}
	if got := get(t, crash(d, All), 0, 1)[0]; got != 1 {
		t.Error("what a failed flush was for cannot be there")
	}
}

func TestChoiceText(t *testing.T) {
	for _, c := range []Choice{None, All, DeviceOnly, StoreOnly, Seeded(17), Masked(5), Torn(3)} {
		if got, err := ParseChoice(c.String()); err != nil || got != c {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := ParseChoice("some"); err == nil {
		t.Error("what is no choice is one")
	}
}

// TestCorrupt: a flipped bit is seen by reads, and after any crash.
func TestCorrupt(t *testing.T) {
	d := New(devSize, stale)
	must(t, create(t, d, "f", "text").Sync())
	d.Settle()
	must(t, d.Corrupt("f", 1, 0x20))
	if text(t, d, "f") != "tExt" || text(t, crash(d, None), "f") != "tExt" {
		t.Error("the bit is not flipped")
	}
	if err := d.Corrupt("g", 0, 1); err == nil {
		t.Error("what is not there was damaged")
	}
}
