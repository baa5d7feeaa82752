package store

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"holdfast/internal/sim"
)

// crashed returns a disk with a store that was not closed, after n synced batches,
// its log, and where in that the last batch begins.
func crashed(t *testing.T, n int) (d *sim.Disk, log string, last int64) {
	t.Helper()
	d = sim.New(0, 0)
	s := open1(t, d.FS())
	for i := range n {
		list, err := d.FS().List("meta")
		ok(t, err)
		for _, name := range list {
			if strings.HasSuffix(name, ".log") {
				log = "meta/" + name
			}
		}
		st, err := d.FS().Stat(log)
		ok(t, err)
		last = st.Size()
		ok(t, s.Apply(put(fmt.Sprint("k", i), strings.Repeat("v", 100))))
		ok(t, s.Sync())
	}
	return d.Clone(), log, last
}

// TestLogDamage flips each byte of a log: what was synced is not forgotten without a
// word, but for the last batch, behind which nothing says that it was.
func TestLogDamage(t *testing.T) {
	const n = 6
	d, log, last := crashed(t, n)
	for off := int64(0); off < last; off++ {
		damaged := d.Clone()
		ok(t, damaged.Corrupt(log, off, 1<<(off%8)))
		s, err := Open("meta", Options{FS: damaged.FS(), CacheSize: 1 << 20, MemTableSize: smallTable})
		if err == nil {
			ok(t, s.Close())
		}
		if !errors.Is(err, ErrDamaged) || !errors.Is(err, syscall.EUCLEAN) {
			t.Fatalf("byte %d of %d: %v", off, last, err)
		}
	}
	s, err := Open("meta", Options{FS: d.FS()})
	ok(t, err)
	defer s.Close()
	if v := get(t, s, fmt.Sprint("k", n-1)); len(v) != 100 {
		t.Errorf("without damage: %q", v)
	}
}

// TestLogEmptied: a store that was closed has nothing in its log.
func TestLogEmptied(t *testing.T) {
	d := sim.New(0, 0)
	s := open1(t, d.FS())
	ok(t, s.Apply(put("a", "1")))
	ok(t, s.Close())
	list, err := d.FS().List("meta")
	ok(t, err)
	for _, name := range list {
		if strings.HasSuffix(name, ".log") {
			ok(t, d.FS().Remove("meta/"+name))
			f, err := d.FS().Create("meta/"+name, "")
			ok(t, err)
			ok(t, f.Close())
		}
	}
	s, err = Open("meta", Options{FS: d.FS()})
	ok(t, err)
	defer s.Close()
	if a := get(t, s, "a"); a != "1" {
		t.Errorf("a=%s", a)
	}
}
