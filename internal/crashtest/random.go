package crashtest

import (
	"fmt"
	"math/rand/v2"
)

// Random returns a workload of n operations that seed says, on a volume that is
// nearly full at times.
func Random(seed uint64, n int) Workload {
	return Workload{Name: fmt.Sprint("seed=", seed), Size: 700 * kib, Run: func(w *World) {
		r := &random{World: w, rng: rand.New(rand.NewPCG(seed, 3))}
		r.Mkdir("/d0")
		r.Mkdir("/d1")
		for range n {
			r.step()
		}
	}}
}

type random struct {
	*World
	rng  *rand.Rand
	made int
}

// pick returns a path of the given kind, or none.
func (r *random) pick(isFile bool) string {
	var paths []string
	for p, n := range r.tree {
		if _, ok := r.files[n.ino]; ok == isFile {
			paths = append(paths, p)
		}
	}
	if len(paths) == 0 {
		return ""
	}
	// Not by the order of a map: a seed must say it all.
	k, best := r.rng.Uint64(), ""
	for _, p := range paths {
		if best == "" || hash(p, k) < hash(best, k) {
			best = p
		}
	}
	return best
}

func hash(p string, k uint64) uint64 {
	h := k ^ 14695981039346656037
	for i := range len(p) {
		h = (h ^ uint64(p[i])) * 1099511628211
	}
	return h ^ h>>29
}

// fresh returns a name that is not in use.
func (r *random) fresh() string {
	r.made++
	return fmt.Sprintf("/d%d/f%d", r.rng.IntN(2), r.made)
}

const randomMax = 96 * kib // of a file

func (r *random) place() (off, n int64) {
	off, n = r.rng.Int64N(randomMax), 1+r.rng.Int64N(24*kib)
	if r.rng.IntN(2) == 0 {
		off, n = off&^(block-1), (n+block-1)&^(block-1)
	}
	return off, n
}

func (r *random) step() {
	if len(r.files) >= 1<<fileBits-1 || int(r.gen) >= 1<<genBits-2 {
		return
	}
	f := r.pick(true)
	if f == "" || len(r.tree) < 6 && r.rng.IntN(4) == 0 {
		r.Create(r.fresh())
		return
	}
	off, n := r.place()
	switch r.rng.IntN(21) {
	case 0, 1, 2:
		r.Write(f, off, n)
	case 3:
		r.Append(f, min(n, randomMax))
	case 4:
		r.Truncate(f, off)
	case 5:
		r.Punch(f, off, n)
	case 6:
		r.Allocate(f, off, n)
	case 7, 8, 9:
		r.Fsync(f)
	case 10:
		if r.rng.IntN(3) == 0 {
			r.Sync()
		} else {
			r.FsyncDir(fmt.Sprintf("/d%d", r.rng.IntN(2)))
		}
	case 11:
		r.Unlink(f)
	case 12:
		r.Rename(f, r.fresh())
	case 13:
		if g := r.pick(true); r.tree[g].ino != r.tree[f].ino {
			r.Rename(f, g)
		}
	case 14:
		if len(r.tree) < 12 {
			r.Link(f, r.fresh())
		}
	case 15:
		r.fragment(f, off&^(block-1))
	case 16:
		r.clone(f, r.pick(true), off&^(block-1))
	case 17:
		r.shift(f, off&^(block-1), (n+block-1)&^(block-1))
	case 18:
		r.Zero(f, off, n)
	case 19:
		if g := r.pick(true); g != f {
			r.Exchange(f, g)
		}
	case 20:
		if r.rng.IntN(8) == 0 {
			r.Grow(8 * block)
		}
	}
}

// clone shares blocks of a file, with another one or within it.
func (r *random) clone(from, to string, at int64) {
	blocks := min(r.Size(from), randomMax) / block
	if blocks == 0 {
		return
	}
	off := r.rng.Int64N(blocks)
	n := 1 + r.rng.Int64N(blocks-off)
	if r.tree[from].ino == r.tree[to].ino { // not over itself
		n = min(n, max(at/block-off, off-at/block))
	}
	if n > 0 {
		r.Clone(from, off*block, to, at, n*block)
	}
}

// shift takes blocks out of a file, or puts some in.
func (r *random) shift(f string, off, n int64) {
	switch size := r.Size(f); {
	case off+n < size && r.rng.IntN(2) == 0:
		r.Collapse(f, off, n)
	case off < size && size < randomMax:
		r.Insert(f, off, n)
	}
}

// fragment writes a byte into every other block.
func (r *random) fragment(f string, off int64) {
	for i := range r.rng.Int64N(12) {
		r.Write(f, off+2*i*block, 1)
	}
}
