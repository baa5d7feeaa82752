package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/sim"
)

// atRest returns a disk with a store of n batches in several tables, its manifest, and its log.
func atRest(t *testing.T, n int) (d *sim.Disk, manifest, log string) {
	t.Helper()
	d = sim.New(0, 0)
	s := open1(t, d.FS())
	for i := range n {
		ok(t, s.Apply(put(fmt.Sprint("k", i), strings.Repeat("v", smallTable/8))))
	}
	ok(t, s.Close())
	list, err := d.FS().List("meta")
	ok(t, err)
	for _, name := range list {
		switch {
		case strings.HasPrefix(name, "MANIFEST"):
			manifest = "meta/" + name
		case strings.HasSuffix(name, ".log"):
			log = "meta/" + name
		}
	}
	return d, manifest, log
}

// TestManifestDamage flips each byte of a manifest: the store is refused, or all is there.
func TestManifestDamage(t *testing.T) {
	const n = 40
	d, manifest, _ := atRest(t, n)
	st, err := d.FS().Stat(manifest)
	ok(t, err)
	found := 0
	for off := range st.Size() {
		damaged := d.Clone()
		ok(t, damaged.Corrupt(manifest, off, 1<<(off%8)))
		s, err := Open("meta", Options{FS: damaged.FS(), CacheSize: 1 << 20, MemTableSize: smallTable})
		if err != nil {
			found++
			continue
		}
		for i := range n {
			if v := get(t, s, fmt.Sprint("k", i)); len(v) != smallTable/8 {
				t.Fatalf("byte %d of %d: k%d is %.10q", off, st.Size(), i, v)
			}
		}
		ok(t, s.Close())
	}
	if found == 0 {
		t.Error("no flip was noticed")
	}
}

// TestLogGone: a store is not opened without the log that it needs.
func TestLogGone(t *testing.T) {
	d, _, log := atRest(t, 10)
	ok(t, d.FS().Remove(log))
	s, err := Open("meta", Options{FS: d.FS()})
	if err == nil {
		ok(t, s.Close())
	}
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("without %s: %v", log, err)
	}
}
