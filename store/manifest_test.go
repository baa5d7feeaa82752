package store

import (
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/sim"
)

// killed returns a disk with a store of n batches in tables, closed and then opened by one that was killed; and its manifest.
func killed(t *testing.T, n int) (d *sim.Disk, manifest string) {
	t.Helper()
	live := sim.New(0, 0)
	s := open1(t, live.FS())
	for i := range n {
		ok(t, s.Apply(put(fmt.Sprint("k", i), strings.Repeat("v", smallTable/8))))
	}
	ok(t, s.Close())
	s, err := Open("meta", Options{FS: live.FS(), CacheSize: 1 << 20, MemTableSize: smallTable})
	ok(t, err)
	s.db.TestOnlyWaitForCleaning()
	d = live.Clone()
	ok(t, s.Close())
	list, err := d.FS().List("meta")
	ok(t, err)
	for _, name := range list {
		if strings.HasPrefix(name, "MANIFEST") {
			manifest = "meta/" + name
		}
	}
	return d, manifest
}

// TestManifestDamage flips each byte of a manifest: the store is refused, or all is there.
func TestManifestDamage(t *testing.T) {
	for name, n := range map[string]int{"last edit a compaction": 40, "last edit a flush": 1} {
		t.Run(name, func(t *testing.T) {
			d, manifest := killed(t, n)
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
		})
	}
}
