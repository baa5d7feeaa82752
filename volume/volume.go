package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"

	"github.com/google/uuid"
)

const dirMode = syscall.S_IFDIR

// zeros is what holes are made of. Nobody writes to it.
var zeros [64 << 10]byte

// Options say how to create or open a volume. The zero value is ready.
type Options struct {
	// Log gets what an operator should know; nil means nothing is logged.
	Log *slog.Logger
	// UID and GID own the root directory that Create makes.
	UID, GID uint32
	// DataChecksums makes a volume whose blocks have checksums. Open refuses one that has
	// none with ErrNoSums; one that has them keeps them, whatever this says.
	DataChecksums bool
	// Boot names the boot of this machine. Orphans that another boot has left are
	// nobody's any more, and free. Empty: they are kept.
	Boot string
	// MaxOrphaned bounds how many bytes files may give up while they are held; 0 means a
	// tenth of the volume.
	MaxOrphaned int64
	// Committed, if set, is told how long each commit took. It must not block.
	Committed func(time.Duration)
}

// Volume is an open volume: the only owner of the blocks of its device.
type Volume struct {
	dev    device.Device
	viewer device.Viewer // dev, or nil if it cannot be viewed
	st     sealedStore
	log    *slog.Logger
	id     superblock // its size is guarded by growMu
	size   atomic.Int64
	term   uint64

	failed atomic.Pointer[error] // the first failure; set once

	space    space
	sums     *sums    // nil on a volume without
	segments sync.Map // extent.Segment → Segment

	applied   atomic.Uint64 // batches that the store has
	durable   atomic.Uint64 // how many of them are known to be durable
	settleMu  sync.Mutex    // held while freed blocks go from busy to free
	orphanMu  sync.Mutex    // held while records of orphans are altered, from when it is decided
	reserveMu sync.Mutex
	reserved  rangeSet // of the device: what the host has space for; guarded by reserveMu

	inos, cookies, segs counter
	files               atomic.Int64 // inodes that the store has

	maxOrphaned int64 // Options.MaxOrphaned
	committed   func(time.Duration)

	growMu    sync.Mutex
	syncAllMu sync.Mutex // one SyncAll at a time, since it holds many commitMu
}

// Open opens the volume on dev and st, which it uses until Close but does not own.
// It returns ErrBlank, ErrForeign, ErrVersion, ErrTruncated, ErrMismatch or
// ErrGeneration, having altered nothing, if they are not a volume of this release.
// It finishes what a crash left half done.
func Open(ctx context.Context, dev device.Device, st store.Store, o Options) (*Volume, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	v := &Volume{dev: dev, st: sealed(st), log: o.Log, maxOrphaned: o.MaxOrphaned, committed: o.Committed}
	v.viewer, _ = dev.(device.Viewer)
	if err := v.claim(o); err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	if err := v.openCounters(); err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	if err := v.recover(ctx); err != nil {
		return nil, fmt.Errorf("open volume: recover: %w", err)
	}
	if err := v.derive(); err != nil {
		return nil, fmt.Errorf("open volume: free space and files: %w", err)
	}
	if err := v.openOrphans(o.Boot); err != nil {
		return nil, fmt.Errorf("open volume: orphans: %w", err)
	}
	return v, nil
}

// claim checks the identity and raises the generation, in the store first.
func (v *Volume) claim(o Options) error {
	onDev, inStore, err := verify(v.dev, v.st.Reader)
	if err != nil {
		return err
	}
	if o.DataChecksums && inStore.features&featureSums == 0 {
		return ErrNoSums
	}
	v.id = inStore
	if v.id.features&featureSums != 0 {
		v.sums = &sums{v: v, most: sumCache, chunks: make(map[int64]*sumChunk)}
	}
	v.size.Store(v.id.size)
	if onDev.generation < inStore.generation || onDev.size != inStore.size {
		// Bring the device up first, so that it is never more than one step behind.
		if err := writeDeviceSuper(v.dev, &v.id); err != nil {
			return err
		}
	}
	v.id.generation++
	v.term = v.id.generation
	// From here on a server of an earlier term is refused by both.
	if err := v.st.Fence(v.term); err != nil {
		return err
	}
	if err := v.dev.Fence(v.term); err != nil {
		return err
	}
	b := v.batch()
	b.Put(superKey, v.id.encode())
	if _, err := v.apply(b); err != nil {
		return err
	}
	if err := v.st.Sync(); err != nil {
		return err
	}
	return writeDeviceSuper(v.dev, &v.id)
}

func (v *Volume) openCounters() error {
	for _, c := range []struct {
		c     *counter
		name  string
		first uint64
	}{
		{&v.inos, "ino", uint64(extent.RootIno) + 1},
		{&v.cookies, "cookie", firstCookie},
		{&v.segs, "segment", uint64(extent.Device) + 1},
	} {
		if err := c.c.open(v, c.name, c.first); err != nil {
			return err
		}
	}
	return nil
}

// countFiles counts the inodes.
func (v *Volume) countFiles() error {
	n := int64(0)
	err := v.st.Scan([]byte{prefixInode}, after(prefixInode), func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	v.files.Store(n)
	return err
}

// Close makes the namespace durable and ends the volume. Data that was not synced
// is lost; SyncAll comes before. Device and store stay open.
func (v *Volume) Close() error {
	if v.failed.Load() != nil {
		return nil // there is nothing that may still be written
	}
	return v.SyncStore(context.Background())
}

// Statfs says how full a volume is, in bytes and files.
type Statfs struct {
	Total int64 // what files can have
	Free  int64 // free, or free as soon as the allocator needs it
	Files int64 // of all kinds, directories too, and those without a name
	// Orphaned is what no file has, and a hold keeps. It is neither free nor any file's.
	Orphaned int64
}

// Statfs says how full the volume is.
func (v *Volume) Statfs() Statfs {
	i := v.Info()
	return Statfs{Total: i.Total, Free: i.Free + i.Busy + i.Ahead, Files: v.files.Load(), Orphaned: i.Orphaned}
}

// Info describes an open volume. Total is the sum of used bytes and of the five
// that follow it.
type Info struct {
	UUID       uuid.UUID `json:"uuid"`
	Generation uint64    `json:"generation"`
	Size       int64     `json:"size"`      // of the device
	Total      int64     `json:"total"`     // bytes for files
	Free       int64     `json:"free"`      // nobody's
	Busy       int64     `json:"busy"`      // freed by a batch that is not durable yet
	Ahead      int64     `json:"ahead"`     // kept for files that grow
	Orphaned   int64     `json:"orphaned"`  // given up by their file, but held
	Away       int64     `json:"away"`      // free, but at the end that is to be cut off
	Shared     int64     `json:"shared"`    // of what is used: what several files have, counted once
	FreeRuns   int       `json:"free_runs"` // the runs that Free consists of
	Holds      int       `json:"holds"`     // see Inode.Hold
	FailReason string    `json:"failed"`    // why the volume is read-only, if it is

	DataChecksums bool  `json:"data_checksums"` // blocks have checksums
	Damaged       int64 `json:"damaged"`        // how often a block that was read did not match its checksum
}

// Info returns the state of the volume.
func (v *Volume) Info() Info {
	i := Info{UUID: v.id.uuid, Generation: v.id.generation, Size: v.size.Load(), DataChecksums: v.sums != nil}
	if v.sums != nil {
		i.Damaged = v.sums.damaged.Load()
	}
	if err := v.FailReason(); err != nil {
		i.FailReason = err.Error()
	}
	s := &v.space
	s.mu.Lock()
	defer s.mu.Unlock()
	i.Total, i.Free, i.Busy, i.Ahead, i.Orphaned = s.total, s.free.bytes(), s.busyLen, s.aheadN, s.orphans.bytes
	i.Shared, i.Away = s.refs.bytes, s.away.bytes
	i.FreeRuns, i.Holds = s.free.bySize.Len(), len(s.held.byID)
	return i
}

// UUID names the volume.
func (v *Volume) UUID() uuid.UUID { return v.id.uuid }

// FailReason returns why the volume has stopped writing, or nil.
func (v *Volume) FailReason() error {
	if p := v.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail stops all writing for good and returns err. What the host still holds
// after a failed write is unknown; trying again would hide that.
func (v *Volume) fail(err error) error {
	if v.failed.CompareAndSwap(nil, &err) {
		v.log.Error("volume is read-only from now on", "volume", v.id.uuid, "err", err)
	}
	return err
}

// writable returns ErrReadOnly once the volume has failed.
func (v *Volume) writable() error {
	if err := v.FailReason(); err != nil {
		// The reason's own errno must not hide EROFS.
		return fmt.Errorf("%w (%v)", ErrReadOnly, err)
	}
	return nil
}

func (v *Volume) batch() *batch { return &batch{store.Batch{Term: v.term}} }

// apply gives b to the store and returns its number in the order of durability.
func (v *Volume) apply(b *batch) (uint64, error) {
	if err := v.writable(); err != nil {
		return 0, err
	}
	if err := v.st.Apply(b); err != nil {
		if errors.Is(err, store.ErrFailed) || errors.Is(err, store.ErrFenced) {
			v.fail(err)
		}
		return 0, err
	}
	return v.applied.Add(1), nil
}

// write writes p to the device.
func (v *Volume) write(p []byte, addr int64) error {
	if _, err := v.dev.WriteAt(p, addr); err != nil {
		return v.fail(err)
	}
	return nil
}

// flush makes durable what was written to the device.
func (v *Volume) flush() error {
	if err := v.writable(); err != nil {
		return err
	}
	if err := v.dev.Sync(); err != nil {
		return v.fail(err)
	}
	return nil
}

// SyncStore makes the namespace durable: all transactions that were committed
// before it was called.
func (v *Volume) SyncStore(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return v.syncStore()
}
