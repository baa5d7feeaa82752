package crashtest

import "testing"

// TestRot flips bits in all files of a store at rest, and in the superblock: that is
// refused, or does no harm; no name and no byte is wrong, and nothing panics.
func TestRot(t *testing.T) {
	places := int64(60)
	if testing.Short() {
		places = 8
	}
	for name, o := range map[string]Options{"one table": {}, "several": {MemTableSize: 8 * kib}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := Rest(t, Random(3, 60), o)
			files, err := r.Files()
			if err != nil {
				t.Fatal(err)
			}
			noticed := 0
			for _, f := range append(files, File{"", 60}) {
				step := max(1, f.Size/places)
				for off := int64(0); off < f.Size; off += step {
					if f.Size-off < 64 { // the footer of a table
						step = 1
					}
					found, err := r.Rot(t.Context(), f.Name, off, 1<<(off%8))
					if err != nil {
						t.Error(err)
					}
					if found != nil {
						noticed++
					} else if f.Name == "" {
						t.Errorf("byte %d of the superblock: not noticed", off)
					}
				}
			}
			if noticed < int(places) {
				t.Errorf("noticed %d times", noticed)
			}
		})
	}
}

// TestRotOfData flips bits of content: there is no checksum of data, so it is read as
// it is, and harms nothing else.
func TestRotOfData(t *testing.T) {
	r := Rest(t, Random(3, 60), Options{})
	seen := 0
	for off := int64(dataStart); off < dataStart+700*kib; off += 37 * kib {
		if _, err := r.Rot(t.Context(), "", off, 4); err != nil {
			seen++
		}
	}
	if seen == 0 {
		t.Error("no flipped bit was one of content")
	}
}
