package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"holdfast/internal/group"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// formatVersion is Pebble's own format on disk. It is fixed here, so that an
	// update of the library does not silently make volumes unreadable for the
	// release before.
	formatVersion = pebble.FormatTableFormatV6
	cacheSize     = 64 << 20
	memTableSize  = 16 << 20
)

// termKey holds the term. It begins with a zero byte; keys of callers must not.
var termKey = []byte("\x00term")

// Options say how to open a store. The zero value is ready.
type Options struct {
	// FS is where the files lie; nil means the host's filesystem.
	FS vfs.FS
	// Log gets what an operator should know; nil means nothing is logged.
	Log *slog.Logger
	// Verify, if set, sees the content before anything in the store is altered.
	// Its error refuses the store.
	Verify func(Reader) error
	// ReadOnly opens without altering anything. Apply, Fence and Sync fail.
	ReadOnly bool
	// CacheSize and MemTableSize are Pebble's use of memory in bytes; 0 means what
	// suits a volume.
	CacheSize, MemTableSize int64
}

// Pebble is a Store in a directory.
type Pebble struct {
	db       *pebble.DB
	lock     *pebble.Lock
	log      *slog.Logger
	readOnly bool

	failed  atomic.Pointer[error] // the first failure; set once
	broken  chan struct{}         // closed by the first failure
	sync    group.Group
	stall   *throttle
	running atomic.Bool   // from the end of Open
	closing chan struct{} // closed by Close
	closed  sync.Once

	applyMu sync.Mutex // held from the compares of a batch until it is visible
	term    uint64     // guarded by applyMu
}

var _ Store = (*Pebble)(nil)

// Create makes a store in dir, which may exist if it holds no store.
func Create(dir string, o Options) (*Pebble, error) {
	fsys := o.fs()
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	parent, err := fsys.OpenDir(fsys.PathDir(dir))
	if err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	s, err := open(dir, o, true)
	if err != nil {
		return nil, err
	}
	// The log of a store that Pebble has just made is of an older format, which does
	// not say what was synced. The next one is not.
	if err := s.Fence(0); err != nil {
		return nil, errors.Join(fmt.Errorf("create store: %w", err), s.Close())
	}
	s.emptyLog()
	if err := s.failure(); err != nil {
		return nil, errors.Join(fmt.Errorf("create store: %w", err), s.Close())
	}
	return s, nil
}

// Open opens the store in dir. It returns ErrNotExist if there is none, and
// ErrInUse while another process has it open.
func Open(dir string, o Options) (*Pebble, error) { return open(dir, o, false) }

func (o *Options) fs() vfs.FS {
	if o.FS == nil {
		return vfs.Default
	}
	return o.FS
}

func open(dir string, o Options, create bool) (*Pebble, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	lock, err := lockDir(dir, o.fs())
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Pebble{lock: lock, log: o.Log, readOnly: o.ReadOnly, stall: newThrottle(),
		broken: make(chan struct{}), closing: make(chan struct{})}
	if err := s.start(dir, o, create); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), lock.Close())
	}
	s.running.Store(true)
	return s, nil
}

func lockDir(dir string, fsys vfs.FS) (*pebble.Lock, error) {
	if _, err := fsys.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	lock, err := pebble.LockDirectory(dir, fsys)
	if err == nil {
		return lock, nil
	}
	// A second open in this process is refused by Pebble with an error that has no
	// number, by another process with EAGAIN.
	var errno syscall.Errno
	if !errors.As(err, &errno) || errno == syscall.EAGAIN {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return nil, err
}

func (s *Pebble) start(dir string, o Options, create bool) error {
	if err := errors.Join(checkManifest(dir, o.fs()), checkLogs(dir, o.fs())); err != nil {
		return err
	}
	if o.Verify != nil {
		if err := s.verify(dir, o); err != nil {
			return err
		}
	}
	opts := s.options(o, o.ReadOnly)
	opts.ErrorIfExists, opts.ErrorIfNotExists = create, !create
	if err := s.openDB(dir, opts); err != nil {
		return err
	}
	term, err := s.Get(termKey)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return errors.Join(err, s.db.Close())
	case len(term) != 8:
		return errors.Join(fmt.Errorf("term record of %d bytes", len(term)), s.db.Close())
	}
	s.term = binary.BigEndian.Uint64(term)
	return nil
}

// verify opens the store without altering it, since opening Pebble for writing
// already replays its log into new files.
func (s *Pebble) verify(dir string, o Options) error {
	if err := s.openDB(dir, s.options(o, true)); err != nil {
		return err
	}
	return errors.Join(o.Verify(s), s.db.Close())
}

func (s *Pebble) openDB(dir string, opts *pebble.Options) error {
	defer opts.Cache.Unref()
	db, err := pebble.Open(dir, opts)
	if errors.Is(err, pebble.ErrDBDoesNotExist) {
		return fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	if err == nil {
		// A failure that Pebble meets while it opens is reported to the logger only.
		if err = s.failure(); err == nil {
			s.db = db
			return nil
		}
		err = errors.Join(err, db.Close())
	}
	return err
}

func (s *Pebble) options(o Options, readOnly bool) *pebble.Options {
	opts := &pebble.Options{
		FS:                 &guardFS{FS: o.fs(), s: s},
		Lock:               s.lock,
		ReadOnly:           readOnly,
		FormatMajorVersion: formatVersion,
		Cache:              pebble.NewCache(cmp.Or(o.CacheSize, cacheSize)),
		MemTableSize:       uint64(cmp.Or(o.MemTableSize, memTableSize)),
		Logger:             logger{s},

		MemTableStopWritesThreshold: stopWrites,
		L0StopWritesThreshold:       stopLevel0,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { s.fail(err) },
			// Each new log belongs to a new table, and puts the one before into the queue.
			WALCreated: func(pebble.WALCreateInfo) { s.stall.add(1) },
			FlushEnd: func(i pebble.FlushInfo) {
				if i.Err == nil {
					s.stall.add(-i.Input)
				}
			},
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				s.fail(fmt.Errorf("corruption: %w", i.Details))
			},
		},
	}
	for i := range opts.Levels {
		// A name that is not there, as that of each new file, is not looked for on disk.
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return opts
}

// Get implements Reader.
func (s *Pebble) Get(key []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil, ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("read store: %w: %w", syscall.EIO, err)
	}
	v = bytes.Clone(v)
	if v == nil {
		v = []byte{}
	}
	return v, closer.Close()
}

// Scan implements Reader.
func (s *Pebble) Scan(lower, upper []byte, fn func(k, v []byte) (bool, error)) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("scan store: %w: %w", syscall.EIO, err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		more, err := fn(it.Key(), it.Value())
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if !more {
			break
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return fmt.Errorf("scan store: %w: %w", syscall.EIO, err)
	}
	return nil
}

// Apply implements Store.
func (s *Pebble) Apply(b *Batch) error {
	if b.Ops() > MaxOps || b.Bytes() > MaxBytes {
		return fmt.Errorf("%d operations, %d bytes: %w", b.Ops(), b.Bytes(), ErrTooLarge)
	}
	pb := s.db.NewBatch()
	defer pb.Close()
	for _, o := range b.ops {
		var err error
		if o.present {
			err = pb.Set(o.key, o.value, nil)
		} else {
			err = pb.Delete(o.key, nil)
		}
		if err != nil {
			return fmt.Errorf("build batch: %w", err)
		}
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.stall.wait()
	if err := s.writable(); err != nil {
		return err
	}
	if b.Term < s.term {
		return fmt.Errorf("term %d, store is at %d: %w", b.Term, s.term, ErrFenced)
	}
	if err := s.check(b.compares); err != nil {
		return err
	}
	return s.settle(pb.Commit(pebble.NoSync))
}

// check needs applyMu.
func (s *Pebble) check(compares []op) error {
	for _, c := range compares {
		v, err := s.Get(c.key)
		switch {
		case errors.Is(err, ErrNotFound) && !c.present:
		case errors.Is(err, ErrNotFound), err == nil && (!c.present || !bytes.Equal(v, c.value)):
			return fmt.Errorf("key %q: %w", c.key, ErrConflict)
		case err != nil:
			return err
		}
	}
	return nil
}

// Sync implements Store.
func (s *Pebble) Sync() error {
	return s.sync.Do(func() error {
		if err := s.writable(); err != nil {
			return err
		}
		// The log is written in order, so the sync of an empty record covers all before.
		return s.settle(s.db.LogData(nil, pebble.Sync))
	})
}

// Fence implements Store.
func (s *Pebble) Fence(term uint64) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	if term < s.term {
		return fmt.Errorf("fence term %d, store is at %d: %w", term, s.term, ErrFenced)
	}
	v := binary.BigEndian.AppendUint64(nil, term)
	if err := s.settle(s.db.Set(termKey, v, pebble.Sync)); err != nil {
		return err
	}
	s.term = term
	return nil
}

// Close implements Store.
func (s *Pebble) Close() error {
	var err error
	s.closed.Do(func() {
		s.emptyLog()
		close(s.closing)
		err = errors.Join(s.db.Close(), s.lock.Close())
		if s.failure() != nil {
			// What Pebble says about closing what has failed is no news.
			err = nil
		}
	})
	return err
}

// emptyLog brings what is in the log into tables: for the last bytes of a log nothing
// vouches. If it fails, the log is still there.
func (s *Pebble) emptyLog() {
	if s.writable() != nil {
		return
	}
	done, err := s.db.AsyncFlush()
	if err != nil {
		s.fail(err)
		return
	}
	select {
	case <-done:
	case <-s.broken: // then it may wait for Close
	}
}

func (s *Pebble) writable() error {
	if s.readOnly {
		return fmt.Errorf("store is open read-only: %w", syscall.EROFS)
	}
	return s.failure()
}

func (s *Pebble) failure() error {
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes the store refuse all further writes.
func (s *Pebble) fail(err error) {
	err = fmt.Errorf("%w: %w", ErrFailed, err)
	if s.failed.CompareAndSwap(nil, &err) {
		close(s.broken)
		s.stall.end()
		s.log.Error("metadata store failed", "err", err)
	}
}

// park keeps work of Pebble's that cannot succeed any more until Close.
func (s *Pebble) park() { <-s.closing }

// settle is the result of a write to Pebble, which reports the gravest errors to
// its logger and returns nil.
func (s *Pebble) settle(err error) error {
	if err != nil {
		s.fail(err)
	}
	return s.failure()
}

// logger passes on what Pebble says.
type logger struct{ s *Pebble }

// Infof drops Pebble's account of its daily work.
func (l logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.s.log.Warn("metadata store", "msg", fmt.Sprintf(format, args...))
}

// Fatalf does not end the process, as Pebble would: other users of the volume
// can still read. guardFS makes sure that Pebble alters no file any more, since
// it goes on after Fatalf in a state that its authors did not intend.
func (l logger) Fatalf(format string, args ...any) { l.s.fail(fmt.Errorf(format, args...)) }
