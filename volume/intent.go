package volume

import (
	"fmt"

	"holdfast/extent"
)

// intentKind says what an intent is about.
type intentKind uint8

const (
	freeing    intentKind = iota + 1 // r leaves the file
	cloning                          // r of src becomes that of the file at `at`, too
	collapsing                       // r leaves the file, and what is behind it moves down
	inserting                        // r becomes a hole, and what was there moves up
)

func (k intentKind) String() string {
	switch k {
	case freeing:
		return "freeing"
	case cloning:
		return "cloning"
	case collapsing:
		return "collapsing"
	case inserting:
		return "inserting"
	}
	return fmt.Sprintf("operation %d", uint8(k))
}

// intent is the record of an operation that takes several batches. It comes with
// the first and goes with the last, so that the operation is done after a crash
// wholly or not at all.
type intent struct {
	kind intentKind
	r    extent.Range
	src  extent.Ino // cloning
	at   int64      // cloning: where in the file; shifting: where it has come to
	size int64      // of the file when it is done, where that changes
}

const intentLen = 1 + 5*8

func (i intent) encode() []byte {
	b := append(make([]byte, 0, intentLen), byte(i.kind))
	for _, v := range [...]int64{i.r.Off, i.r.End, int64(i.src), i.at, i.size} {
		b = le.AppendUint64(b, uint64(v))
	}
	return b
}

func decodeIntent(b []byte) (intent, error) {
	if len(b) != intentLen {
		return intent{}, fmt.Errorf("intent of %d bytes: %w", len(b), ErrCorrupt)
	}
	v := func(k int) int64 { return int64(le.Uint64(b[1+8*k:])) }
	i := intent{
		kind: intentKind(b[0]), r: extent.Range{Off: v(0), End: v(1)},
		src: extent.Ino(v(2)), at: v(3), size: v(4),
	}
	ok := i.kind >= freeing && i.kind <= inserting && i.r.Off >= 0 && !i.r.Empty() && i.r.RoundOut() == i.r
	if ok && i.kind != freeing {
		ok = i.r.End <= extent.MaxSize && i.at >= 0 && extent.RoundDown(i.at) == i.at &&
			i.size >= 0 && i.size <= extent.MaxSize
	}
	if ok && i.kind == cloning {
		ok = i.at <= extent.MaxSize-i.r.Len()
	}
	if !ok {
		return intent{}, fmt.Errorf("intent for %v of %v: %w", i.kind, i.r, ErrCorrupt)
	}
	return i, nil
}
