package volume

import (
	"errors"
	"fmt"
	"sync"

	"holdfast/extent"
	"holdfast/store"
)

const (
	// counterChunk is how many numbers are taken from the store at a time. What is
	// left of them when the volume closes is never used.
	counterChunk = 1024
	// firstCookie leaves room for the entries that every directory has.
	firstCookie = 16
)

// counter gives out numbers that are never given out again. Its record is ahead
// of the numbers, and the store keeps the order of batches, so that nothing that
// carries a number is durable before the record is.
type counter struct {
	v   *Volume
	key []byte

	mu          sync.Mutex
	next, limit uint64
}

func (c *counter) open(v *Volume, name string, first uint64) error {
	c.v, c.key, c.next = v, counterKey(name), first
	b, err := v.st.Get(c.key)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return err
	default:
		if c.next, err = decodeNumber(b); err != nil {
			return fmt.Errorf("counter %s: %w", name, err)
		}
	}
	c.limit = c.next
	return nil
}

func (c *counter) take() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == c.limit {
		b := c.v.batch()
		b.Put(c.key, encodeNumber(c.limit+counterChunk))
		if _, err := c.v.apply(b); err != nil {
			return 0, err
		}
		c.limit += counterChunk
	}
	c.next++
	return c.next - 1, nil
}

// NewIno returns an inode number that was never used.
func (v *Volume) NewIno() (extent.Ino, error) {
	n, err := v.inos.take()
	return extent.Ino(n), err
}

// NewCookie returns a place at the end of the order of every directory.
func (v *Volume) NewCookie() (uint64, error) { return v.cookies.take() }

// NewSegment returns a segment number that was never used.
func (v *Volume) NewSegment() (extent.Segment, error) {
	n, err := v.segs.take()
	return extent.Segment(n), err
}
