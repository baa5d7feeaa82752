package posixmodel

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

func (g *Gen) lease(op *Op) {
	switch op.Kind {
	case Lease, APITruncate, APIPunch, APIReshape:
		for range 5 { // mostly of files
			op.Path = g.path()
			if n, errno := g.m.find(*op, true); errno == 0 && n.regular() {
				break
			}
		}
		op.Off, op.Len = g.offset(100000), max(1, g.length())
		if op.Kind == APITruncate {
			op.Off, op.Len = 0, g.r.Int64N(60000)
		}
		if op.Kind == APIReshape {
			op.Flags = pick(g, unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_UNSHARE_RANGE)
			if g.chance(90) {
				op.Off, op.Len = g.r.Int64N(16)*BlockSize, (1+g.r.Int64N(6))*BlockSize
			}
		}
		if op.Kind == Lease {
			op.LeaseFlags = pick(g, 0, LeaseWrite, LeaseUnbreakable|LeaseWrite, LeaseExclusive|LeaseWrite,
				LeaseExclusive|LeaseWrite|LeaseUnbreakable, LeaseMap, LeaseMap|LeaseWrite, LeaseMap|LeaseWrite, LeaseMap|LeaseWrite|LeaseUnbreakable)
		}
		return
	}
	l := g.someLease(op.Proc)
	if l == nil {
		return
	}
	op.Lease = l.id
	end := min(l.end, l.n.size)
	if l.off < end {
		op.Off = l.off + g.r.Int64N(end-l.off)
		op.Len = 1 + g.r.Int64N(min(end-op.Off, 20000))
	}
}

func (g *Gen) someLease(proc int) *lease {
	ids := slices.Sorted(maps.Keys(g.m.leases))
	ids = slices.DeleteFunc(ids, func(id int) bool { return g.m.leases[id].proc != proc })
	if len(ids) == 0 {
		return nil
	}
	return g.m.leases[ids[g.r.IntN(len(ids))]]
}

// fits reports whether the model can say what the operation does.
func (g *Gen) fits(op *Op) bool {
	m := g.m
	n, n2 := g.target(*op), (*node)(nil)
	switch op.Kind {
	case Lease:
		if n == nil {
			return true
		}
		if op.Off > 1<<20 || len(n.leases) > 3 || n.nlink == 0 {
			return false
		}
		for _, l := range n.leases {
			if l.proc == op.Proc {
				return false // what two leases of one session are to each other is not its business
			}
		}
	case LeaseDrop, LeaseLoad, LeaseStore, LeaseCommit:
		l := m.leases[op.Lease]
		if l == nil {
			return false
		}
		mapped := l.flags&LeaseMap != 0 && !l.cut
		switch op.Kind {
		case LeaseLoad:
			return mapped && op.Len > 0
		case LeaseStore:
			return mapped && l.flags&LeaseWrite != 0 && op.Len > 0
		case LeaseCommit:
			return l.flags&LeaseWrite != 0
		}
		return true
	case Write:
		// Where the position is after an append goes by the size that the kernel knew last.
		if f := m.procs[op.Proc].slots[op.FD]; f != nil && f.n.stale && f.flags&unix.O_APPEND != 0 {
			return false
		}
	case MmapLoad, MmapStore: // a mapping goes by that size, too
		if n != nil && n.stale {
			return false
		}
		return n == nil || n.dir() || op.Off+op.Len <= n.size && len(n.leases) == 0
	case CopyRange:
		if f := m.procs[op.Proc].slots[op.FD]; f != nil && f.n.stale {
			return false // and how much there is to copy
		}
		if f := m.procs[op.Proc].slots[op.FD2]; f != nil {
			n2 = f.n
		}
		if op.Off > 1<<61 || op.Off2 > 1<<61 {
			return false
		}
		if n2 != nil && len(n2.leases) > 0 && op.Off%BlockSize == op.Off2%BlockSize {
			return false // where blocks are shared holders are in the way, where they are copied not
		}
	case Getdents:
		return n == nil || n.dir()
	case Pread:
		return op.Off < 1<<61
	case Lseek:
		if n != nil && n.dir() || op.Off > 1<<61 {
			return false
		}
	case Read:
		if f := m.procs[op.Proc].slots[op.FD]; f != nil && (f.pos > 1<<61 || f.n.dir()) {
			return false // the position in a directory is not determined
		}
	case APITruncate, APIPunch, APIReshape:
		if n != nil && op.Off > 1<<50 {
			return false
		}
	}
	for _, x := range []*node{n, n2} {
		if x == nil || !x.regular() {
			continue
		}
		// Who is in the way may hang on blocks that are not determined.
		exclusive := x.leased(LeaseExclusive)
		if len(x.leases) > 0 && (x.undetermined() || exclusive && x.leased(LeaseMap)) && ambiguous(*op) {
			return false
		}
		op.Again = op.Again || len(x.leases) > 0
	}
	return true
}

// ambiguous reports whether what the operation meets hangs on which blocks there are.
func ambiguous(op Op) bool {
	switch op.Kind {
	case Write, Pwrite, CopyRange, APIPunch, APIReshape, Fallocate:
		return true
	}
	return false
}

// target returns the file that the operation is about, if it is there.
func (g *Gen) target(op Op) *node {
	if op.Path != "" {
		n, errno := g.m.find(op, op.Kind != Lstat && op.Flags&unix.O_NOFOLLOW == 0)
		if errno != 0 {
			return nil
		}
		return n
	}
	if f := g.m.procs[op.Proc].slots[op.FD]; f != nil {
		return f.n
	}
	return nil
}

// VerifyOps returns operations of a process that look at everything. It uses slot 0.
func (g *Gen) VerifyOps(proc int) (ops []Op) {
	add := func(op Op) {
		op.Proc, op.Seq = proc, g.Number()
		ops = append(ops, op)
	}
	seen := map[*node]bool{}
	var visit func(path string, n *node)
	visit = func(path string, n *node) {
		add(Op{Kind: Lstat, Path: path})
		switch {
		case n.symlink():
			add(Op{Kind: Readlink, Path: path})
			return
		case seen[n]:
			return
		}
		seen[n] = true
		add(Op{Kind: Listxattr, Path: path})
		for _, name := range slices.Sorted(maps.Keys(n.xattrs)) {
			add(Op{Kind: Getxattr, Path: path, Name: name})
		}
		add(Op{Kind: Open, Path: path})
		if n.dir() {
			add(Op{Kind: Getdents})
		} else {
			for _, r := range n.parts() {
				add(Op{Kind: Pread, Off: r[0], Len: r[1] - r[0]})
				add(Op{Kind: Lseek, Off: r[0], Flags: unix.SEEK_DATA})
				add(Op{Kind: Lseek, Off: r[0], Flags: unix.SEEK_HOLE})
			}
		}
		add(Op{Kind: Close})
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			visit(path+"/"+name, n.children[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.m.root.children)) {
		visit(name, g.m.root.children[name])
	}
	return ops
}

// parts returns ranges that have all blocks of the file, and what holes lie between near ones.
func (n *node) parts() (out [][2]int64) {
	const near = 1 << 20
	for _, b := range n.inRange(0, n.size) {
		from, to := b*BlockSize, (b+1)*BlockSize
		if k := len(out) - 1; k >= 0 && to-out[k][0] < near {
			out[k][1] = to
			continue
		}
		out = append(out, [2]int64{max(0, from-BlockSize), to})
	}
	return out
}

// DropOps returns operations of a process that give back its leases.
func (g *Gen) DropOps(proc int) (ops []Op) {
	for _, id := range slices.Sorted(maps.Keys(g.m.leases)) {
		if g.m.leases[id].proc == proc {
			ops = append(ops, Op{Proc: proc, Seq: g.Number(), Kind: LeaseDrop, Lease: id})
		}
	}
	return ops
}
