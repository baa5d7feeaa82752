package crashtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/arbiter"
	"holdfast/device"
	"holdfast/fs"
	"holdfast/internal/sim"
	"holdfast/store"
	"holdfast/volume"
)

const (
	metaDir = "meta"
	// dataStart is where the data of a volume begin; what is on the device before is
	// blank, so that a volume can be made.
	dataStart = 1 << 20
	kib       = 1 << 10
	block     = 4 << 10
)

// Options change what a workload runs on. The zero value is ready.
type Options struct {
	// Wrap replaces what the volume lies on, to see that a lie is found out.
	Wrap func(device.Device, store.Store) (device.Device, store.Store)
	// After is called after each operation.
	After func(*volume.Volume)
	// DataChecksums is the volume's.
	DataChecksums bool
	// MemTableSize is the store's; 0 means one that no short workload fills.
	MemTableSize int64
	// Fault is the hook of the disk while the workload runs. If it is set, operations
	// may fail.
	Fault func(sim.Op) error
}

// stack is a filesystem with all that is below it.
type stack struct {
	disk *sim.Disk
	dev  device.Device
	st   store.Store
	vol  *volume.Volume
	arb  *arbiter.Arbiter
	fs   *fs.FS
	now  time.Time
}

func (o *Options) storeOptions(d *sim.Disk) store.Options {
	size := o.MemTableSize
	if size == 0 {
		size = 256 * kib
	}
	return store.Options{FS: d.FS(), CacheSize: 256 * kib, MemTableSize: size}
}

// start makes a volume with room for size bytes and starts a filesystem on it.
func start(ctx context.Context, size int64, o *Options) (*stack, error) {
	s := &stack{disk: sim.New(dataStart+size, dataStart), now: time.Unix(1e9, 0)}
	st, err := store.Create(metaDir, o.storeOptions(s.disk))
	if err != nil {
		return nil, err
	}
	s.dev, s.st = s.disk.Device(), st
	if err := volume.Create(s.dev, st, volume.Options{DataChecksums: o.DataChecksums}); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	if o.Wrap != nil {
		s.dev, s.st = o.Wrap(s.dev, s.st)
	}
	if s.vol, err = volume.Open(ctx, s.dev, s.st, volume.Options{MaxOrphaned: size}); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	s.arb = arbiter.New(arbiter.Config{})
	if s.fs, err = fs.New(s.vol, s.arb, fs.Options{Ticks: make(chan time.Time), Now: s.clock}); err != nil {
		s.arb.Close()
		return nil, errors.Join(err, st.Close())
	}
	// The lies of Wrap are not for what was before the workload.
	if err := st.Sync(); err != nil {
		return nil, err
	}
	s.disk.Settle()
	return s, nil
}

// clock is for one goroutine.
func (s *stack) clock() time.Time {
	s.now = s.now.Add(time.Millisecond)
	return s.now
}

// stop ends the filesystem. After a fault that need not go well.
func (s *stack) stop(ctx context.Context) error {
	err := s.fs.Close(ctx)
	s.arb.Close()
	if err = errors.Join(err, s.vol.Close(), s.st.Close()); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
