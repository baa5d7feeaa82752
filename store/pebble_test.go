package store

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"holdfast/internal/sim"
)

// smallTable makes Pebble turn its log and write its tables often. Batches of more
// than half of it go around the table.
const smallTable = 256 << 10

func open1(t *testing.T, fsys vfs.FS) *Pebble {
	t.Helper()
	s, err := Create("meta", Options{FS: fsys, CacheSize: 1 << 20, MemTableSize: smallTable})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(k, v string) *Batch {
	var b Batch
	b.Put([]byte(k), []byte(v))
	return &b
}

func get(t *testing.T, s Reader, k string) string {
	t.Helper()
	v, err := s.Get([]byte(k))
	if errors.Is(err, ErrNotFound) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBatchIsAllOrNothing(t *testing.T) {
	s := open1(t, vfs.NewMem())
	ok(t, s.Apply(put("a", "1")))
	b := put("b", "2")
	b.Delete([]byte("a"))
	b.Compare([]byte("a"), []byte("other"))
	if err := s.Apply(b); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	if a, b := get(t, s, "a"), get(t, s, "b"); a != "1" || b != "-" {
		t.Fatalf("a=%s b=%s after a conflict", a, b)
	}
	b.Reset()
	b.Put([]byte("b"), []byte("2"))
	b.Delete([]byte("a"))
	b.Compare([]byte("a"), []byte("1"))
	b.CompareAbsent([]byte("b"))
	ok(t, s.Apply(b))
	if a, b := get(t, s, "a"), get(t, s, "b"); a != "-" || b != "2" {
		t.Fatalf("a=%s b=%s", a, b)
	}
	for _, c := range []func(*Batch){
		func(b *Batch) { b.CompareAbsent([]byte("b")) },
		func(b *Batch) { b.Compare([]byte("nothing"), nil) },
	} {
		b := put("c", "3")
		c(b)
		if err := s.Apply(b); !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
	}
}

// TestLastCallCounts: a batch may change its mind about a key, and counts it once.
func TestLastCallCounts(t *testing.T) {
	s := open1(t, vfs.NewMem())
	b := put("a", "1")
	b.Delete([]byte("a"))
	b.Put([]byte("a"), []byte("22"))
	b.Put([]byte("b"), []byte("1"))
	b.Delete([]byte("b"))
	if b.Ops() != 2 || b.Bytes() != 4 {
		t.Fatalf("%d operations, %d bytes", b.Ops(), b.Bytes())
	}
	ok(t, s.Apply(b))
	if a, b := get(t, s, "a"), get(t, s, "b"); a != "22" || b != "-" {
		t.Fatalf("a=%s b=%s", a, b)
	}
}

func TestLimits(t *testing.T) {
	s := open1(t, vfs.NewMem())
	var b Batch
	for i := range MaxOps {
		b.Put(fmt.Append(nil, i), nil)
	}
	ok(t, s.Apply(&b))
	b.CompareAbsent([]byte("x"))
	if err := s.Apply(&b); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	ok(t, s.Apply(put("big", string(make([]byte, MaxBytes-3)))))
	if err := s.Apply(put("big", string(make([]byte, MaxBytes-2)))); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
}

func TestScan(t *testing.T) {
	s := open1(t, vfs.NewMem())
	for _, k := range []string{"a1", "a2", "a3", "b1"} {
		ok(t, s.Apply(put(k, "v"+k)))
	}
	collect := func(lower, upper string, max int) (out string) {
		var up []byte
		if upper != "" {
			up = []byte(upper)
		}
		ok(t, s.Scan([]byte(lower), up, func(k, v []byte) (bool, error) {
			out += fmt.Sprintf("%s=%s ", k, v)
			max--
			return max > 0, nil
		}))
		return out
	}
	for _, c := range []struct{ got, want string }{
		{collect("a2", "b", 9), "a2=va2 a3=va3 "},
		{collect("a", "", 9), "a1=va1 a2=va2 a3=va3 b1=vb1 "},
		{collect("a", "", 2), "a1=va1 a2=va2 "},
		{collect("c", "", 2), ""},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	no := errors.New("no")
	if err := s.Scan([]byte("a"), nil, func(k, v []byte) (bool, error) { return true, no }); !errors.Is(err, no) {
		t.Error(err)
	}
}

// TestTerm: a batch of a term that has passed is refused, also after a restart.
func TestTerm(t *testing.T) {
	fsys := vfs.NewMem()
	s := open1(t, fsys)
	ok(t, s.Fence(5))
	b := put("a", "1")
	b.Term = 4
	if err := s.Apply(b); !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	if err := s.Fence(4); !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	ok(t, s.Close())
	s, err := Open("meta", Options{FS: fsys})
	ok(t, err)
	defer s.Close()
	if err := s.Apply(b); !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	b.Term = 5
	ok(t, s.Apply(b))
}

// TestDurability: what was synced survives a power cut, and of the rest a prefix.
func TestDurability(t *testing.T) {
	d := sim.New(0, 0)
	s := open1(t, d.FS())
	ok(t, s.Apply(put("a", "1")))
	ok(t, s.Sync())
	ok(t, s.Apply(put("b", "2")))
	at := d.Cursor()
	at.Seek(d.Pos())
	after, err := Open("meta", Options{FS: at.Crash(sim.None).FS()})
	ok(t, err)
	defer after.Close()
	if a, b := get(t, after, "a"), get(t, after, "b"); a != "1" || b != "-" {
		t.Fatalf("a=%s b=%s", a, b)
	}
}

// gate makes all operations that alter files fail, at once or after some.
type gate struct {
	fail     atomic.Bool
	counting atomic.Bool
	left     atomic.Int32
}

func (g *gate) String() string { return "gate" }

func (g *gate) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpFileClose {
		return nil
	}
	if g.fail.Load() || g.counting.Load() && g.left.Add(-1) < 0 {
		return syscall.EIO
	}
	return nil
}

// TestFailureSticks: after a failed log write or sync the store refuses all
// batches, although the disk works again; reads go on, and closing ends.
func TestFailureSticks(t *testing.T) {
	g := &gate{}
	mem := vfs.NewMem()
	s := open1(t, errorfs.Wrap(mem, g))
	ok(t, s.Apply(put("a", "1")))
	ok(t, s.Sync())
	g.fail.Store(true)
	err := s.Apply(put("b", "2"))
	if err == nil {
		err = s.Sync()
	}
	if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	g.fail.Store(false)
	wantFailed(t, s)
	ok(t, s.Close())
	s, err = Open("meta", Options{FS: mem})
	ok(t, err)
	defer s.Close()
	if a, c := get(t, s, "a"), get(t, s, "c"); a != "1" || c != "-" {
		t.Fatalf("a=%s c=%s after the restart", a, c)
	}
}

func wantFailed(t *testing.T, s *Pebble) {
	t.Helper()
	for what, err := range map[string]error{"apply": s.Apply(put("c", "3")), "sync": s.Sync(), "fence": s.Fence(9)} {
		if !errors.Is(err, ErrFailed) {
			t.Fatalf("%s after a failure: %v", what, err)
		}
	}
	if a := get(t, s, "a"); a != "1" {
		t.Fatalf("a=%s", a)
	}
}

// TestFailureAnywhere makes the disk fail at each of its operations in turn, while
// the store fills enough to turn its log and write its tables: that is never the
// end of the process, what is acknowledged is there afterwards, and closing ends.
func TestFailureAnywhere(t *testing.T) {
	const size = 50_000
	for after := int32(0); ; after += 1 + after/8 {
		g := &gate{}
		mem := vfs.NewMem()
		s := open1(t, errorfs.Wrap(mem, g))
		ok(t, s.Apply(put("a", "1")))
		ok(t, s.Sync())
		g.left.Store(after)
		g.counting.Store(true)
		var err error
		acked := -1
		for i := 0; i < 60 && err == nil; i++ {
			k := fmt.Sprintf("k%02d", i)
			if err = s.Apply(put(k, string(make([]byte, size)))); err == nil {
				if err = s.Sync(); err == nil {
					acked = i
				}
			}
		}
		if err != nil {
			wantFailed(t, s)
		}
		ok(t, s.Close())
		g.counting.Store(false)
		r, oerr := Open("meta", Options{FS: mem})
		ok(t, oerr)
		for i := range acked + 1 {
			if v := get(t, r, fmt.Sprintf("k%02d", i)); len(v) != size {
				t.Fatalf("failure after %d operations: batch %d of %d is lost", after, i, acked)
			}
		}
		ok(t, r.Close())
		if err == nil {
			if after < 100 {
				t.Fatalf("all of it took %d operations", after)
			}
			return
		}
	}
}

func TestOpenClose(t *testing.T) {
	fsys := vfs.NewMem()
	if _, err := Open("meta", Options{FS: fsys}); !errors.Is(err, ErrNotExist) {
		t.Fatalf("nothing there: %v", err)
	}
	ok(t, fsys.MkdirAll("meta", 0o700))
	if _, err := Open("meta", Options{FS: fsys}); !errors.Is(err, ErrNotExist) {
		t.Fatalf("empty directory: %v", err)
	}
	s := open1(t, fsys)
	if _, err := Open("meta", Options{FS: fsys}); !errors.Is(err, ErrInUse) {
		t.Fatalf("second server: %v", err)
	}
	ok(t, s.Apply(put("a", "1")))
	ok(t, s.Sync())
	ok(t, s.Close())
	ok(t, s.Close())
	if _, err := Create("meta", Options{FS: fsys}); err == nil {
		t.Fatal("created over a store")
	}
	no := errors.New("no")
	verify := func(r Reader) error {
		if v, err := r.Get([]byte("a")); err != nil || !bytes.Equal(v, []byte("1")) {
			t.Errorf("verify sees %q, %v", v, err)
		}
		return no
	}
	if _, err := Open("meta", Options{FS: fsys, Verify: verify}); !errors.Is(err, no) {
		t.Fatal(err)
	}
	r, err := Open("meta", Options{FS: fsys, ReadOnly: true})
	ok(t, err)
	if a := get(t, r, "a"); a != "1" {
		t.Fatalf("a=%s", a)
	}
	if err := r.Apply(put("b", "1")); !errors.Is(err, syscall.EROFS) {
		t.Fatal(err)
	}
	ok(t, r.Close())
}

func BenchmarkApply(b *testing.B) {
	s, err := Create(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	k, v := make([]byte, 17), make([]byte, 25)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		var t Batch
		for j := range 3 {
			copy(k, fmt.Sprint(i, j))
			t.Put(bytes.Clone(k), v)
		}
		if err := s.Apply(&t); err != nil {
			b.Fatal(err)
		}
	}
}
