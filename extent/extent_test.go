package extent

import (
	"errors"
	"math"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func TestNewRange(t *testing.T) {
	for _, c := range []struct {
		off, length uint64
		want        Range
		err         error
	}{
		{0, 1, Range{0, 1}, nil},
		{4096, math.MaxUint64, Range{4096, Inf}, nil},
		{0, Inf - 1, Range{0, Inf - 1}, nil},
		{0, 0, Range{}, syscall.EINVAL},
		{1, Inf - 1, Range{}, syscall.EINVAL},
		{Inf, math.MaxUint64, Range{}, syscall.EINVAL},
		{math.MaxUint64, 2, Range{}, syscall.EINVAL},
	} {
		got, err := NewRange(c.off, c.length)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("NewRange(%d, %d) = %v, %v; want %v, %v", c.off, c.length, got, err, c.want, c.err)
		}
	}
}

// TestRangeAlgebra holds the range operations against a set of points.
func TestRangeAlgebra(t *testing.T) {
	gen := rapid.Custom(func(t *rapid.T) Range {
		off := rapid.Int64Range(0, 3*BlockSize).Draw(t, "off")
		if rapid.IntRange(0, 4).Draw(t, "inf") == 0 {
			return Range{off, Inf}
		}
		return Range{off, off + rapid.Int64Range(1, 2*BlockSize).Draw(t, "len")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		p := rapid.Int64Range(0, 6*BlockSize).Draw(t, "point")
		inA, inB := a.ContainsOff(p), b.ContainsOff(p)
		if got := a.Intersect(b).ContainsOff(p); got != (inA && inB) {
			t.Fatalf("%v ∩ %v at %d: %v", a, b, p, got)
		}
		l, r := a.Minus(b)
		if got := l.ContainsOff(p) || r.ContainsOff(p); got != (inA && !inB) {
			t.Fatalf("%v − %v at %d: %v", a, b, p, got)
		}
		if a.Overlaps(b) == a.Intersect(b).Empty() {
			t.Fatalf("%v overlaps %v: %v", a, b, a.Overlaps(b))
		}
		out, in := a.RoundOut(), a.RoundIn()
		if !out.Contains(a) || out.Off%BlockSize != 0 || (out.End != Inf && out.End%BlockSize != 0) {
			t.Fatalf("RoundOut(%v) = %v", a, out)
		}
		if !in.Empty() && (!a.Contains(in) || in.Off%BlockSize != 0) {
			t.Fatalf("RoundIn(%v) = %v", a, in)
		}
	})
}

func TestSlice(t *testing.T) {
	e := Extent{Off: 8192, Len: 16384, Addr: Addr{Device, 1 << 20}, State: Written, Shared: true}
	got := e.Slice(Range{12288, 16384})
	if want := (Extent{Off: 12288, Len: 4096, Addr: Addr{Device, 1<<20 + 4096}, State: Written, Shared: true}); got != want {
		t.Fatalf("Slice = %+v, want %+v", got, want)
	}
}
