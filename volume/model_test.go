package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/internal/sim"

	"pgregory.net/rapid"
)

// A naive model of files: an array of bytes each, and for each byte the set of
// values that a crash may leave, as bits. Bytes are 0..63; stale is none of them.
// blocks are those that the file was given, by number: all others are holes.
type modelFile struct {
	n       *Inode
	name    string
	data    []byte
	allowed []uint64 // never shrinks
	sizes   map[int64]bool
	synced  bool // ever
	windows []modelWindow
	blocks  map[int64]bool
}

// take notes that r got blocks, give that its whole blocks were freed.
func (f *modelFile) take(r extent.Range) {
	for off := extent.RoundDown(r.Off); off < r.End; off += extent.BlockSize {
		f.blocks[off/extent.BlockSize] = true
	}
}

func (f *modelFile) give(r extent.Range) {
	in := r.RoundIn()
	maps.DeleteFunc(f.blocks, func(b int64, _ bool) bool { return in.Contains(blockAt(b)) })
}

func blockAt(b int64) extent.Range {
	return extent.Range{Off: b * extent.BlockSize, End: (b + 1) * extent.BlockSize}
}

// shiftBlocks moves the blocks from off on.
func (f *modelFile) shiftBlocks(off, by int64) {
	next := map[int64]bool{}
	for b := range f.blocks {
		if blockAt(b).Off >= off {
			b += by / extent.BlockSize
		}
		next[b] = true
	}
	f.blocks = next
}

// mapped returns the blocks that the file has, as the maps that show tells of.
func mapped(t fataler, show func(extent.Range, func(extent.Extent) bool) error) map[int64]bool {
	out := map[int64]bool{}
	must(t, show(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
		for b := e.Off / extent.BlockSize; b < (e.Off+e.Len)/extent.BlockSize; b++ {
			out[b] = true
		}
		return true
	}))
	return out
}

type modelWindow struct {
	r   extent.Range
	seg extent.Segment
}

type memSegment []byte

func (s memSegment) ReadAt(p []byte, off int64) (int, error)  { return copy(p, s[off:]), nil }
func (s memSegment) WriteAt(p []byte, off int64) (int, error) { return copy(s[off:], p), nil }

func (f *modelFile) grow(size int64) {
	for int64(len(f.data)) < size {
		f.data = append(f.data, 0)
	}
	for int64(len(f.allowed)) < size {
		f.allowed = append(f.allowed, 1)
	}
	f.sizes[int64(len(f.data))] = true
}

func (f *modelFile) set(off int64, p []byte) {
	f.grow(off + int64(len(p)))
	copy(f.data[off:], p)
	for i := range p {
		f.allowed[off+int64(i)] |= 1 << p[i]
	}
}

func (f *modelFile) zero(r extent.Range) {
	for i := r.Off; i < min(r.End, int64(len(f.allowed))); i++ {
		f.allowed[i] |= 1
		if i < int64(len(f.data)) {
			f.data[i] = 0
		}
	}
}

func (f *modelFile) truncate(size int64) {
	f.zero(extent.Range{Off: size, End: extent.Inf})
	if size < int64(len(f.data)) {
		f.data = f.data[:size]
		f.sizes[size] = true
	}
	f.grow(size)
}

// commit: from now on only what is there now may be there after a crash.
func (f *modelFile) commit() {
	f.synced = true
	f.sizes = map[int64]bool{int64(len(f.data)): true}
	for i := range f.allowed {
		f.allowed[i] = 1
		if i < len(f.data) {
			f.allowed[i] = 1 << f.data[i]
		}
	}
}

// crashed checks what a crash left and makes it the truth.
func (f *modelFile) crashed(t *rapid.T, got []byte) {
	if !f.sizes[int64(len(got))] {
		t.Fatalf("%s: size %d after a crash, allowed %v", f.name, len(got), f.sizes)
	}
	for i, b := range got {
		if b > 63 || f.allowed[i]&(1<<b) == 0 {
			t.Fatalf("%s: byte %d is %#x after a crash, allowed bits %#x, size %d", f.name, i, b, f.allowed[i], len(got))
		}
	}
	f.data = append([]byte(nil), got...)
	f.allowed = f.allowed[:0]
	f.sizes = map[int64]bool{}
	f.grow(int64(len(got)))
	f.commit()
	f.windows, f.blocks = nil, mapped(t, f.n.Extents)
}

const modelMax = 40 * extent.BlockSize

type machine struct {
	*rig
	files []*modelFile
	made  int
}

func (m *machine) pick(t *rapid.T) *modelFile {
	if len(m.files) == 0 {
		t.Skip("no file")
	}
	return m.files[rapid.IntRange(0, len(m.files)-1).Draw(t, "file")]
}

func drawRange(t *rapid.T) extent.Range {
	off := rapid.Int64Range(0, modelMax-1).Draw(t, "off")
	length := rapid.Int64Range(1, 12*extent.BlockSize).Draw(t, "len")
	if rapid.Bool().Draw(t, "aligned") {
		off, length = extent.RoundDown(off), extent.RoundUp(length)
	}
	return extent.Range{Off: off, End: min(off+length, modelMax)}
}

// full reports whether err is ENOSPC, after which nothing has changed.
func full(t *rapid.T, err error) bool {
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v", err)
	}
	return err != nil
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"": m.compare,
		"create": func(t *rapid.T) {
			if len(m.files) > 4 {
				t.Skip()
			}
			m.made++
			f := &modelFile{name: fmt.Sprint("f", m.made), sizes: map[int64]bool{0: true}, blocks: map[int64]bool{}}
			f.n = m.create(f.name)
			m.files = append(m.files, f)
		},
		"write": func(t *rapid.T) {
			f, r := m.pick(t), drawRange(t)
			p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 63).Draw(t, "value"))}, int(r.Len()))
			if f.n.Plan(r) != f.plan(r, m.v.sums != nil) {
				t.Fatalf("plan of %v: %v", r, f.n.Plan(r))
			}
			if f.n.Plan(r) {
				must(t, f.n.Overwrite(p, r.Off))
			} else if full(t, f.n.Write(p, r.Off)) {
				return
			}
			f.set(r.Off, p)
			f.take(r)
		},
		"append": func(t *rapid.T) {
			f := m.pick(t)
			off := int64(len(f.data))
			p := bytes.Repeat([]byte{byte(rapid.IntRange(1, 63).Draw(t, "value"))}, rapid.IntRange(1, 5000).Draw(t, "len"))
			if off+int64(len(p)) > modelMax || full(t, f.n.Write(p, off)) {
				return
			}
			f.set(off, p)
			f.take(extent.Range{Off: off, End: off + int64(len(p))})
		},
		"allocate": func(t *rapid.T) {
			f, r, keep := m.pick(t), drawRange(t), rapid.Bool().Draw(t, "keep")
			if full(t, f.n.Allocate(r, keep)) {
				return
			}
			f.take(r)
			if !keep {
				f.grow(r.End)
			}
		},
		"punch": func(t *rapid.T) {
			f, r := m.pick(t), drawRange(t)
			f.dropWindows(t, m, r)
			if !full(t, f.n.Punch(r)) {
				f.zero(r)
				f.give(r)
			}
		},
		"truncate": func(t *rapid.T) {
			f, size := m.pick(t), rapid.Int64Range(0, modelMax).Draw(t, "size")
			f.dropWindows(t, m, extent.Range{Off: size, End: extent.Inf})
			if full(t, f.n.Truncate(size)) {
				return
			}
			if size < int64(len(f.data)) {
				f.give(extent.Range{Off: extent.RoundUp(size), End: extent.MaxSize})
			}
			f.truncate(size)
		},
		"zero": func(t *rapid.T) {
			f, r, keep := m.pick(t), drawRange(t), rapid.Bool().Draw(t, "keep")
			if full(t, f.n.ZeroRange(r, keep)) {
				return
			}
			if !keep {
				f.grow(r.End)
			}
			f.zero(r)
			f.take(r)
		},
		"collapse": func(t *rapid.T) {
			f, r := m.pick(t), drawRange(t).RoundOut()
			f.dropWindows(t, m, extent.Range{Off: r.Off, End: extent.Inf})
			f.writeBackAll(t, m)
			err := f.n.Collapse(r)
			if r.End >= int64(len(f.data)) {
				if !errors.Is(err, syscall.EINVAL) {
					t.Fatalf("collapse %v of %d: %v", r, len(f.data), err)
				}
				return
			}
			must(t, err)
			f.data = slices.Delete(f.data, int(r.Off), int(r.End))
			f.give(r)
			f.shiftBlocks(r.End, -r.Len())
			f.commit()
		},
		"insert": func(t *rapid.T) {
			f, r := m.pick(t), drawRange(t).RoundOut()
			if int64(len(f.data))+r.Len() > modelMax {
				return
			}
			f.dropWindows(t, m, extent.Range{Off: r.Off, End: extent.Inf})
			f.writeBackAll(t, m)
			err := f.n.Insert(r)
			if r.Off >= int64(len(f.data)) {
				if !errors.Is(err, syscall.EINVAL) {
					t.Fatalf("insert %v into %d: %v", r, len(f.data), err)
				}
				return
			}
			must(t, err)
			f.data = slices.Insert(f.data, int(r.Off), make([]byte, r.Len())...)
			f.shiftBlocks(r.Off, r.Len())
			f.grow(int64(len(f.data)))
			f.commit()
		},
		"clone": func(t *rapid.T) { m.clone(t, m.pick(t), m.pick(t)) },
		"unshare": func(t *rapid.T) {
			f, r := m.pick(t), drawRange(t)
			if full(t, f.n.Unshare(r)) {
				return
			}
			if shared, err := f.n.Shared(r); shared || err != nil {
				t.Fatalf("%v is shared still (%v)", r, err)
			}
		},
		"isolate": func(t *rapid.T) {
			f, r := m.pick(t), drawRange(t).RoundOut()
			for _, w := range f.windows {
				if w.r.Overlaps(r) {
					return
				}
			}
			if rapid.Bool().Draw(t, "allocated") {
				if full(t, f.n.Allocate(r, true)) {
					return
				}
				f.take(r)
			}
			if full(t, f.n.Unshare(r)) {
				return
			}
			seg, err := m.v.NewSegment()
			must(t, err)
			mem := make(memSegment, r.Len()+extent.BlockSize)
			_, err = f.n.ReadAt(mem[extent.BlockSize:], r.Off)
			must(t, err)
			for _, h := range f.n.m.holes(r) { // what somebody puts down over a hole never shows
				copy(mem[extent.BlockSize+h.Off-r.Off:], fill(stale, int(h.Len())))
			}
			must(t, m.v.AttachSegment(seg, mem))
			must(t, f.n.Isolate(r, extent.Addr{Seg: seg, Off: extent.BlockSize}))
			f.windows = append(f.windows, modelWindow{r, seg})
		},
		"home": func(t *rapid.T) { f := m.pick(t); f.dropWindows(t, m, drawRange(t)) },
		"trim": func(t *rapid.T) { m.pick(t).n.TrimPrealloc() },
		"sync": func(t *rapid.T) { m.syncFile(m.pick(t)) },
		"delete": func(t *rapid.T) {
			f := m.pick(t)
			f.dropWindows(t, m, extent.Range{Off: 0, End: extent.Inf})
			e, err := m.v.LookupEntry(extent.RootIno, f.name)
			must(t, err)
			f.n.Attr.Nlink = 0
			tx := m.v.Begin()
			tx.DelEntry(extent.RootIno, f.name, e.Cookie)
			tx.PutInode(f.n)
			tx.PutOrphan(f.n.Ino)
			must(t, tx.Commit())
			must(t, m.v.Delete(f.n))
			m.files = slices.DeleteFunc(m.files, func(g *modelFile) bool { return g == f })
			if rapid.Bool().Draw(t, "durable") {
				must(t, m.v.SyncStore(context.Background()))
			}
		},
		"reopen": func(t *rapid.T) {
			for _, f := range m.files {
				f.dropWindows(t, m, extent.Range{Off: 0, End: extent.Inf})
				m.syncFile(f)
			}
			m.reopen()
			m.check()
			for _, f := range m.files {
				f.n = m.load(f.n.Ino)
			}
			m.addsUp(t)
		},
		"crash": func(t *rapid.T) {
			// What was deleted may be back; only what is known not to be is told apart.
			m.crash(sim.Seeded(rapid.Uint64().Draw(t, "seed")))
			m.files = slices.DeleteFunc(m.files, func(f *modelFile) bool {
				n, err := m.v.Load(f.n.Ino)
				if errors.Is(err, syscall.ENOENT) && !f.synced {
					return true
				}
				must(t, err)
				f.n = n
				f.crashed(t, m.read(n))
				return false
			})
			m.rescue(t)
			m.addsUp(t)
		},
	}
}

// plan is what Plan should say: in the model everything that was ever put down and
// not taken away. It asks the map itself, since that is what later tests rely on.
func (f *modelFile) plan(r extent.Range, windowed bool) bool {
	if r.End > int64(len(f.data)) {
		return false
	}
	pos := r.Off
	err := f.n.Extents(r, func(e extent.Extent) bool {
		if e.Off != pos || e.State != extent.Written || e.Shared || windowed && e.Addr.Seg == extent.Device {
			return false
		}
		pos = e.Off + e.Len
		return true
	})
	return err == nil && pos == r.End
}

// dropWindows brings home all windows that overlap r.
func (f *modelFile) dropWindows(t *rapid.T, m *machine, r extent.Range) {
	f.windows = slices.DeleteFunc(f.windows, func(w modelWindow) bool {
		if !w.r.Overlaps(r) {
			return false
		}
		f.writeBack(t, m, w, 62)
		must(t, f.n.Home(w.r))
		m.v.DetachSegment(w.seg)
		return true
	})
}

// writeBackAll writes home what is left in windows, before what commits all.
func (f *modelFile) writeBackAll(t fataler, m *machine) {
	for _, w := range f.windows {
		f.writeBack(t, m, w, 61)
	}
}

// writeBack writes a window home. Behind the end of file its holder has put down
// what was never committed, and must never appear.
func (f *modelFile) writeBack(t fataler, m *machine, w modelWindow, uncommitted byte) {
	s, err := m.v.segment(w.seg)
	must(t, err)
	p := bytes.Clone(s.(memSegment)[extent.BlockSize:])
	for i := max(0, int64(len(f.data))-w.r.Off); i < int64(len(p)); i++ {
		p[i] = uncommitted
	}
	must(t, f.n.WriteHome(p, w.r.Off))
}

func (m *machine) syncFile(f *modelFile) {
	f.writeBackAll(m.t, m)
	m.rig.sync(f.n)
	f.commit()
}

// compare holds all files against the model.
func (m *machine) compare(t *rapid.T) {
	for _, f := range m.files {
		if got := m.read(f.n); !bytes.Equal(got, f.data) {
			i := 0
			for i < min(len(got), len(f.data)) && got[i] == f.data[i] {
				i++
			}
			t.Fatalf("%s: %d bytes, want %d; first difference at %d; %s", f.name, len(got), len(f.data), i, extentsOf(t, f.n))
		}
		f.compareBlocks(t)
	}
}

// compareBlocks holds the blocks that the file has against the model, and what lies in
// windows against the windows.
func (f *modelFile) compareBlocks(t *rapid.T) {
	for _, show := range []func(extent.Range, func(extent.Extent) bool) error{f.n.Extents, f.n.HomeExtents} {
		if got := mapped(t, show); !maps.Equal(got, f.blocks) {
			t.Fatalf("%s: has the blocks %v, want %v", f.name, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(f.blocks)))
		}
	}
	if n, err := f.n.Allocated(); err != nil || n != int64(len(f.blocks))*extent.BlockSize {
		t.Fatalf("%s: %d bytes allocated for %d blocks (%v)", f.name, n, len(f.blocks), err)
	}
	must(t, f.n.Extents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
		for off := e.Off; off < e.Off+e.Len; off += extent.BlockSize {
			want := extent.Addr{Seg: extent.Device}
			for _, w := range f.windows {
				if off >= w.r.Off && off < w.r.End {
					want = extent.Addr{Seg: w.seg, Off: extent.BlockSize + off - w.r.Off}
				}
			}
			got := e.Slice(extent.Range{Off: off, End: off + extent.BlockSize}).Addr
			if got.Seg != want.Seg || got.Seg != extent.Device && got != want {
				t.Fatalf("%s: block at %d is at %v, want %v", f.name, off, got, want)
			}
		}
		return true
	}))
}

// rescue deletes files that came back because their deletion was lost.
func (m *machine) rescue(t *rapid.T) {
	known := map[string]bool{}
	for _, f := range m.files {
		known[f.name] = true
	}
	gone := map[string]Entry{}
	must(t, m.v.ReadDir(extent.RootIno, 0, func(name string, e Entry) bool {
		if !known[name] {
			gone[name] = e
		}
		return true
	}))
	for name, e := range gone {
		n := m.load(e.Ino)
		for i, b := range m.read(n) {
			if b == stale {
				t.Fatalf("%s: stale byte at %d", name, i)
			}
		}
		n.Attr.Nlink = 0
		tx := m.v.Begin()
		tx.DelEntry(extent.RootIno, name, e.Cookie)
		tx.PutInode(n)
		must(t, tx.Commit())
		must(t, m.v.Delete(n))
	}
}

// clone clones a part of f to g and has both checked as an overwrite would be.
func (m *machine) clone(t *rapid.T, f, g *modelFile) {
	r, off := drawRange(t).RoundOut(), drawRange(t).RoundOut().Off
	r.End = min(r.End, int64(len(f.data)), r.Off+modelMax-off)
	to := extent.Range{Off: off, End: off + r.Len()}
	switch {
	case r.Empty(),
		r.RoundOut() != r && (r.End != int64(len(f.data)) || to.End < int64(len(g.data))),
		f == g && to.RoundOut().Overlaps(r.RoundOut()):
		if err := m.v.Clone(f.n, r, g.n, off); !errors.Is(err, syscall.EINVAL) {
			t.Fatalf("clone %v to %v: %v", r, to, err)
		}
		return
	}
	g.dropWindows(t, m, to.RoundOut())
	for _, w := range f.windows {
		f.writeBack(t, m, w, 60)
	}
	if full(t, m.v.Clone(f.n, r, g.n, off)) {
		return
	}
	g.set(off, bytes.Clone(f.data[r.Off:r.End]))
	g.give(to.RoundOut())
	must(t, f.n.HomeExtents(r.RoundOut(), func(e extent.Extent) bool {
		if e.State == extent.Written {
			g.take(extent.Range{Off: e.Off - r.Off + off, End: e.Off + e.Len - r.Off + off})
		}
		return true
	}))
}

// addsUp checks that each block is free or a file's, once nothing is pending.
func (m *machine) addsUp(t *rapid.T) {
	var all rangeSet
	for _, f := range m.files {
		m.rig.sync(f.n)
		must(t, f.n.HomeExtents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
			all.add(extent.Range{Off: e.Addr.Off, End: e.Addr.Off + e.Len})
			return true
		}))
	}
	must(t, m.v.SyncStore(context.Background()))
	used := all.bytes
	if i := m.v.Info(); i.Free+i.Ahead+used != i.Total || i.Busy != 0 || i.Orphaned != 0 {
		t.Fatalf("%d used, but %+v", used, i)
	}
}

func testModel(t *testing.T, blocks int64, o Options) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{rig: newRigWith(t, dataStart+blocks*extent.BlockSize, o)}
		m.rig.t = rapidTB{t, rt}
		defer func() { m.st.Close() }()
		rt.Repeat(m.actions())
		m.addsUp(rt)
		for _, f := range m.files {
			f.dropWindows(rt, m, extent.Range{Off: 0, End: extent.Inf})
			m.syncFile(f)
		}
		m.reopen()
		m.check()
		for _, f := range m.files {
			f.n = m.load(f.n.Ino)
		}
		m.compare(rt)
		m.addsUp(rt)
	})
}

// rapidTB lets the helpers report to rapid, so that it can shrink.
type rapidTB struct {
	testing.TB
	rt *rapid.T
}

func (r rapidTB) Helper()                      {}
func (r rapidTB) Fatalf(f string, args ...any) { r.rt.Fatalf(f, args...) }

// TestModel runs random operations on several files against arrays of bytes, with
// reopening and power cuts, on a volume with room to spare.
func TestModel(t *testing.T) { testModel(t, 400, Options{}) }

// TestModelFull is TestModel on a volume that is nearly full all the time.
func TestModelFull(t *testing.T) { testModel(t, 64, Options{}) }

// TestModelSums is TestModel with checksums of data: a block that does not match its own
// is an error of any read.
func TestModelSums(t *testing.T) { testModel(t, 400, Options{DataChecksums: true}) }

// TestModelSumsFull is TestModelFull with checksums of data.
func TestModelSumsFull(t *testing.T) { testModel(t, 64, Options{DataChecksums: true}) }
