package volume

import (
	"context"
	"errors"
	"fmt"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"
)

// CheckData is Check, and then reads all that files have written and compares it with its
// checksums, where it has any. It tells of what does not match, and of what cannot be read, by
// file and offset.
func CheckData(ctx context.Context, dev device.Device, st store.Reader, report func(Problem)) (Summary, error) {
	c := newChecker(ctx, st, report)
	if err := c.check(dev); err != nil {
		return c.sum, fmt.Errorf("check: %w", err)
	}
	if c.strange {
		return c.sum, nil // on another device nothing is right
	}
	if err := c.readData(dev); err != nil {
		return c.sum, fmt.Errorf("check: %w", err)
	}
	return c.sum, nil
}

func (c *checker) readData(dev device.Device) error {
	d := dataChecker{checker: c, dev: dev, room: make([]byte, sumSpan)}
	return c.st.Reader.Scan([]byte{prefixExtent}, after(prefixExtent), func(k, v []byte) (bool, error) {
		v, err := unseal(k, v)
		if err != nil {
			return true, nil // was told
		}
		ino, e, err := decodeExtent(k, v)
		if err != nil || e.State != extent.Written || e.Addr.Off < dataStart || e.Addr.Off+e.Len > c.size {
			return true, nil
		}
		return true, d.compare(ino, e)
	})
}

// dataChecker compares what is on the device.
type dataChecker struct {
	*checker
	dev       device.Device
	room      []byte
	bad, lost []extent.Range // of the extent, by offset in the file
	path      string
	last      extent.Ino // whose path it is
}

// compare reads an extent.
func (d *dataChecker) compare(ino extent.Ino, e extent.Extent) error {
	d.bad, d.lost = nil, nil
	by := e.Off - e.Addr.Off
	err := sumParts(extent.Range{Off: e.Addr.Off, End: e.Addr.Off + e.Len}, func(k int64, part extent.Range) error {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		sums, err := d.sums(k)
		if err != nil {
			return err
		}
		p := d.room[:part.Len()]
		whole := d.read(p, part.Off)
		for a := part.Off; a < part.End; a += extent.BlockSize {
			b := p[a-part.Off:][:extent.BlockSize]
			at := extent.Range{Off: a + by, End: a + by + extent.BlockSize}
			switch {
			case !whole && !d.read(b, a):
				d.lost = addRange(d.lost, at)
			case !sums.have.has(sumAt(a)):
				d.sum.Unsummed += extent.BlockSize
			case sums.sums[sumAt(a)] == blockSum(b):
				d.sum.Verified += extent.BlockSize
			default:
				d.bad = addRange(d.bad, at)
			}
		}
		return nil
	})
	for _, r := range d.bad {
		d.found(ino, r, ErrSum.Error())
	}
	for _, r := range d.lost {
		d.found(ino, r, "the device cannot read it")
	}
	return err
}

func (d *dataChecker) read(p []byte, addr int64) bool {
	_, err := d.dev.ReadAt(p, addr)
	return err == nil
}

// sums returns what is known of chunk k; of a damaged record, which was told, that is nothing.
func (d *dataChecker) sums(k int64) (*sumChunk, error) {
	none := &sumChunk{}
	if !d.summed {
		return none, nil
	}
	b, err := d.st.Get(sumKey(k))
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrCorrupt) {
		return none, nil
	}
	if err != nil {
		return nil, err
	}
	_, c, err := decodeSums(sumKey(k), b)
	if err != nil {
		return none, nil
	}
	return c, nil
}

func (d *dataChecker) found(ino extent.Ino, r extent.Range, what string) {
	if d.last != ino {
		var err error
		if d.path, err = pathOf(d.ctx, d.st, ino); err != nil {
			d.path = "no name"
		}
		d.last = ino
	}
	d.problem(BadData, ino, "%s: %d bytes at %d: %s", d.path, r.Len(), r.Off, what)
}
