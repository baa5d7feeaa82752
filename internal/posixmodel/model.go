package posixmodel

import (
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Rules are what may differ between systems.
type Rules struct {
	MaxSize int64 // of a file; beyond it is EFBIG
	Zero    bool  // FALLOC_FL_ZERO_RANGE is there
	Blocks  bool  // blocks that were never written are a hole for SEEK_DATA, and st_blocks is exact
	Times   bool  // times are compared
	Umask   uint32
}

// Moment is when a batch of operations was done on the real side. It is filled in after the
// model has done them.
type Moment struct{ From, To time.Time }

// stamp is a time in an attribute: given by a caller, of a moment, or unknown.
type stamp struct {
	given int64
	at    *Moment
	known bool
}

// Model is the filesystem.
type Model struct {
	rules  Rules
	root   *node
	procs  []*proc
	now    *Moment
	nextID int
	inos   map[uint64]*node // what the real side calls them; numbers are never used again
	leases map[int]*lease
	seen   []*node // by the operation under way
}

type proc struct{ slots [Slots]*file }

// file is an open file.
type file struct {
	n     *node
	flags int
	pos   int64
}

func (f *file) readable() bool { return f.flags&syscall.O_ACCMODE != syscall.O_WRONLY }
func (f *file) writable() bool { return f.flags&syscall.O_ACCMODE != syscall.O_RDONLY }

// node is an inode.
type node struct {
	id        int
	ino       uint64 // on the real side, once it was seen
	mode      uint32
	uid, gid  uint32
	nlink     int
	size      int64
	blocks    map[int64]*block
	target    string
	children  map[string]*node
	parent    *node
	xattrs    map[string]string
	opens     int
	linkable  bool // made by O_TMPFILE
	mtime     stamp
	ctime     stamp
	atime     stamp
	leases    []*lease
	stale     bool // the size was changed by another way than system calls, and nobody has asked for it since
	blocksOff bool // how many blocks it has is not determined
}

func (n *node) dir() bool     { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }
func (n *node) regular() bool { return n.mode&syscall.S_IFMT == syscall.S_IFREG }
func (n *node) symlink() bool { return n.mode&syscall.S_IFMT == syscall.S_IFLNK }

// below reports whether n is o or lies below it.
func (n *node) below(o *node) bool {
	for ; n != nil; n = n.parent {
		if n == o {
			return true
		}
	}
	return false
}

// New returns an empty filesystem whose root directory has the mode.
func New(rules Rules, procs int, mode uint32) *Model {
	m := &Model{rules: rules, inos: map[uint64]*node{}, leases: map[int]*lease{}, now: &Moment{}}
	for range procs {
		m.procs = append(m.procs, &proc{})
	}
	m.root = m.newNode(nil, syscall.S_IFDIR|mode)
	m.root.nlink = 2
	return m
}

// Begin begins a batch; the moment is the caller's to fill in.
func (m *Model) Begin() *Moment {
	m.now = &Moment{}
	return m.now
}

func (m *Model) stamp() stamp { return stamp{at: m.now, known: true} }

func (m *Model) newNode(parent *node, mode uint32) *node {
	m.nextID++
	n := &node{id: m.nextID, mode: mode, nlink: 1, xattrs: map[string]string{}, parent: parent}
	n.mtime, n.ctime, n.atime = m.stamp(), m.stamp(), stamp{}
	if parent != nil && parent.mode&syscall.S_ISGID != 0 {
		n.gid = parent.gid
		if n.dir() {
			n.mode |= syscall.S_ISGID
		}
	}
	switch {
	case n.dir():
		n.children, n.nlink = map[string]*node{}, 2
	case n.regular():
		n.blocks = map[int64]*block{}
	}
	m.saw(n)
	return n
}

// saw notes that the operation concerns a file.
func (m *Model) saw(n *node) {
	if n != nil && !slices.Contains(m.seen, n) {
		m.seen = append(m.seen, n)
	}
}

// touch sets mtime and ctime.
func (m *Model) touch(n *node) { n.mtime, n.ctime = m.stamp(), m.stamp() }

// spot is where a path leads: a name in a directory, and what has it.
type spot struct {
	dir  *node
	name string
	n    *node // nil: nothing has the name
}

const (
	maxLinks = 40
	nameMax  = 255
)

// resolve follows a path. follow says what happens to a symbolic link at its end.
func (m *Model) resolve(op Op, path string, follow bool) (spot, syscall.Errno) {
	s, errno := m.parent(op, path, follow)
	if errno == 0 {
		errno = s.tooLong()
	}
	return s, errno
}

// parent is resolve that does not mind how long the last name is.
func (m *Model) parent(op Op, path string, follow bool) (spot, syscall.Errno) {
	start := m.root
	if op.Dir > 0 {
		f := m.procs[op.Proc].slots[op.Dir-1]
		if f == nil {
			return spot{}, syscall.EBADF
		}
		start = f.n
		if !start.dir() {
			return spot{}, syscall.ENOTDIR
		}
	}
	links := 0
	s, errno := m.walk(start, path, follow, &links)
	m.saw(s.n)
	return s, errno
}

// tooLong is an error of the last name of a path, where it is looked up.
func (s spot) tooLong() syscall.Errno {
	if len(s.name) > nameMax {
		return syscall.ENAMETOOLONG
	}
	return 0
}

func (m *Model) walk(dir *node, path string, follow bool, links *int) (spot, syscall.Errno) {
	if path == "" {
		return spot{}, syscall.ENOENT
	}
	parts := strings.Split(path, "/")
	for k, name := range parts {
		last := k == len(parts)-1
		if !dir.dir() {
			return spot{}, syscall.ENOTDIR
		}
		if len(name) > nameMax && !last {
			return spot{}, syscall.ENAMETOOLONG
		}
		n := dir.children[name]
		if n != nil && n.symlink() && (!last || follow) {
			if *links++; *links > maxLinks {
				return spot{}, syscall.ELOOP
			}
			s, errno := m.walk(dir, n.target, true, links)
			if errno == 0 {
				errno = s.tooLong()
			}
			if errno != 0 || last {
				return s, errno
			}
			n = s.n
		}
		if last {
			return spot{dir, name, n}, 0
		}
		if n == nil {
			return spot{}, syscall.ENOENT
		}
		dir = n
	}
	return spot{}, syscall.ENOENT
}

// find resolves a path that must lead to something.
func (m *Model) find(op Op, follow bool) (*node, syscall.Errno) {
	s, errno := m.resolve(op, op.Path, follow)
	if errno == 0 && s.n == nil {
		errno = syscall.ENOENT
	}
	return s.n, errno
}

// fd returns the open file of a slot.
func (m *Model) fd(op Op, slot int) (*file, syscall.Errno) {
	f := m.procs[op.Proc].slots[slot]
	if f == nil {
		return nil, syscall.EBADF
	}
	m.saw(f.n)
	return f, 0
}

// closeSlot closes a descriptor, if it is open.
func (m *Model) closeSlot(p, slot int) {
	f := m.procs[p].slots[slot]
	if f == nil {
		return
	}
	m.procs[p].slots[slot] = nil
	f.n.opens--
}

// Restart is what a stop of the system does: descriptors and leases end. Others may have read
// directories around it.
func (m *Model) Restart() {
	m.forgetReads(m.root)
	for p := range m.procs {
		for slot := range Slots {
			m.closeSlot(p, slot)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.leases)) {
		m.endLease(m.leases[id])
	}
}

// Do does an operation and returns what the real side must answer.
func (m *Model) Do(op Op) Want {
	m.seen = m.seen[:0]
	w := Want{m: m, op: op}
	w.Result = m.do(op, &w)
	for _, n := range m.seen {
		w.Files = append(w.Files, n.id)
	}
	return w
}

func (m *Model) do(op Op, w *Want) Result {
	switch op.Kind {
	case Open:
		return m.open(op)
	case Tmpfile:
		return m.tmpfile(op)
	case Mkdir:
		return m.mkdir(op)
	case Rmdir, Unlink:
		return m.remove(op)
	case Rename:
		return fail(m.rename(op))
	case Link:
		return m.link(op)
	case LinkFD:
		return m.linkFD(op)
	case Symlink:
		return m.newSymlink(op)
	case Readlink:
		return m.readlink(op)
	case Lstat, Stat, Fstat:
		return m.stat(op, w)
	case Chmod, Chown, Utimens:
		return m.setattr(op)
	case Setxattr, Getxattr, Removexattr, Listxattr:
		return m.xattr(op)
	case Lease, LeaseDrop, LeaseLoad, LeaseStore, LeaseCommit, APITruncate, APIPunch, APIReshape:
		return m.leaseOp(op)
	case Truncate:
		return m.truncatePath(op)
	case Statfs:
		w.loose = true // others use space, too
	default:
		return m.fileOp(op, w)
	}
	return Result{}
}

// fileOp does what goes by a descriptor.
func (m *Model) fileOp(op Op, w *Want) Result {
	if op.Kind == Ftruncate && op.Len < 0 {
		return fail(syscall.EINVAL)
	}
	f, errno := m.fd(op, op.FD)
	if errno != 0 {
		return fail(errno)
	}
	switch op.Kind {
	case Close:
		m.closeSlot(op.Proc, op.FD)
		return Result{}
	case Read, Pread:
		return m.read(f, op)
	case Write, Pwrite:
		return m.write(f, op)
	case Ftruncate:
		if !f.writable() || !f.n.regular() {
			return fail(syscall.EINVAL)
		}
		return fail(m.setSize(op, f.n, op.Len))
	case Fallocate:
		return fail(m.fallocate(f, op))
	case Lseek:
		return m.lseek(f, op, w)
	case Fsync, Fdatasync:
		return Result{}
	case CopyRange:
		return m.copyRange(f, op)
	case MmapLoad, MmapStore:
		return m.mmap(f, op)
	case Getdents:
		return m.getdents(f)
	}
	return fail(unix.ENOSYS)
}

// forgetReads forgets the times of access of directories.
func (m *Model) forgetReads(d *node) {
	d.atime.known = false
	for _, n := range d.children {
		if n.dir() {
			m.forgetReads(n)
		}
	}
}

func fail(errno syscall.Errno) Result { return Result{Errno: errno} }
