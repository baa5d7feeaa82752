package volume

import (
	"errors"
	"fmt"
	"syscall"

	"holdfast/device"
	"holdfast/extent"
)

// Grow makes the volume size bytes long, rounded down to whole blocks, and the
// device at least that. When it returns the new space is free, and will be after any
// crash. EINVAL: the volume is larger; ENOSPC: the device cannot be as long. A
// failure leaves the old size, or the volume read-only.
func (v *Volume) Grow(size int64) error {
	v.growMu.Lock()
	defer v.growMu.Unlock()
	if err := v.grow(extent.RoundDown(size)); err != nil {
		return fmt.Errorf("grow volume: %w", err)
	}
	return nil
}

// grow needs growMu.
func (v *Volume) grow(size int64) error {
	if err := v.writable(); err != nil {
		return err
	}
	old := v.id.size
	if size < old {
		return fmt.Errorf("%d bytes are less than the %d that it has: %w", size, old, syscall.EINVAL)
	}
	if size == old {
		return nil
	}
	if err := v.dev.Grow(size); err != nil {
		if errors.Is(err, device.ErrFailed) || errors.Is(err, syscall.EIO) {
			return v.fail(err) // it takes no more writes, or what it holds is not known
		}
		return err
	}
	next := v.id
	next.size = size
	b := v.batch()
	b.Put(superKey, next.encode())
	if _, err := v.apply(b); err != nil {
		return err
	}
	// The store first, as at each open: from here on the next open would finish it.
	if err := v.syncStore(); err != nil {
		return err
	}
	if err := writeDeviceSuper(v.dev, &next); err != nil {
		return v.fail(err)
	}
	v.id.size = size
	v.size.Store(size)
	v.space.extend(run{old, size - old})
	v.log.Info("volume has grown", "volume", v.id.uuid, "from", old, "to", size)
	return nil
}
