package volume

import (
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast/extent"

	"pgregory.net/rapid"
)

// TestFreeMap holds the allocator against a bitmap.
func TestFreeMap(t *testing.T) {
	const bs, blocks = extent.BlockSize, 4096
	rapid.Check(t, func(t *rapid.T) {
		f := newFreeMap()
		var free [blocks]bool
		var taken []run
		f.give(run{0, blocks * bs})
		for i := range free {
			free[i] = true
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				total, runs := int64(0), 0
				for i, b := range free {
					if b {
						total += bs
						if i == 0 || !free[i-1] {
							runs++
						}
					}
				}
				if f.bytes() != total || f.bySize.Len() != runs || f.byAddr.m.Len() != runs {
					t.Fatalf("%d bytes in %d/%d runs, want %d in %d", f.bytes(), f.bySize.Len(), f.byAddr.m.Len(), total, runs)
				}
			},
			"take": func(t *rapid.T) {
				want := rapid.Int64Range(1, 1500).Draw(t, "want") * bs
				goal := rapid.Int64Range(0, blocks).Draw(t, "goal") * bs
				longest, fits := int64(0), false
				for i, n := 0, int64(0); i < blocks; i++ {
					if n += bs; !free[i] {
						n = 0
					}
					longest = max(longest, n)
				}
				for at := int64(0); at+want <= blocks*bs; at += hugeBlock {
					ok := true
					for b := at / bs; b < (at+want)/bs; b++ {
						ok = ok && free[b]
					}
					fits = fits || ok
				}
				r, ok := f.take(want, goal)
				if ok != (longest > 0) {
					t.Fatalf("take: %v, longest free run %d", ok, longest)
				}
				if !ok {
					return
				}
				atGoal := goal > 0 && r.off == goal
				if r.len > want || r.len < min(want, longest) && !(atGoal && r.len >= goalMin) {
					t.Fatalf("took %+v of %d, longest %d", r, want, longest)
				}
				if goal > 0 && goal < blocks*bs && free[goal/bs] && !atGoal {
					n := int64(0)
					for b := goal / bs; b < blocks && free[b]; b++ {
						n += bs
					}
					if n >= min(want, goalMin) {
						t.Fatalf("took %+v, not from %d on", r, goal)
					}
				}
				if want >= hugeBlock+hugeBlock && fits && !atGoal && longest >= want+hugeBlock && r.off%hugeBlock != 0 {
					t.Fatalf("took %+v, not aligned", r)
				}
				for b := r.off / bs; b < (r.off+r.len)/bs; b++ {
					if !free[b] {
						t.Fatalf("took %+v, block %d is not free", r, b)
					}
					free[b] = false
				}
				taken = append(taken, r)
			},
			"give": func(t *rapid.T) {
				if len(taken) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(taken)-1).Draw(t, "which")
				r := taken[i]
				// Only a part of it, to make holes.
				n := rapid.Int64Range(1, r.len/bs).Draw(t, "n") * bs
				part := run{r.off, n}
				if n == r.len {
					taken = append(taken[:i], taken[i+1:]...)
				} else {
					taken[i] = run{r.off + n, r.len - n}
				}
				f.give(part)
				for b := part.off / bs; b < (part.off+part.len)/bs; b++ {
					free[b] = true
				}
			},
		})
	})
}

// TestHoldTable holds the accounts of holds against an array.
func TestHoldTable(t *testing.T) {
	const size = 64
	type held struct {
		r   extent.Range
		uid uint32
	}
	rapid.Check(t, func(t *rapid.T) {
		var h holdTable
		var uids [size][]uint32
		var all []held
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				var got [size][]uint32
				h.in(extent.Range{Off: 0, End: size}, func(r extent.Range, uids []uint32) {
					for i := r.Off; i < r.End; i++ {
						got[i] = append(got[i], uids...)
					}
				})
				for i := range uids {
					if !slices.Equal(got[i], uids[i]) {
						t.Fatalf("%d: %v, want %v", i, got[i], uids[i])
					}
				}
			},
			"add": func(t *rapid.T) {
				off := rapid.Int64Range(0, size-1).Draw(t, "off")
				r := extent.Range{Off: off, End: rapid.Int64Range(off+1, size).Draw(t, "end")}
				uid := rapid.Uint32Range(0, 3).Draw(t, "uid")
				h.add(r, uid)
				all = append(all, held{r, uid})
				for i := r.Off; i < r.End; i++ {
					uids[i] = append(uids[i], uid)
				}
			},
			"sub": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip()
				}
				k := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				g := all[k]
				all = slices.Delete(all, k, k+1)
				h.sub(g.r, g.uid)
				for i := g.r.Off; i < g.r.End; i++ {
					first := slices.Index(uids[i], g.uid)
					uids[i] = slices.Delete(uids[i], first, first+1)
				}
			},
		})
	})
}

// BenchmarkFreeMap takes and gives back a few blocks among many free runs.
func BenchmarkFreeMap(b *testing.B) {
	for _, runs := range []int64{1, 1_000, 100_000, 1_000_000} {
		b.Run(byCount(runs), func(b *testing.B) {
			f := newFreeMap()
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range runs {
				f.give(run{i * 64 * extent.BlockSize, (1 + rng.Int64N(32)) * extent.BlockSize})
			}
			b.ReportAllocs()
			for b.Loop() {
				r, ok := f.take((1+rng.Int64N(8))*extent.BlockSize, rng.Int64N(runs)*64*extent.BlockSize)
				if !ok {
					b.Fatal("full")
				}
				f.give(r)
			}
		})
	}
}
