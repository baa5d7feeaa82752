package fs

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"holdfast/extent"
	"holdfast/layout"
)

// TestWindowModel does what mount and holders can do to one file, in any order, and
// holds what everybody sees against a plain array of bytes.
func TestWindowModel(t *testing.T) {
	const limit = 24 * block
	rapid.Check(t, func(t *rapid.T) {
		r := makeRig(t, tempDir(t))
		t.Cleanup(r.finish)
		data := []byte("begin")
		blocks := ranges{rng(0, block)} // what is allocated; a reader's window allocates nothing
		ino := r.file("f", data)
		twin, copied := r.file("twin", nil), []byte{}
		type held struct {
			h  *holder
			id layout.LeaseID
			r  extent.Range
			v  *view
			w  bool
			// gone is what its own session has freed under it: no window is there any more.
			gone ranges
		}
		var leases []*held
		has := func(x *held, off int64) bool { return len(x.gone.and(ranges{rng(off, off+1)})) == 0 }
		alone := func(x *held, r extent.Range) bool {
			for _, o := range leases {
				if o != x && o.r.Overlaps(r.RoundOut()) {
					return false
				}
			}
			return true
		}
		some := func(t *rapid.T) (*held, int) {
			if len(leases) == 0 {
				t.Skip("no lease")
			}
			k := rapid.IntRange(0, len(leases)-1).Draw(t, "lease")
			return leases[k], k
		}
		write := func(off int64, p []byte) {
			if end := int(off) + len(p); end > len(data) {
				data = append(data, make([]byte, end-len(data))...)
			}
			copy(data[off:], p)
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				p := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, rapid.IntRange(1, 3*block).Draw(t, "length"))
				off := rapid.Int64Range(0, int64(limit-len(p))).Draw(t, "offset")
				shared, err := mustGet(r, ino).n.Shared(rng(off, off+int64(len(p))))
				r.must(err)
				c := Caller{}
				if shared && len(leases) > 0 { // by a holder, whose windows stay
					x, _ := some(t)
					if !alone(x, rng(off, off+int64(len(p)))) {
						t.Skip("it would have to wait")
					}
					c = x.h.caller()
				}
				_, err = r.Write(ctx, c, ino, p, off, false, false)
				r.must(err)
				write(off, p)
				blocks = blocks.add(rng(off, off+int64(len(p))).RoundOut())
			},
			"allocate": func(t *rapid.T) {
				off := rapid.Int64Range(0, limit-1).Draw(t, "offset")
				n := rapid.Int64Range(1, min(3*block, limit-off)).Draw(t, "length")
				r.must(r.Fallocate(ctx, Caller{}, ino, unix.FALLOC_FL_KEEP_SIZE, off, n))
				blocks = blocks.add(rng(off, off+n).RoundOut())
			},
			"clone": func(t *rapid.T) {
				off := rapid.Int64Range(0, limit-1).Draw(t, "offset")
				at := off
				if rapid.Bool().Draw(t, "whole blocks") {
					off, at = off&^(block-1), rapid.Int64Range(0, limit/block-1).Draw(t, "at")*block
				}
				n := rapid.Int64Range(1, limit-at).Draw(t, "length")
				k, err := r.CopyRange(ctx, Caller{}, ino, off, twin, at, n)
				r.must(err)
				if want := max(0, min(n, int64(len(data))-off)); k != want {
					t.Fatalf("copied %d of %d bytes", k, want)
				}
				if k > 0 {
					copied = append(copied, make([]byte, max(0, at+k-int64(len(copied))))...)
					copy(copied[at:], data[off:off+k])
				}
			},
			"back": func(t *rapid.T) {
				if len(leases) > 0 {
					t.Skip("it would have to wait")
				}
				k, err := r.CopyRange(ctx, Caller{}, twin, 0, ino, 0, limit)
				r.must(err)
				if k != int64(len(copied)) {
					t.Fatalf("copied %d of %d bytes", k, len(copied))
				}
				over := rng(0, k).RoundOut()
				took := ranges(r.allocated(twin)).and(ranges{over})
				if k < int64(len(data)) && k%block > 0 { // the tail is copied
					took = took.add(rng(k&^(block-1), over.End))
				}
				if k > 0 {
					blocks = blocks.minus(ranges{over}).or(took)
				}
				write(0, copied)
			},
			"zero": func(t *rapid.T) { // by a holder
				x, _ := some(t)
				off := rapid.Int64Range(0, limit-1).Draw(t, "offset")
				p := rng(off, off+rapid.Int64Range(1, limit-off).Draw(t, "length"))
				if !alone(x, p) {
					t.Skip("it would have to wait")
				}
				r.must(r.Reshape(ctx, x.h.caller(), ino, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, p))
				if off < int64(len(data)) {
					clear(data[off:min(p.End, int64(len(data)))])
				}
				blocks = blocks.add(p.RoundOut())
			},
			"shift": func(t *rapid.T) { // by a holder
				x, _ := some(t)
				off := rapid.Int64Range(0, limit/block-1).Draw(t, "offset") * block
				end := off + rapid.Int64Range(1, 4).Draw(t, "blocks")*block
				if !alone(x, rng(off, inf)) {
					t.Skip("it would have to wait")
				}
				insert := rapid.Bool().Draw(t, "insert")
				switch {
				case insert && off < int64(len(data)) && int64(len(data))+end-off <= limit:
					r.must(r.Reshape(ctx, x.h.caller(), ino, unix.FALLOC_FL_INSERT_RANGE, rng(off, end)))
					data = slices.Insert(data, int(off), make([]byte, end-off)...)
					blocks = shifted(blocks, off, off, end-off)
				case !insert && end < int64(len(data)):
					r.must(r.Reshape(ctx, x.h.caller(), ino, unix.FALLOC_FL_COLLAPSE_RANGE, rng(off, end)))
					data = slices.Delete(data, int(off), int(end))
					blocks = shifted(blocks, off, end, off-end)
				default:
					t.Skip("not in the file")
				}
				x.gone = x.gone.add(rng(off, inf))
			},
			"map": func(t *rapid.T) {
				off := rapid.Int64Range(0, limit/block-1).Draw(t, "offset") * block
				end := off + rapid.Int64Range(1, (limit-off)/block).Draw(t, "length")*block
				x := &held{h: r.session(int32(2000 + len(leases))), r: rng(off, end)}
				access := layout.Read
				if x.w = rapid.IntRange(0, 2).Draw(t, "write") > 0; x.w {
					access = layout.Write
				}
				x.id = x.h.lease(ino, x.r, access)
				x.v = x.h.mmap(x.id, ino, x.r, x.w)
				leases = append(leases, x)
				if x.w {
					blocks = blocks.add(x.r)
				}
			},
			"store": func(t *rapid.T) {
				x, _ := some(t)
				if x.r.Off >= int64(len(data)) || x.r.Empty() {
					t.Skip("behind the end")
				}
				off := rapid.Int64Range(x.r.Off, min(x.r.End, int64(len(data)))-1).Draw(t, "offset")
				if !x.w || !has(x, off) {
					t.Skip("not writable")
				}
				x.v.at(off)[0] = rapid.Byte().Draw(t, "byte")
				data[off] = x.v.at(off)[0]
			},
			"punch": func(t *rapid.T) { // by a holder
				x, _ := some(t)
				off := rapid.Int64Range(0, limit-1).Draw(t, "offset")
				p := rng(off, off+rapid.Int64Range(1, limit-off).Draw(t, "length"))
				if !alone(x, p) {
					t.Skip("it would have to wait")
				}
				r.must(r.Reshape(ctx, x.h.caller(), ino, punchHole, p))
				if off < int64(len(data)) {
					clear(data[off:min(p.End, int64(len(data)))])
				}
				if len(blocks.and(ranges{p.RoundOut()})) > 0 { // else nothing changes
					x.gone = x.gone.add(p.RoundIn())
				}
				blocks = blocks.minus(ranges(nil).add(p.RoundIn()))
			},
			"cut": func(t *rapid.T) { // by a holder
				x, _ := some(t)
				size := rapid.Int64Range(0, limit).Draw(t, "size")
				if size >= int64(len(data)) || !alone(x, rng(size, inf)) {
					t.Skip("it would have to wait")
				}
				r.must(r.Truncate(ctx, x.h.caller(), ino, size))
				data = data[:size]
				x.gone = x.gone.add(rng(size, inf).RoundIn())
				blocks = blocks.minus(ranges(nil).add(rng(size, inf).RoundIn()))
			},
			"return": func(t *rapid.T) {
				x, _ := some(t)
				if x.r.Len() < 2*block {
					t.Skip("too small")
				}
				cut := x.r.Off + rapid.Int64Range(1, x.r.Len()/block-1).Draw(t, "blocks")*block
				r.must(r.arb.Return(ctx, x.h.id, x.id, rng(x.r.Off, cut)))
				x.r.Off = cut
			},
			"release": func(t *rapid.T) {
				x, k := some(t)
				leases = append(leases[:k], leases[k+1:]...)
				x.h.release(x.id)
				r.arb.EndSession(x.h.id)
				x.v.close()
			},
			"commit": func(t *rapid.T) {
				x, _ := some(t)
				if !x.w {
					t.Skip("not writable")
				}
				size := rapid.Int64Range(0, x.r.End).Draw(t, "size")
				r.must(r.Commit(ctx, x.id, ino, x.r, size))
				write(size, nil)
			},
			"fsync": func(t *rapid.T) { r.must(r.Fsync(ctx, ino, false)) },
			"flush": func(t *rapid.T) { r.flushed() },
			"truncate": func(t *rapid.T) {
				size := rapid.Int64Range(0, limit).Draw(t, "size")
				if size < int64(len(data)) && len(leases) > 0 {
					t.Skip("it would have to wait")
				}
				r.must(r.Truncate(ctx, Caller{}, ino, size))
				if size < int64(len(data)) {
					blocks = blocks.minus(ranges(nil).add(rng(size, inf).RoundIn()))
				}
				write(size, nil)
				data = data[:size]
			},
			"reopen": func(t *rapid.T) {
				if len(leases) > 0 {
					t.Skip("leases are out")
				}
				r.reopen()
			},
			"": func(t *rapid.T) {
				if got := r.content(ino); !bytes.Equal(got, data) {
					t.Fatalf("the mount sees %d bytes, the model has %d; they differ at %d", len(got), len(data), firstDiff(got, data))
				}
				if got := r.allocated(ino); !slices.Equal(got, blocks) {
					t.Fatalf("allocated is %v, the model has %v", got, blocks)
				}
				if got := r.content(twin); !bytes.Equal(got, copied) {
					t.Fatalf("the twin has %d bytes, the model %d; they differ at %d", len(got), len(copied), firstDiff(got, copied))
				}
				for _, x := range leases {
					for off := x.r.Off; off < min(x.r.End, int64(len(data))); off += 512 {
						if !has(x, off) {
							continue
						}
						if got := x.v.at(off)[0]; got != data[off] {
							t.Fatalf("a holder sees %d at %d, the model has %d", got, off, data[off])
						}
					}
				}
			},
		})
		for _, x := range leases {
			x.h.release(x.id)
			x.v.close()
		}
		r.must(r.Fsync(ctx, ino, false))
		if got := r.allocated(ino); !slices.Equal(got, blocks) {
			t.Fatalf("allocated is %v after all are released, the model has %v", got, blocks)
		}
		if got := r.home(ino, len(data)); !bytes.Equal(got, data) {
			t.Fatalf("the device differs at %d after all are released", firstDiff(got, data))
		}
	})
}

// shifted is what becomes of blocks when those from `from` on move by that much, and
// those between off and from go.
func shifted(blocks ranges, off, from, by int64) ranges {
	out := blocks.and(ranges{rng(0, off)})
	for _, b := range blocks.and(ranges{rng(from, inf)}) {
		out = out.add(rng(b.Off+by, b.End+by))
	}
	return out
}
