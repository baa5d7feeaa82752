package fs

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"holdfast/extent"
	"holdfast/volume"
)

// inode is a file in the cache. There is at most one of a number.
type inode struct {
	ino extent.Ino

	// refs counts operations under way, opens, and the arbiter's Gets; lookups is what
	// the kernel has. The file stays in the cache while there is any.
	refs    int    // guarded by shard.mu
	lookups uint64 // guarded by shard.mu
	dying   bool   // guarded by shard.mu: nobody gets it any more

	loadOnce sync.Once
	loadErr  error // set by loadOnce

	winMu   sync.Mutex // held while the inode's windows change; see the package comment
	users   users      // guarded by winMu
	exposed exposed    // guarded by winMu

	mu      sync.RWMutex
	n       *volume.Inode // guarded by mu, set by loadOnce
	windows []*mapping    // guarded by mu; altered with winMu held as well
	former  *former       // guarded by mu; set once, with winMu held as well
	opens   int           // guarded by mu
	grown   bool          // guarded by mu: blocks were taken ahead since it was opened
	noCaps  bool          // guarded by mu: it is known to have no capabilities
	version uint64        // guarded by mu: other after each change of its names

	policies Policies // guarded by mu

	linkable bool // guarded by mu: made without a name, and may get one

	// Times that a reader or an overwriter, who hold mu only shared, left for
	// whoever holds it exclusively to put into the attributes. 0: none.
	readAt  atomic.Int64
	wroteAt atomic.Int64

	dirty atomic.Bool // it is in FS.dirty
	hint  atomic.Pointer[hint]
}

// shard is a part of the inode cache.
type shard struct {
	mu     sync.Mutex
	inodes map[extent.Ino]*inode // guarded by mu
}

const shardCount = 64

func (f *FS) shard(ino extent.Ino) *shard { return &f.shards[ino%shardCount] }

// errGone is what a file number leads to whose file was deleted.
func errGone(ino extent.Ino) error {
	return fmt.Errorf("inode %d: deleted: %w", ino, syscall.ESTALE)
}

// get returns the inode with a reference that the caller puts. ESTALE means that
// there is no such file.
func (f *FS) get(ino extent.Ino) (*inode, error) {
	s := f.shard(ino)
	s.mu.Lock()
	i := s.inodes[ino]
	if i == nil {
		i = &inode{ino: ino}
		s.inodes[ino] = i
		f.known.Add(1)
	} else if i.dying {
		s.mu.Unlock()
		return nil, errGone(ino)
	}
	i.refs++
	s.mu.Unlock()
	i.loadOnce.Do(func() { i.load(f.vol) })
	if i.loadErr != nil {
		f.put(i)
		return nil, i.loadErr
	}
	return i, nil
}

func (i *inode) load(v *volume.Volume) {
	n, err := v.Load(i.ino)
	switch {
	case err != nil:
		i.loadErr = err
	case n.Attr.Nlink == 0:
		i.loadErr = errGone(i.ino)
	default:
		i.n = n
		i.loadErr = i.loadPolicies(v)
	}
}

// adopt puts a new inode, which nobody else knows yet, into the cache with one reference.
func (f *FS) adopt(n *volume.Inode) *inode {
	i := &inode{ino: n.Ino, n: n, refs: 1}
	i.loadOnce.Do(func() {})
	s := f.shard(n.Ino)
	s.mu.Lock()
	s.inodes[n.Ino] = i
	f.known.Add(1)
	s.mu.Unlock()
	return i
}

// retain takes another reference to an inode that the caller has one of.
func (f *FS) retain(i *inode) {
	s := f.shard(i.ino)
	s.mu.Lock()
	i.refs++
	s.mu.Unlock()
}

// lookedUp counts a lookup of the kernel; the caller has a reference.
func (f *FS) lookedUp(i *inode) {
	s := f.shard(i.ino)
	s.mu.Lock()
	i.lookups++
	s.mu.Unlock()
}

// put gives a reference back. The last one of an unlinked file deletes it, so no
// lock may be held.
func (f *FS) put(i *inode) { f.drop(i, 1, 0) }

// Forget takes back n of the lookups that the kernel was given.
func (f *FS) Forget(ino extent.Ino, n uint64) {
	if i := f.cached(ino); i != nil {
		f.drop(i, 0, n)
	}
}

func (f *FS) drop(i *inode, refs int, lookups uint64) {
	s := f.shard(i.ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	i.refs -= refs
	i.lookups -= min(lookups, i.lookups)
	if i.refs > 0 || i.lookups > 0 || i.dying {
		return
	}
	// Nobody has it, so nobody alters it: what mu guards can be read.
	if i.loadErr == nil && i.n != nil && i.n.Attr.Nlink == 0 {
		i.dying = true
		s.mu.Unlock()
		f.delete(i)
		s.mu.Lock()
	} else if i.dirty.Load() {
		return // the flusher's
	}
	if s.inodes[i.ino] == i {
		delete(s.inodes, i.ino)
		f.known.Add(-1)
	}
}

// Known returns how many files there are in memory: those that the kernel knows, that
// are in use, or that wait to be flushed.
func (f *FS) Known() int64 { return f.known.Load() }

// Idle returns the numbers of up to n files that nobody uses, and that are in memory
// because the kernel knows them.
func (f *FS) Idle(n int) []uint64 {
	var out []uint64
	for k := range f.shards {
		s := &f.shards[k]
		s.mu.Lock()
		left := (n - len(out) + shardCount - 1 - k) / (shardCount - k) // about as many of each
		for _, i := range s.inodes {
			if left == 0 {
				break
			}
			if i.refs == 0 && i.lookups > 0 && !i.dying {
				out = append(out, uint64(i.ino))
				left--
			}
		}
		s.mu.Unlock()
	}
	return out
}

// delete frees all that an unlinked file has. If that fails, the next start of
// the volume does it.
func (f *FS) delete(i *inode) {
	f.dirtyMu.Lock()
	delete(f.dirty, i)
	f.dirtyMu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := f.vol.Delete(i.n); err != nil {
		f.log.Error("delete of an unlinked file failed; it is finished at the next start", "inode", i.ino, "err", err)
	}
}

// lockAll locks the inodes exclusively in the order of their numbers, each once
// even if named twice, leaving out nil.
func lockAll(inodes ...*inode) (unlock func()) {
	slices.SortFunc(inodes, func(a, b *inode) int {
		switch {
		case a == b:
			return 0
		case a == nil || b != nil && a.ino < b.ino:
			return -1
		}
		return 1
	})
	inodes = slices.Compact(inodes)
	if len(inodes) > 0 && inodes[0] == nil {
		inodes = inodes[1:]
	}
	for _, i := range inodes {
		i.lock()
	}
	return func() {
		for _, i := range slices.Backward(inodes) {
			i.mu.Unlock()
		}
	}
}

// lock takes mu exclusively and brings the attributes up to date.
func (i *inode) lock() {
	i.mu.Lock()
	i.n.Attr = i.attr()
	i.readAt.Store(0)
	i.wroteAt.Store(0)
}

// attr returns the attributes with the times that were left beside them. It
// needs mu, shared suffices.
func (i *inode) attr() volume.Attr {
	a := i.n.Attr
	if t := i.wroteAt.Load(); t != 0 {
		a.Mtime, a.Ctime = t, t
	}
	if t := i.readAt.Load(); t != 0 {
		a.Atime = t
	}
	return a
}

// changed notes that the inode has something to flush. It comes after the change.
func (f *FS) changed(i *inode) {
	if i.dirty.Load() {
		return
	}
	f.dirtyMu.Lock()
	i.dirty.Store(true)
	f.dirty[i] = struct{}{}
	f.dirtyMu.Unlock()
}
