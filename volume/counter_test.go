package volume

import "testing"

// TestNumbersOutliveChunks: over several chunks no number is given twice, and the record is ahead of each, so that a crash after any
// of them gives none of them again.
func TestNumbersOutliveChunks(t *testing.T) {
	r := newRig(t, 8*mib)
	var last uint64
	for i := range 3*counterChunk + 1 {
		n, err := r.v.NewCookie()
		must(t, err)
		b, err := r.v.st.Get(counterKey("cookie"))
		must(t, err)
		next, err := decodeNumber(b)
		must(t, err)
		if i > 0 && n != last+1 || n >= next || next > n+counterChunk {
			t.Fatalf("%d comes after %d, and %d after a crash", n, last, next)
		}
		last = n
	}
}
