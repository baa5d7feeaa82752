package volume

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/store"
)

// raw returns all records of the store as they lie there, but for the store's own.
func (r *rig) raw() map[string][]byte {
	r.t.Helper()
	all := make(map[string][]byte)
	must(r.t, r.st.Scan([]byte{1}, nil, func(k, v []byte) (bool, error) {
		all[string(k)] = bytes.Clone(v)
		return true, nil
	}))
	return all
}

// putRaw writes a record past the seal.
func (r *rig) putRaw(k, v []byte) {
	r.t.Helper()
	b := store.Batch{Term: r.v.term}
	b.Put(k, v)
	must(r.t, r.st.Apply(&b))
}

// found reports whether Check finds anything wrong. That there is no superblock to
// go by is also an answer.
func (r *rig) found() bool {
	r.t.Helper()
	sum, err := Check(context.Background(), r.dev, r.st, func(Problem) {})
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrForeign) {
		r.t.Fatal(err)
	}
	return err != nil || sum.Problems > 0
}

// TestEveryDamagedByteIsFound flips each byte of each record, cuts each record
// short, and puts it under the key of another.
func TestEveryDamagedByteIsFound(t *testing.T) {
	p := newPlant(t)
	all := p.raw()
	if len(all) < 12 {
		t.Fatalf("only %d records", len(all))
	}
	for k, v := range all {
		for i := range v {
			bad := bytes.Clone(v)
			bad[i] ^= 0x10
			p.putRaw([]byte(k), bad)
			if !p.found() {
				t.Errorf("record %q: byte %d of %d was altered, check is clean", k, i, len(v))
			}
		}
		for _, n := range []int{0, 3, len(v) - 1} {
			p.putRaw([]byte(k), v[:n])
			if !p.found() {
				t.Errorf("record %q: cut to %d of %d bytes, check is clean", k, n, len(v))
			}
		}
		for other, w := range all {
			if other == k || other[0] != k[0] {
				continue
			}
			p.putRaw([]byte(k), w)
			if _, err := p.v.st.Get([]byte(k)); k[0] != prefixSuper && !errors.Is(err, ErrCorrupt) {
				t.Errorf("record %q holds what belongs to %q: %v", k, other, err)
			}
		}
		p.putRaw([]byte(k), v)
	}
	p.check()
}

// TestDamagedRecordsAreErrors reads through damage: EUCLEAN, and nothing else.
func TestDamagedRecordsAreErrors(t *testing.T) {
	p := newPlant(t)
	e := p.ext[0]
	for _, c := range []struct {
		name string
		key  []byte
		use  func() error
	}{
		{"inode", inodeKey(p.g), func() error { _, err := p.v.Load(p.g); return err }},
		{"extent", extentKey(p.f, e.Range().End), func() error { _, err := p.load(p.f).ReadAt(make([]byte, 10), 0); return err }},
		{"entry", entryKey(p.d, "g"), func() error { _, err := p.v.LookupEntry(p.d, "g"); return err }},
		{"cookie", cookieKey(p.d, p.cookie(p.d, "g")), func() error { _, err := p.v.DirEmpty(p.d); return err }},
		{"owner", ownerKey(e.Addr, e.Len, p.f, e.Range().End), func() error {
			_, err := Open(context.Background(), p.dev, p.st, Options{})
			return err // from here on p.v is fenced
		}},
	} {
		v, err := p.st.Get(c.key)
		must(t, err)
		bad := bytes.Clone(v)
		bad[len(bad)/2] ^= 1
		p.putRaw(c.key, bad)
		if err := c.use(); !errors.Is(err, syscall.EUCLEAN) || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.name != "owner" {
			p.putRaw(c.key, v)
		}
	}
}

func (p *plant) cookie(dir extent.Ino, name string) uint64 {
	p.t.Helper()
	e, err := p.v.LookupEntry(dir, name)
	must(p.t, err)
	return e.Cookie
}
