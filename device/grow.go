package device

import (
	"fmt"
	"syscall"
)

// Grow implements Device. A regular file is made longer; its space is claimed by
// Reserve, as that of a new one. A block device has grown by other means, and this
// learns of it.
func (d *File) Grow(size int64) error {
	d.growMu.Lock()
	defer d.growMu.Unlock()
	if err := d.usable(); err != nil {
		return err
	}
	has, err := d.hostSize()
	if err != nil {
		return fmt.Errorf("grow device: %w", err)
	}
	if d.block && has < size {
		return fmt.Errorf("grow device: the block device has %d bytes, not %d: %w", has, size, syscall.ENOSPC)
	}
	if !d.block && has < size {
		if err := retry(func() error { return d.f.Truncate(size) }); err != nil {
			return fmt.Errorf("grow device: %w", err)
		}
		has = size
	}
	if !d.block {
		// Not only now: it may have been made longer by a call that did not come to an end.
		if err := d.f.Sync(); err != nil {
			return d.fail(fmt.Errorf("grow: sync: %w", err))
		}
	}
	if has > d.Size() {
		d.size.Store(has)
		d.mapView()
	}
	return nil
}
