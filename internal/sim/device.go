package sim

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"syscall"

	"holdfast/device"
)

// Device is the disk's device, as one server has it open.
type Device struct {
	d      *Disk
	size   atomic.Int64
	failed atomic.Pointer[error]
}

var _ device.Device = (*Device)(nil)

// Device opens the device. A failure sticks to what was opened, as device.Device
// wants it.
func (d *Disk) Device() *Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := &Device{d: d}
	v.size.Store(d.now.files[deviceObj].size)
	return v
}

func (v *Device) within(off, n int64) error {
	if size := v.Size(); off < 0 || off > size-n {
		return fmt.Errorf("[%d,+%d) of %d bytes: %w", off, n, size, syscall.EINVAL)
	}
	return nil
}

func (v *Device) failure() error {
	if p := v.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (v *Device) settle(err error) error {
	if err != nil {
		err = fmt.Errorf("%w: %w", device.ErrFailed, err)
		v.failed.CompareAndSwap(nil, &err)
	}
	return v.failure()
}

// ReadAt implements device.Device.
func (v *Device) ReadAt(p []byte, off int64) (int, error) {
	if err := v.within(off, int64(len(p))); err != nil {
		return 0, err
	}
	return v.d.read(deviceObj, Op{Off: off}, p)
}

// WriteAt implements device.Device.
func (v *Device) WriteAt(p []byte, off int64) (int, error) {
	if err := v.within(off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := v.failure(); err != nil {
		return 0, err
	}
	n, err := v.d.write(deviceObj, Op{Off: off}, p)
	if err := v.settle(err); err != nil {
		return n, err
	}
	return n, nil
}

// Sync implements device.Device.
func (v *Device) Sync() error {
	if err := v.failure(); err != nil {
		return err
	}
	return v.settle(v.d.flush(deviceObj, Op{}))
}

// Reserve implements device.Device. There is always space.
func (v *Device) Reserve(off, n int64) error {
	if err := v.within(off, n); err != nil {
		return err
	}
	return v.failure()
}

// Discard implements device.Device. It leaves the worst that it may: somebody's
// bytes.
func (v *Device) Discard(off, n int64) error {
	_, err := v.WriteAt(bytes.Repeat([]byte{Stale}, int(n)), off)
	return err
}

// Size implements device.Device.
func (v *Device) Size() int64 { return v.size.Load() }

// Grow implements device.Device. What is new is zeros.
func (v *Device) Grow(size int64) error {
	if err := v.failure(); err != nil {
		return err
	}
	if err := v.d.extend(deviceObj, size); err != nil {
		return err
	}
	if err := v.Sync(); err != nil {
		return err
	}
	v.size.Store(max(size, v.Size()))
	return nil
}

// Fence implements device.Device. There is no other server.
func (v *Device) Fence(uint64) error { return nil }

// Close implements device.Device.
func (v *Device) Close() error { return nil }
