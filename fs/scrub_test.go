package fs

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
)

func withSums(r *rig) { r.vopts.DataChecksums = true }

// scrubAll does all steps of a scrub, small ones.
func (r *rig) scrubAll() (sum ScrubStep) {
	r.t.Helper()
	for next, more := []byte(nil), true; more; more = next != nil {
		s, err := r.Scrub(ctx, next, 3*block)
		if err != nil {
			r.t.Errorf("scrub: %v", err)
			return sum
		}
		sum.Records += s.Records
		sum.Files += s.Files
		sum.Verified += s.Verified
		sum.Unsummed += s.Unsummed
		sum.Damage = append(sum.Damage, s.Damage...)
		next = s.Next
	}
	return sum
}

// addrs returns where the blocks of a file are on the device.
func (r *rig) addrs(ino extent.Ino) (out []int64) {
	r.t.Helper()
	i := mustGet(r, ino)
	i.mu.RLock()
	defer i.mu.RUnlock()
	r.must(i.n.HomeExtents(everything[0], func(e extent.Extent) bool {
		for a := e.Addr.Off; a < e.Addr.Off+e.Len; a += block {
			out = append(out, a)
		}
		return true
	}))
	return out
}

// TestScrub: damage is named by file and place, and what is sound is counted.
func TestScrub(t *testing.T) {
	r := newRig(t, withSums)
	r.spoiled = true
	a, b := r.file("a", make([]byte, 10*block)), r.file("b", make([]byte, 5*block+1))
	r.must(r.Sync(ctx))
	if s := r.scrubAll(); s.Files != 2 || s.Verified != 16*block || s.Unsummed != 0 || len(s.Damage) != 0 || s.Records < 10 {
		t.Errorf("%+v", s)
	}
	for _, addr := range []int64{r.addrs(a)[7], r.addrs(b)[0], r.addrs(b)[1]} {
		_, err := r.dev.WriteAt([]byte("spoilt"), addr+1000)
		r.must(err)
	}
	r.reopen() // names are not known by use
	s := r.scrubAll()
	want := []Damage{
		{Kind: "data", Inode: a, Path: "/a", Offset: 7 * block, Length: block},
		{Kind: "data", Inode: b, Path: "/b", Offset: 0, Length: 2 * block},
	}
	if len(s.Damage) != len(want) || s.Verified != 13*block {
		t.Fatalf("%+v", s)
	}
	for k, d := range s.Damage {
		if d.Detail = ""; d != want[k] {
			t.Errorf("%+v, want %+v", d, want[k])
		}
	}
	if _, err := r.Read(ctx, a, make([]byte, block), 7*block); !errors.Is(err, volume.ErrSum) || !errors.Is(err, syscall.EIO) {
		t.Errorf("read of what is damaged: %v", err)
	}
	for _, odd := range [][]byte{{'x'}, {atFiles}, {atRecords}} {
		if _, err := r.Scrub(ctx, odd, 0); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("cursor %q: %v", odd, err)
		}
	}
}

// TestScrubBesideWork: a scrub finds nothing where there is nothing, whatever goes on
// meanwhile, and all of it goes on.
func TestScrubBesideWork(t *testing.T) {
	r := newRig(t, withSums, func(r *rig) { r.arbs.BreakTime = 1e6 })
	ino := r.file("f", make([]byte, 32*block))
	var scrubs atomic.Int64
	inParallel(5, 60, func(g int, rnd *rand.Rand) {
		off, n := rnd.Int64N(32*block), 1+rnd.Int64N(8*block)
		var err error
		switch {
		case g == 0:
			if s := r.scrubAll(); len(s.Damage) > 0 {
				t.Errorf("%+v", s.Damage)
			}
			scrubs.Add(1)
		case g == 1:
			err = useWindow(r, 1001, ino, rng(off, off+n))
		case rnd.IntN(8) == 0:
			err = r.Fsync(ctx, ino, false)
		case rnd.IntN(8) == 0:
			err = r.Fallocate(ctx, Caller{}, ino, unix.FALLOC_FL_ZERO_RANGE, off, n)
		case rnd.IntN(8) == 0:
			var a Attr
			name := string(rune('a' + g))
			if a, err = r.Mknod(ctx, Caller{}, root, name, syscall.S_IFREG|0o600, 0); err == nil {
				r.write(a.Ino, make([]byte, n), 0)
				err = r.Unlink(ctx, Caller{}, root, name)
				r.Forget(a.Ino, 1)
			}
		case rnd.IntN(2) == 0:
			_, err = r.Read(ctx, ino, make([]byte, n), off)
		default:
			_, err = r.Write(ctx, Caller{}, ino, make([]byte, n), off, false, false)
		}
		if err != nil && !errors.Is(err, syscall.EAGAIN) {
			t.Errorf("%v", err)
		}
	})
	if scrubs.Load() == 0 {
		t.Error("no scrub")
	}
}

// TestPinnedWindowHasNoSums: what is written home under a pin stays where it is, without
// checksums, and gets them when the pin is gone.
func TestPinnedWindowHasNoSums(t *testing.T) {
	r := newRig(t, withSums)
	ino := r.file("f", make([]byte, 4*block))
	r.must(r.Fsync(ctx, ino, false))
	h := r.session(4711)
	l := h.lease(ino, rng(0, 4*block), layout.Write)
	v := h.mmap(l, ino, rng(0, 4*block), true)
	defer v.close()
	_, p := h.pin(l, rng(0, 2*block), layout.Write)
	before := r.addrs(ino)
	copy(v.at(10), "by a device")
	r.must(r.Commit(ctx, l, ino, rng(0, 4*block), -1))
	if after := r.addrs(ino); after[0] != before[0] || after[1] != before[1] || after[2] == before[2] {
		t.Errorf("blocks were at %v, are at %v", before, after)
	}
	if s := r.scrubAll(); s.Verified != 2*block || s.Unsummed != 2*block || len(s.Damage) != 0 {
		t.Errorf("under the pin: %+v", s)
	}
	if info, err := r.Stat(ctx, ino); err != nil || !info.DataChecksums || info.Extents[0].Addr.Seg == extent.Device || !slices.Equal(info.Unsummed, []extent.Range{rng(0, 2*block)}) {
		t.Errorf("%+v, %v", info, err)
	} else if text, err := json.Marshal(info); err != nil || !strings.Contains(string(text), `"without_checksum":[{"offset":0,"length":8192}]`) {
		t.Errorf("%s, %v", text, err)
	}
	r.must(r.arb.Unpin(ctx, h.id, p))
	h.release(l)
	if s := r.scrubAll(); s.Verified != 4*block || s.Unsummed != 0 || len(s.Damage) != 0 {
		t.Errorf("after the pin: %+v", s)
	}
	if info, err := r.Stat(ctx, ino); err != nil || len(info.Unsummed) != 0 {
		t.Errorf("after the pin: %+v, %v", info, err)
	}
	if got := r.read(ino, 10, 11); got != "by a device" {
		t.Errorf("content %q", got)
	}
}
