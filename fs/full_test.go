package fs

import (
	"bytes"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/volume"
)

// TestShortWrite: a write for which there is not enough room writes what there is room for, and one
// for which there is none is ENOSPC and changes nothing.
func TestShortWrite(t *testing.T) {
	const room = 3
	for name, c := range map[string]struct {
		off       int64
		n         int
		appending bool
		sums      bool
		want      int // bytes written
	}{
		"a hole":                             {10 * block, 100 * block, false, false, room * block},
		"within a block":                     {10*block + 100, 100 * block, false, false, room*block - 100},
		"one too many":                       {10 * block, (room + 1) * block, false, false, room * block},
		"one byte too many":                  {10 * block, room*block + 1, false, false, room * block},
		"from what is there on":              {0, 20 * block, false, false, (4 + room) * block},
		"at the end":                         {0, 20 * block, true, false, room * block},
		"what is there, with checksums":      {0, 4 * block, false, true, room * block},
		"from what is there, with checksums": {2 * block, 20 * block, false, true, room * block},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig) { r.vopts = volume.Options{DataChecksums: c.sums} })
			ino := r.file("f", make([]byte, 4*block))
			r.must(r.Fsync(ctx, ino, false))
			hog := r.file("hog", nil)
			r.must(r.Fallocate(ctx, Caller{}, hog, 0, 0, r.vol.Statfs().Free-room*block))
			p := bytes.Repeat([]byte("holdfast"), c.n/8+1)[:c.n]
			n, err := r.Write(ctx, Caller{}, ino, p, c.off, c.appending, false)
			if n != c.want || err != nil {
				t.Fatalf("%d bytes of %d, %v; want %d", n, c.n, err, c.want)
			}
			if free := r.vol.Statfs().Free; free != 0 {
				t.Errorf("%d bytes are left", free)
			}
			at := c.off
			if c.appending {
				at = 4 * block
			}
			if got := r.content(ino); int64(len(got)) != max(4*block, at+int64(n)) || !bytes.Equal(got[at:at+int64(n)], p[:n]) {
				t.Errorf("the file has %d bytes after %d at %d", len(got), n, at)
			}
			before, blocks := r.content(ino), r.attr(ino).Blocks
			n, err = r.Write(ctx, Caller{}, ino, p, extent.RoundUp(int64(len(before))), false, false)
			wantErr(t, err, syscall.ENOSPC, "a write of %d bytes to a full volume (%d)", len(p), n)
			if !bytes.Equal(r.content(ino), before) || r.attr(ino).Blocks != blocks {
				t.Error("it changed something")
			}
		})
	}
}
