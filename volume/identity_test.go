package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/internal/sim"
	"holdfast/store"

	"github.com/google/uuid"
)

// place is a volume on real files.
type place struct{ dir string }

func (p place) dev() string  { return filepath.Join(p.dir, "device") }
func (p place) meta() string { return filepath.Join(p.dir, "meta") }

func newPlace(t *testing.T) place {
	t.Helper()
	p := place{t.TempDir()}
	dev, err := device.Create(p.dev(), 8*mib)
	must(t, err)
	st, err := store.Create(p.meta(), store.Options{})
	must(t, err)
	must(t, Create(dev, st, Options{}))
	must(t, errors.Join(st.Close(), dev.Close()))
	must(t, p.use())
	return p
}

// use opens the volume as a server does, writes a little, and closes it.
func (p place) use() error {
	dev, err := device.Open(p.dev())
	if err != nil {
		return err
	}
	defer dev.Close()
	st, err := store.Open(p.meta(), store.Options{Verify: func(r store.Reader) error { return Verify(dev, r) }})
	if err != nil {
		return err
	}
	defer st.Close()
	v, err := Open(context.Background(), dev, st, Options{})
	if err != nil {
		return err
	}
	if _, err := v.NewIno(); err != nil {
		return err
	}
	return v.Close()
}

// hash is of all bytes and names of the place.
func (p place) hash(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	must(t, filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n", path, len(b))
		h.Write(b)
		return err
	}))
	return fmt.Sprintf("%x", h.Sum(nil))
}

// alter changes the device's superblock.
func (p place) alter(t *testing.T, fn func(*superblock)) {
	t.Helper()
	dev, err := device.Open(p.dev())
	must(t, err)
	s, err := readDeviceSuper(dev)
	must(t, err)
	fn(&s)
	must(t, errors.Join(writeDeviceSuper(dev, &s), dev.Close()))
}

func patch(t *testing.T, path string, off int64, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(p, off)
	must(t, errors.Join(err, f.Close()))
}

// TestRefused: what is not this volume is refused with an error that says why, and
// not a byte on disk changes.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, p place)
		want   error
	}{
		"truncated device": {func(t *testing.T, p place) { must(t, os.Truncate(p.dev(), 4*mib)) }, ErrTruncated},
		"empty device":     {func(t *testing.T, p place) { must(t, os.Truncate(p.dev(), 0)) }, ErrForeign},
		"blank device": {func(t *testing.T, p place) {
			must(t, errors.Join(os.Truncate(p.dev(), 0), os.Truncate(p.dev(), 8*mib)))
		}, ErrBlank},
		"foreign device":   {func(t *testing.T, p place) { patch(t, p.dev(), 0, []byte("\xebR\x90NTFS    ")) }, ErrForeign},
		"other version":    {func(t *testing.T, p place) { patch(t, p.dev(), 8, []byte{99}) }, ErrVersion},
		"torn superblock":  {func(t *testing.T, p place) { patch(t, p.dev(), 30, []byte{1, 2, 3}) }, ErrCorrupt},
		"store of another": {func(t *testing.T, p place) { p.alter(t, func(s *superblock) { s.uuid = uuid.New() }) }, ErrMismatch},
		"old device":       {func(t *testing.T, p place) { must(t, p.use()); p.alter(t, func(s *superblock) { s.generation -= 2 }) }, ErrGeneration},
		"old store":        {func(t *testing.T, p place) { p.alter(t, func(s *superblock) { s.generation++ }) }, ErrGeneration},
		"no store":         {func(t *testing.T, p place) { must(t, os.RemoveAll(p.meta())) }, store.ErrNotExist},
		"foreign store": {func(t *testing.T, p place) {
			must(t, os.RemoveAll(p.meta()))
			st, err := store.Create(p.meta(), store.Options{})
			must(t, err)
			must(t, st.Close())
		}, ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			c.damage(t, p)
			before := p.hash(t)
			if err := p.use(); !errors.Is(err, c.want) {
				t.Errorf("opened: %v; want %v", err, c.want)
			} else {
				t.Log(err)
			}
			if p.hash(t) != before {
				t.Error("something on disk has changed")
			}
		})
	}
}

// TestSecondServer is refused by device and by store, and disturbs nothing.
func TestSecondServer(t *testing.T) {
	p := newPlace(t)
	dev, err := device.Open(p.dev())
	must(t, err)
	defer dev.Close()
	st, err := store.Open(p.meta(), store.Options{})
	must(t, err)
	defer st.Close()
	v, err := Open(context.Background(), dev, st, Options{})
	must(t, err)
	before := p.hash(t)
	if err := p.use(); !errors.Is(err, device.ErrInUse) {
		t.Errorf("second server: %v", err)
	}
	if _, err := store.Open(p.meta(), store.Options{}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("second server on the store: %v", err)
	}
	if p.hash(t) != before {
		t.Error("something on disk has changed")
	}
	must(t, v.Close())
}

// TestTakenOver: a server that another has taken over cannot write metadata.
func TestTakenOver(t *testing.T) {
	r := newRig(t, 8*mib)
	old := r.v
	r.open() // another server, by some way around the locks
	if _, err := old.NewIno(); !errors.Is(err, store.ErrFenced) {
		t.Fatalf("server of an earlier term: %v", err)
	}
	if old.FailReason() == nil {
		t.Fatal("it does not know")
	}
	if _, err := r.v.NewIno(); err != nil {
		t.Fatal(err)
	}
}

// TestGenerationAfterCrash: a crash between raising the store's generation and
// the device's is none of a mismatch.
func TestGenerationAfterCrash(t *testing.T) {
	p := newPlace(t)
	for range 3 {
		p.alter(t, func(s *superblock) { s.generation-- })
		must(t, p.use())
	}
}

func TestCreateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		dev  func(d *testDevice)
		st   func(s *store.Pebble) error
		want error
	}{
		"blank":          {want: nil},
		"a filesystem":   {dev: func(d *testDevice) { d.WriteAt([]byte{0x53}, 0x438) }, want: ErrForeign},
		"another format": {dev: func(d *testDevice) { d.WriteAt(append(magic[:], 7), 0) }, want: ErrExists},
		"used store":     {st: func(s *store.Pebble) error { var b store.Batch; b.Put([]byte("x"), nil); return s.Apply(&b) }, want: ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 8*mib)
			must(t, r.st.Close())
			r.insert(sim.New(8*mib, dataStart))
			st, err := store.Create("meta", r.options(nil))
			must(t, err)
			defer st.Close()
			if c.dev != nil {
				c.dev(r.dev)
			}
			if c.st != nil {
				must(t, c.st(st))
			}
			if err := Create(r.dev, st, Options{}); !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.want == nil {
				if err := Create(r.dev, st, Options{}); !errors.Is(err, ErrExists) {
					t.Fatalf("a second time: %v", err)
				}
				// As if the crash had come before the device's superblock.
				r.dev.WriteAt(make([]byte, extent.BlockSize), 0)
				must(t, Create(r.dev, st, Options{}))
			}
		})
	}
	r := newRig(t, 8*mib)
	if err := Create(sim.New(MinSize-1, MinSize).Device(), r.st, Options{}); !errors.Is(err, ErrTooSmall) {
		t.Error(err)
	}
}
