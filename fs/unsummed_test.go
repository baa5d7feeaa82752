package fs

import (
	"fmt"
	"syscall"
	"testing"

	"holdfast/device"
)

// deadSpot is a device that cannot read one place.
type deadSpot struct {
	device.Device
	at int64
}

func (d *deadSpot) ReadAt(p []byte, off int64) (int, error) {
	if off <= d.at && d.at < off+int64(len(p)) {
		return 0, fmt.Errorf("the medium is gone at %d: %w", d.at, syscall.EIO)
	}
	return d.Device.ReadAt(p, off)
}

// TestScrubWithoutSums: without checksums of data a scrub tells what the device cannot read, by file and place, and nothing of what is
// not as it was written.
func TestScrubWithoutSums(t *testing.T) {
	r := newRig(t)
	r.spoiled = true
	ino := r.file("f", make([]byte, 8*block))
	r.must(r.Sync(ctx))
	at := r.addrs(ino)
	_, err := r.dev.WriteAt([]byte("spoilt"), at[2])
	r.must(err)
	r.stop()
	whole := r.dev
	r.dev = &deadSpot{whole, at[5] + 100}
	r.start()
	s := r.scrubAll()
	want := Damage{Kind: "unreadable", Inode: ino, Path: "/f", Offset: 5 * block, Length: block}
	if len(s.Damage) != 1 || s.Verified != 0 || s.Unsummed != 7*block {
		t.Fatalf("%+v", s)
	}
	if d := s.Damage[0]; d.Detail == "" || (Damage{d.Kind, d.Inode, d.Path, d.Offset, d.Length, ""}) != want {
		t.Errorf("%+v, want %+v", d, want)
	}
	r.stop()
	r.dev = whole
	r.start()
}
