package posixmodel

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Gen makes operations from a seed.
type Gen struct {
	r      *rand.Rand
	m      *Model
	seq    int
	leases bool // make those of Holdfast, too
	table  []Kind
}

// weights say how often each kind comes.
var weights = []struct {
	kind   Kind
	n      int
	leases bool
}{
	{Open, 110, false}, {Tmpfile, 8, false}, {Close, 40, false}, {Read, 30, false}, {Pread, 60, false}, {Write, 50, false},
	{Pwrite, 100, false}, {Ftruncate, 25, false}, {Truncate, 25, false}, {Fallocate, 60, false}, {Lseek, 70, false},
	{Fsync, 3, false}, {Fdatasync, 2, false}, {Fstat, 30, false}, {CopyRange, 30, false}, {MmapLoad, 10, false},
	{MmapStore, 12, false}, {Getdents, 20, false}, {Lstat, 40, false}, {Stat, 40, false}, {Mkdir, 35, false}, {Rmdir, 20, false},
	{Unlink, 30, false}, {Rename, 60, false}, {Link, 25, false}, {LinkFD, 15, false}, {Symlink, 12, false}, {Readlink, 8, false},
	{Chmod, 12, false}, {Chown, 10, false}, {Utimens, 12, false}, {Setxattr, 20, false}, {Getxattr, 15, false},
	{Removexattr, 10, false}, {Listxattr, 8, false}, {Statfs, 2, false},
	{Lease, 16, true}, {LeaseDrop, 8, true}, {LeaseLoad, 15, true}, {LeaseStore, 15, true}, {LeaseCommit, 4, true},
	{APITruncate, 8, true}, {APIPunch, 8, true}, {APIReshape, 16, true},
}

// NewGen returns a generator of operations on m.
func NewGen(m *Model, seed uint64, leases bool) *Gen {
	g := &Gen{r: rand.New(rand.NewPCG(seed, 0x706f736978)), m: m, leases: leases}
	for _, w := range weights {
		for range w.n {
			if !w.leases || leases {
				g.table = append(g.table, w.kind)
			}
		}
	}
	return g
}

// Number returns the next number for an operation.
func (g *Gen) Number() int {
	g.seq++
	return g.seq
}

// IntN returns a number in [0, n).
func (g *Gen) IntN(n int) int { return g.r.IntN(n) }

func (g *Gen) chance(percent int) bool { return g.r.IntN(100) < percent }

// Next returns the next operation of a process.
func (g *Gen) Next(proc int) Op {
	for {
		op := Op{Proc: proc, Kind: g.table[g.r.IntN(len(g.table))], FD: g.r.IntN(Slots)}
		g.fill(&op)
		if !g.fits(&op) {
			continue
		}
		op.Seq = g.Number()
		if op.Kind == Lease {
			op.Lease = op.Seq
		}
		return op
	}
}

func (g *Gen) fill(op *Op) {
	switch op.Kind {
	case Open, Tmpfile, Mkdir, Rmdir, Unlink, Rename, Link, LinkFD, Symlink, Readlink, Lstat, Stat, Chmod, Chown, Utimens, Truncate,
		Setxattr, Getxattr, Removexattr, Listxattr:
		g.names(op)
	case Statfs:
	case Lease, LeaseDrop, LeaseLoad, LeaseStore, LeaseCommit, APITruncate, APIPunch, APIReshape:
		g.lease(op)
	default:
		if g.chance(90) {
			op.FD = g.openSlot(op.Proc, op.FD)
		}
		g.data(op)
	}
}

func (g *Gen) names(op *Op) {
	if g.chance(6) {
		op.Dir = 1 + g.dirSlot(op.Proc)
	}
	op.Path = g.path()
	switch op.Kind {
	case Open:
		op.Flags = pick(g, unix.O_RDWR, unix.O_RDWR|unix.O_CREAT, unix.O_RDWR|unix.O_CREAT, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL,
			unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, unix.O_RDWR|unix.O_CREAT|unix.O_APPEND,
			unix.O_RDONLY, unix.O_RDONLY|unix.O_NOFOLLOW, unix.O_RDONLY|unix.O_DIRECTORY, unix.O_RDONLY|unix.O_DIRECTORY,
			unix.O_RDWR|unix.O_TRUNC, unix.O_WRONLY|unix.O_DSYNC)
		op.Mode = g.mode()
		if op.Flags&unix.O_DIRECTORY != 0 {
			op.Path = g.dirPath()
		}
	case Tmpfile:
		op.Path = g.dirPath()
		op.Flags, op.Mode = pick(g, unix.O_RDWR, unix.O_RDWR, unix.O_WRONLY, unix.O_RDWR|unix.O_EXCL), g.mode()
	case Mkdir, Chmod:
		op.Mode = g.mode()
		if op.Kind == Chmod {
			op.Mode |= pick[uint32](g, 0, 0, 0, unix.S_ISUID, unix.S_ISGID, unix.S_ISVTX)
		}
	case Rename, Link, LinkFD:
		op.Path2 = g.path()
		if op.Kind == Rename {
			op.Flags = pick(g, 0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE)
		}
		if op.Kind == LinkFD {
			op.Dir, op.Path, op.FD = 0, "", g.openSlot(op.Proc, op.FD)
		}
	case Symlink:
		op.Path2 = g.path()
		if g.chance(40) {
			op.Path2 = g.name()
		}
	case Chown:
		op.UID, op.GID = pick(g, Keep, 0, 1000), pick(g, Keep, 0, 1000)
	case Utimens:
		op.Atime, op.Mtime = g.time(), g.time()
		if op.Atime == Keep && op.Mtime == Keep {
			op.Atime = Now // else Linux does not even look for the file
		}
	case Truncate:
		if op.Len = g.size(); op.Len < 0 {
			op.Dir = 0 // the process would look at the path first
		}
	case Setxattr, Getxattr, Removexattr:
		op.Name = pick(g, "user.model1", "user.model2", "trusted.model1", "user.model3", "strange.model")
		if op.Kind == Setxattr {
			op.Len, op.Flags = int64(g.r.IntN(300)), pick(g, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
		}
	}
}

func (g *Gen) time() int64 { return pick(g, Keep, Now, g.r.Int64N(4e18), -g.r.Int64N(1e18)-10) }

func (g *Gen) mode() uint32 { return pick[uint32](g, 0o644, 0o600, 0o755, 0o777, 0o2755) }

func pick[T any](g *Gen, from ...T) T { return from[g.r.IntN(len(from))] }

func (g *Gen) name() string {
	if g.r.IntN(300) == 0 {
		return strings.Repeat("n", pick(g, 255, 256))
	}
	return pick(g, "a", "b", "c", "d", "e", "f")
}

// path returns the path of something, or of what may not be there.
func (g *Gen) path() string {
	p, d := "", g.m.root
	for depth := 0; ; depth++ {
		name := g.name()
		if names := slices.Sorted(maps.Keys(d.children)); len(names) > 0 && g.chance(60) {
			name = names[g.r.IntN(len(names))]
		}
		p += name
		n := d.children[name]
		if depth == 3 || n == nil && g.chance(97) || n != nil && g.chance(map[bool]int{true: 35, false: 97}[n.dir()]) {
			return p
		}
		if n == nil || !n.dir() {
			return p + "/" + g.name()
		}
		p, d = p+"/", n
	}
}

// dirPath returns the path of a directory, most of the time.
func (g *Gen) dirPath() string {
	for range 5 {
		p := g.path()
		if s, errno := g.m.walk(g.m.root, p, true, new(int)); errno == 0 && s.n != nil && s.n.dir() {
			return p
		}
	}
	return g.path()
}

// openSlot returns a slot that is open, beginning to look at from.
func (g *Gen) openSlot(proc, from int) int {
	for k := range Slots {
		if slot := (from + k) % Slots; g.m.procs[proc].slots[slot] != nil {
			return slot
		}
	}
	return from
}

// dirSlot returns the slot of a directory, if there is one.
func (g *Gen) dirSlot(proc int) int {
	for slot, f := range g.m.procs[proc].slots {
		if f != nil && f.n.dir() {
			return slot
		}
	}
	return g.r.IntN(Slots)
}

func (g *Gen) data(op *Op) {
	size := int64(0)
	if f := g.m.procs[op.Proc].slots[op.FD]; f != nil {
		size = f.n.size
	}
	switch op.Kind {
	case Read, Pread, Write, Pwrite:
		op.Off, op.Len = g.offset(size), g.length()
		if op.Kind == Read || op.Kind == Write {
			op.Off = 0
		}
	case Ftruncate:
		op.Len = g.size()
	case Fallocate:
		op.Flags = pick(g, 0, 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE)
		op.Off, op.Len = g.offset(size), g.length()
	case Lseek:
		op.Flags = pick(g, unix.SEEK_SET, unix.SEEK_CUR, unix.SEEK_END, unix.SEEK_DATA, unix.SEEK_HOLE, unix.SEEK_DATA, unix.SEEK_HOLE)
		op.Off = g.offset(size) - pick[int64](g, 0, 0, 0, 0, 100)
	case CopyRange:
		op.FD2 = g.openSlot(op.Proc, g.r.IntN(Slots))
		op.Off, op.Off2, op.Len = g.offset(size), g.offset(size), g.length()
		if g.chance(60) { // whole blocks, which files can share
			op.Off, op.Off2, op.Len = g.r.Int64N(8)*BlockSize, g.r.Int64N(20)*BlockSize, (1+g.r.Int64N(12))*BlockSize
		}
	case MmapLoad, MmapStore:
		if op.Len = 1; size == 0 {
			return
		}
		op.Off = g.r.Int64N(size)
		op.Len = 1 + g.r.Int64N(min(size-op.Off, 20000))
	}
}

func (g *Gen) offset(size int64) int64 {
	switch k := g.r.IntN(200); {
	case k == 0:
		return pick[int64](g, 1<<62, 1<<32, 5_000_000_001)
	case k < 10:
		return size
	case k < 60:
		return g.r.Int64N(32) * BlockSize
	case k < 120:
		return g.r.Int64N(min(size, 1<<20) + 10000)
	}
	return g.r.Int64N(60000)
}

func (g *Gen) length() int64 {
	switch k := g.r.IntN(100); {
	case k < 2:
		return 0
	case k < 30:
		return 1 + g.r.Int64N(200)
	case k < 60:
		return (1 + g.r.Int64N(8)) * BlockSize
	case k < 97:
		return 1 + g.r.Int64N(20000)
	}
	return 1 + g.r.Int64N(150000)
}

func (g *Gen) size() int64 {
	switch k := g.r.IntN(100); {
	case k < 10:
		return 0
	case k < 50:
		return g.r.Int64N(32) * BlockSize
	case k < 98:
		return g.r.Int64N(100000)
	}
	return pick[int64](g, -1, 1<<62, 1<<33+5)
}
