package crashtest

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/extent"
	"holdfast/internal/sim"
)

// life is a file model to which steps are added, one position of the log each.
type life struct {
	fileModel
	pos int
}

func newLife() *life { return &life{fileModel: fileModel{id: 1, memo: map[int][]byte{0: nil}}} }

func (l *life) add(c change) *life {
	c.span = span{l.pos, l.pos + 1}
	l.pos++
	if c.gen == 0 {
		c.gen = uint32(l.pos)
	}
	l.size = c.size
	l.changes = append(l.changes, c)
	return l
}

func (l *life) write(off, n int64) *life {
	return l.add(change{what: wrote, r: within(off, n), size: max(l.size, off+n)})
}

func (l *life) sync() *life { return l.add(change{what: synced, size: l.size}) }

// TestModel: what a file may be after a crash, and what not.
func TestModel(t *testing.T) {
	halves := func(b []byte) []byte { return append(bytes.Clone(b[4*block:]), b[:2*block]...) }
	old := stamped(1, 1, within(0, 8*block))
	base := func() *life { return newLife().write(0, 8*block).sync() }
	cut := func(size int64) *life {
		l := base()
		return l.add(change{what: zeroed, r: extent.Range{Off: size, End: extent.Inf}, once: extent.Range{Off: size, End: extent.Inf}, size: size})
	}
	punched := func() *life {
		l := base()
		return l.add(change{what: zeroed, r: within(0, 8*block), once: within(0, 8*block), size: l.size})
	}
	mix := func(b []byte, off int64, p []byte) []byte {
		b = bytes.Clone(b)
		copy(b[off:], p)
		return b
	}
	zeros := make([]byte, 8*block)
	for name, c := range map[string]struct {
		l      *life
		got    []byte
		blocks int64
		want   error
	}{
		"what was synced":                 {base(), old, 0, nil},
		"a byte lost":                     {base(), mix(old, 100, zeros[:1]), 0, ErrLost},
		"a byte of another file":          {base(), mix(old, 4096, stamped(2, 1, within(4096, 512))), 0, ErrForeign},
		"a byte of another place":         {base(), mix(old, 4096, stamped(1, 1, within(0, 512))), 0, ErrForeign},
		"a byte of nobody":                {base(), mix(old, 4096, bytes.Repeat([]byte{sim.Stale}, 512)), 0, ErrForeign},
		"too short":                       {base(), old[:block], 0, ErrLost},
		"a sector of an overwrite":        {base().write(0, block), mix(old, 512, stamped(1, 3, within(512, 512))), 0, nil},
		"not yet begun":                   {base(), mix(old, 512, stamped(1, 3, within(512, 512))), 0, ErrLost},
		"an overwrite that was synced":    {base().write(0, block).sync(), old, 0, ErrLost},
		"cut, not yet":                    {cut(block), old, 0, nil},
		"cut":                             {cut(block), old[:block], block, nil},
		"cut, but for its blocks":         {cut(block), old[:block], 2 * block, ErrHalf},
		"cut and grown, before the cut":   {cut(block).write(block, 10), old, 0, nil},
		"punched":                         {punched(), zeros, 0, nil},
		"half punched":                    {punched(), mix(old, 0, zeros[:block]), 0, ErrHalf},
		"an earlier life":                 {punched().sync(), mix(zeros, block, old[block:2*block]), 0, ErrForeign},
		"edited, before":                  {base().add(change{what: edited, edit: halves, size: 6 * block}), old, 0, nil},
		"edited, after":                   {base().add(change{what: edited, edit: halves, size: 6 * block}), halves(old), 0, nil},
		"half edited":                     {base().add(change{what: edited, edit: halves, size: 6 * block}), mix(halves(old), 0, old[:block])[:6*block], 0, ErrLost},
		"edited and synced, before":       {base().add(change{what: edited, edit: halves, size: 6 * block}).sync(), old, 0, ErrLost},
		"written to in place, not edited": {base().add(change{what: edited, edit: halves, size: 6 * block}).write(0, 100), mix(old, 0, stamped(1, 4, within(0, 100))), 0, nil},
		"zeroed at an edge, not edited": {base().add(change{what: edited, edit: halves, size: 6 * block}).
			add(change{what: zeroed, r: within(100, 3*block), once: within(block, 2*block), size: 6 * block}), mix(old, 100, zeros[:block-100]), 0, nil},
		"zeroed, not edited": {base().add(change{what: edited, edit: halves, size: 6 * block}).
			add(change{what: zeroed, r: within(100, 3*block), once: within(block, 2*block), size: 6 * block}), mix(old, block, zeros[:block]), 0, ErrLost},
		"edited, then written to": {base().add(change{what: edited, edit: halves, size: 6 * block}).write(0, 100), mix(halves(old), 0, stamped(1, 4, within(0, 100))), 0, nil},
	} {
		err := c.l.verify(c.got, c.blocks, c.l.pos)
		if !errors.Is(err, c.want) || err != nil && c.want == nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestNames: the names are those of one moment, not before the last that was synced.
func TestNames(t *testing.T) {
	a, b, c := tree{}, tree{"/f": {ino: 2}}, tree{"/g": {ino: 2}}
	n := names{moments: []moment{{}, {span{0, 1}, b.String()}, {span{5, 6}, c.String()}}, syncs: []nameSync{{span{2, 3}, 1}}}
	for _, k := range []struct {
		got  tree
		cut  int
		good bool
	}{{a, 0, true}, {b, 0, false}, {a, 2, true}, {b, 2, true}, {a, 3, false}, {b, 3, true}, {c, 5, false}, {c, 6, true}, {b, 6, true}} {
		if err := n.verify(k.got, k.cut); (err == nil) != k.good {
			t.Errorf("%v at %d: %v", k.got, k.cut, err)
		}
	}
}

func TestCrashText(t *testing.T) {
	for _, c := range []Crash{{Cut: 7, Left: sim.All, Again: -1}, {Cut: 1, Left: sim.Seeded(3), Again: 4, LeftAgain: sim.DeviceOnly}} {
		if got, err := ParseCrash(c.String()); err != nil || got != c {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCrash("cut=1 left=something"); err == nil {
		t.Error("nonsense was understood")
	}
}
