package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
)

// Caller is on whose behalf an operation is done.
type Caller = arbiter.Caller

// Options set up a FS. The zero value is usable.
type Options struct {
	// FlushEvery is how long a change may stay in memory only; 0 means 5 s.
	FlushEvery time.Duration
	// Ticks replaces the ticker of FlushEvery: each value is one flush.
	Ticks <-chan time.Time
	// MaxWindowBytes limits the memory of all windows; 0 means a quarter of the machine's.
	MaxWindowBytes int64
	// Boot names this boot of the machine. It is recorded with what is exposed.
	Boot string
	// OnSpace asks those who have the holds to let go of what they keep for nobody: there is
	// no space. It must not block. nil means that nobody is asked.
	OnSpace func(holds []uint64)
	// SpaceWait bounds how long an operation then waits before it is ENOSPC; 0 means 1 s.
	SpaceWait time.Duration
	// Now is the clock of timestamps; nil means time.Now.
	Now func() time.Time
	// OnClose and OnPass are the policies of the volume.
	OnClose layout.OnClose
	OnPass  layout.OnPass
	// Log gets what an operator should know; nil means nothing is logged.
	Log *slog.Logger
}

func (o *Options) setDefaults() error {
	if o.FlushEvery == 0 {
		o.FlushEvery = 5 * time.Second
	}
	if o.MaxWindowBytes == 0 {
		var si unix.Sysinfo_t
		if err := unix.Sysinfo(&si); err != nil {
			return fmt.Errorf("size of memory: %w", err)
		}
		o.MaxWindowBytes = int64(si.Totalram) * int64(si.Unit) / 4
	}
	if o.SpaceWait == 0 {
		o.SpaceWait = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// FS is the filesystem of one volume. Its methods may be called concurrently.
type FS struct {
	vol  *volume.Volume
	arb  *arbiter.Arbiter
	log  *slog.Logger
	boot string
	now  func() time.Time
	root *inode

	renameMu sync.Mutex
	shards   [shardCount]shard
	known    atomic.Int64 // inodes in the shards

	dirtyMu sync.Mutex
	dirty   map[*inode]struct{} // guarded by dirtyMu

	orphans   orphans
	onSpace   func(holds []uint64)
	spaceWait time.Duration

	windowBytes atomic.Int64 // of all windows that have memory
	windowLimit int64

	onClose layout.OnClose
	onPass  layout.OnPass

	invalidate atomic.Pointer[func(extent.Ino)]
	dropCache  atomic.Pointer[func(extent.Ino)]

	stop    context.CancelFunc // ends the flusher
	stopped chan struct{}      // closed by the flusher
	closed  sync.Once
}

// New starts a filesystem on v and attaches it to a as its storage. It uses both
// until Close, and owns neither.
func New(v *volume.Volume, a *arbiter.Arbiter, o Options) (*FS, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	f := &FS{
		vol: v, arb: a, log: o.Log, boot: o.Boot, now: o.Now, windowLimit: o.MaxWindowBytes, onClose: o.OnClose, onPass: o.OnPass,
		onSpace: o.OnSpace, spaceWait: o.SpaceWait,
		dirty:   make(map[*inode]struct{}),
		stopped: make(chan struct{}),
	}
	for i := range f.shards {
		f.shards[i].inodes = make(map[extent.Ino]*inode)
	}
	root, err := f.get(extent.RootIno) // kept until Close
	if err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	root.hint.Store(&hint{name: "/"})
	f.root = root
	a.Attach((*storage)(f))
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	go f.flusher(ctx, o)
	return f, nil
}

// Close ends the flusher, writes all windows back, detaches them and makes
// everything durable. No other method may be running.
func (f *FS) Close(ctx context.Context) (err error) {
	f.closed.Do(func() {
		f.stop()
		<-f.stopped
		err = errors.Join(f.closeWindows(ctx), f.Sync(ctx))
		f.dropOrphans()
		f.put(f.root)
	})
	return err
}

// Grow makes the volume larger, see volume.Grow, and returns its size. It may be
// called while files are in use.
func (f *FS) Grow(ctx context.Context, size int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := f.vol.Grow(size); err != nil {
		return 0, err
	}
	return f.vol.Info().Size, nil
}

// OnInvalidate sets the function that is called, with no lock held, when
// attributes or content of a file changed by another way than the mount.
func (f *FS) OnInvalidate(fn func(extent.Ino)) { f.invalidate.Store(&fn) }

func (f *FS) invalidated(ino extent.Ino) {
	if fn := f.invalidate.Load(); fn != nil {
		(*fn)(ino)
	}
}

// OnDrop sets the function that is called, with no lock held, before and after a file
// is changed by another way than the mount. It is to wait until all that the kernel has
// of the file is gone, and to bring here first what programs have stored through
// mappings: written back later, it would undo the change.
func (f *FS) OnDrop(fn func(extent.Ino)) { f.dropCache.Store(&fn) }

func (f *FS) dropped(ino extent.Ino) {
	if fn := f.dropCache.Load(); fn != nil {
		(*fn)(ino)
	}
}

// Statfs says how full the volume is: in blocks, and in files of all kinds.
type Statfs struct {
	BlockSize int64
	Blocks    int64
	Free      int64
	Files     int64 // those there are and FreeFiles
	FreeFiles int64
}

// Statfs says how full the volume is. There is no table of inodes that could be
// full; as a file that holds anything has a block, there is room for as many more
// files as there are free blocks, which is how XFS counts, too.
func (f *FS) Statfs(context.Context) (Statfs, error) {
	s := f.vol.Statfs()
	total, free := s.Total/extent.BlockSize, s.Free/extent.BlockSize
	return Statfs{BlockSize: extent.BlockSize, Blocks: total, Free: free, Files: s.Files + free, FreeFiles: free}, nil
}
