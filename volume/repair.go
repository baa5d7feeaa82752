package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"
)

// Repair is one correction that RepairAll has made.
type Repair struct {
	Kind   ProblemKind `json:"kind"`
	Ino    extent.Ino  `json:"ino,omitempty"` // 0 if it is not about one inode
	Detail string      `json:"repair"`
}

// String is the repair for people.
func (r Repair) String() string { return Problem(r).String() }

// RepairAll corrects what Check finds, where that loses nothing that anybody could
// still use, and reports each correction. What can be told from other records is
// written anew, what leads nowhere is removed, and what has no name gets one in
// /lost+found. A record that is damaged is left, unless others say all that it did.
//
// It needs a volume that nobody has open and that Verify accepts. Wherever it is cut
// off, a second call does the rest; where nothing is wrong it reports nothing.
func RepairAll(ctx context.Context, dev device.Device, st store.Store, report func(Repair)) error {
	v := &Volume{dev: dev, st: sealed(st), log: slog.New(slog.DiscardHandler)}
	if err := v.claim(Options{}); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	r := &repairer{ctx: ctx, v: v, b: v.batch(), report: report, now: time.Now().UnixNano()}
	// Each pass takes for granted what those before it have put right.
	for _, pass := range []func() error{
		r.counters, v.openCounters, r.orphans, r.intents, r.lostInodes, r.root, r.entries, r.cookies,
		r.manyNames, r.loops, r.orphans, r.nameless, r.strayXattrs, r.exposures, r.attributes, r.owners, r.strayOwners, r.held,
	} {
		if err := pass(); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
		if err := r.apply(); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	return v.syncStore()
}

type repairer struct {
	ctx    context.Context
	v      *Volume
	b      *batch
	report func(Repair)
	now    int64

	made   []Repair                   // by what is in b
	inodes map[extent.Ino]*foundInode // of the last survey
	lost   extent.Ino                 // /lost+found, once it was needed
}

// opsOfFix bounds the operations of one fix.
const opsOfFix = 8

// fix makes a correction: whole, and after all that came before it.
func (r *repairer) fix(k ProblemKind, ino extent.Ino, ops func(b batcher), format string, args ...any) error {
	if r.b.Ops()+opsOfFix > store.MaxOps || r.b.b.Bytes() > store.MaxBytes/2 {
		if err := r.apply(); err != nil {
			return err
		}
	}
	ops(r.b)
	r.made = append(r.made, Repair{k, ino, fmt.Sprintf(format, args...)})
	return nil
}

func (r *repairer) apply() error {
	if r.b.Ops() == 0 {
		return nil
	}
	if _, err := r.v.apply(r.b); err != nil {
		return err
	}
	for _, m := range r.made {
		r.report(m)
	}
	r.made = r.made[:0]
	r.b.Reset()
	return nil
}

// scan goes through the records with a prefix. ok is false for one whose checksum is
// wrong. fn may keep neither k nor v.
func (r *repairer) scan(prefix byte, fn func(k, v []byte, ok bool) error) error {
	return r.v.st.Reader.Scan([]byte{prefix}, after(prefix), func(k, v []byte) (bool, error) {
		if err := r.ctx.Err(); err != nil {
			return false, err
		}
		v, err := unseal(k, v)
		err = fn(k, v, err == nil)
		return err == nil, err
	})
}

// get returns a record: there tells whether there is one, ok whether it is sound.
func (r *repairer) get(k []byte) (v []byte, there, ok bool, err error) {
	v, err = r.v.st.Get(k)
	switch {
	case err == nil:
		return v, true, true, nil
	case errors.Is(err, store.ErrNotFound):
		return nil, false, false, nil
	case errors.Is(err, ErrCorrupt):
		return nil, true, false, nil
	}
	return nil, false, false, err
}

// counters raises those that would give out a number in use.
func (r *repairer) counters() error {
	maxIno, maxCookie, err := r.used()
	if err != nil {
		return err
	}
	maxSegment, err := r.usedSegment()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name        string
		first, next uint64
	}{
		{"ino", uint64(extent.RootIno) + 1, maxIno + 1},
		{"cookie", firstCookie, maxCookie + 1},
		{"segment", uint64(extent.Device) + 1, maxSegment + 1},
	} {
		v, there, ok, err := r.get(counterKey(c.name))
		if err != nil {
			return err
		}
		has, derr := decodeNumber(v)
		if !there {
			has, derr, ok = c.first, nil, true
		}
		damaged := !ok || derr != nil
		if !damaged && has >= c.next {
			continue
		}
		if damaged && c.name == "segment" {
			// Few records have a segment. What former servers gave out was far below this.
			c.next = max(c.next, r.v.term<<32)
		}
		c.next = max(c.first, c.next)
		err = r.fix(BadCounter, 0, func(b batcher) { b.Put(counterKey(c.name), encodeNumber(c.next)) },
			"counter %s gives %d next", c.name, c.next)
		if err != nil {
			return err
		}
	}
	return nil
}

// used returns the highest numbers that any record names, damaged or not.
func (r *repairer) used() (ino, cookie uint64, err error) {
	const sane = 1 << 62 // what is above is no number that was given out
	note := func(m *uint64, n uint64) {
		if n < sane {
			*m = max(*m, n)
		}
	}
	for _, prefix := range []byte{prefixInode, prefixEntry, prefixCookie, prefixExtent, prefixXattr, prefixOrphan, prefixIntent} {
		err := r.scan(prefix, func(k, v []byte, ok bool) error {
			if len(k) < 9 {
				return nil
			}
			n, _ := numbers(k[:9], 1)
			note(&ino, n[0])
			if prefix == prefixCookie && len(k) == 17 {
				n, _ := numbers(k, 2)
				note(&cookie, n[1])
			}
			if e, err := decodeEntry(v); prefix == prefixEntry && ok && err == nil {
				note(&ino, uint64(e.Ino))
				note(&cookie, e.Cookie)
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
	}
	return ino, cookie, nil
}
