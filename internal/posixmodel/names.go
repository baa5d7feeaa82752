package posixmodel

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// place resolves a path whose last name is to be made.
func (m *Model) place(op Op, path string) (spot, syscall.Errno) {
	s, errno := m.resolve(op, path, false)
	switch {
	case errno != 0:
		return s, errno
	case s.n != nil:
		return s, syscall.EEXIST
	case s.dir.nlink == 0:
		return s, syscall.ENOENT
	}
	return s, 0
}

// enter gives n the name.
func (m *Model) enter(s spot, n *node) {
	s.dir.children[s.name] = n
	if n.dir() {
		n.parent = s.dir
		s.dir.nlink++
	}
	m.touch(s.dir)
}

func (m *Model) open(op Op) Result {
	follow := op.Flags&(unix.O_NOFOLLOW) == 0 && op.Flags&(unix.O_CREAT|unix.O_EXCL) != unix.O_CREAT|unix.O_EXCL
	s, errno := m.resolve(op, op.Path, follow)
	if errno != 0 {
		return fail(errno)
	}
	n := s.n
	write := op.Flags&unix.O_ACCMODE != unix.O_RDONLY
	switch {
	case n == nil && op.Flags&unix.O_CREAT == 0:
		return fail(syscall.ENOENT)
	case n == nil && s.dir.nlink == 0:
		return fail(syscall.ENOENT)
	case n == nil:
		n = m.newNode(s.dir, syscall.S_IFREG|op.Mode&^m.rules.Umask)
		n.parent = nil
		m.enter(s, n)
		return m.opened(op, n)
	case op.Flags&unix.O_CREAT != 0 && op.Flags&unix.O_EXCL != 0:
		return fail(syscall.EEXIST)
	case n.symlink():
		return fail(syscall.ELOOP)
	case op.Flags&unix.O_DIRECTORY != 0 && !n.dir():
		return fail(syscall.ENOTDIR)
	case n.dir() && (write || op.Flags&unix.O_CREAT != 0):
		return fail(syscall.EISDIR)
	}
	if op.Flags&unix.O_TRUNC != 0 {
		if errno := m.setSize(op, n, 0); errno != 0 {
			return fail(errno)
		}
	}
	return m.opened(op, n)
}

func (m *Model) opened(op Op, n *node) Result {
	m.closeSlot(op.Proc, op.FD)
	m.procs[op.Proc].slots[op.FD] = &file{n: n, flags: op.Flags}
	n.opens++
	return Result{}
}

func (m *Model) tmpfile(op Op) Result {
	d, errno := m.find(op, true)
	switch {
	case errno != 0:
		return fail(errno)
	case !d.dir():
		return fail(syscall.ENOTDIR)
	case d.nlink == 0:
		return fail(syscall.ENOENT)
	case op.Flags&unix.O_ACCMODE == unix.O_RDONLY:
		return fail(syscall.EINVAL)
	}
	n := m.newNode(d, syscall.S_IFREG|op.Mode&^m.rules.Umask)
	n.parent, n.nlink = nil, 0
	n.linkable = op.Flags&unix.O_EXCL == 0
	return m.opened(op, n)
}

func (m *Model) mkdir(op Op) Result {
	s, errno := m.place(op, op.Path)
	if errno != 0 {
		return fail(errno)
	}
	m.enter(s, m.newNode(s.dir, syscall.S_IFDIR|op.Mode&0o1777&^m.rules.Umask))
	return Result{}
}

func (m *Model) newSymlink(op Op) Result {
	if op.Path2 == "" {
		return fail(syscall.ENOENT)
	}
	s, errno := m.place(op, op.Path)
	if errno != 0 {
		return fail(errno)
	}
	n := m.newNode(s.dir, syscall.S_IFLNK|0o777)
	n.parent, n.target, n.size = nil, op.Path2, int64(len(op.Path2))
	m.enter(s, n)
	return Result{}
}

func (m *Model) readlink(op Op) Result {
	n, errno := m.find(op, false)
	if errno == 0 && !n.symlink() {
		errno = syscall.EINVAL
	}
	if errno != 0 {
		return fail(errno)
	}
	n.atime.known = false
	return Result{Text: n.target}
}

func (m *Model) link(op Op) Result {
	n, errno := m.find(op, false)
	if errno != 0 {
		return fail(errno)
	}
	s, errno := m.place(op, op.Path2)
	if errno == 0 && n.dir() {
		errno = syscall.EPERM
	}
	if errno == 0 {
		m.linked(s, n)
	}
	return fail(errno)
}

func (m *Model) linked(s spot, n *node) {
	n.nlink++
	n.linkable = false
	n.ctime = m.stamp()
	m.enter(s, n)
}

func (m *Model) linkFD(op Op) Result {
	f, errno := m.fd(op, op.FD)
	if errno != 0 {
		return fail(syscall.ENOENT) // the descriptor is named by a path in /proc
	}
	s, errno := m.place(op, op.Path2)
	switch {
	case errno != 0:
	case f.n.dir():
		errno = syscall.EPERM
	case f.n.nlink == 0 && !f.n.linkable:
		errno = syscall.ENOENT
	}
	if errno == 0 {
		m.linked(s, f.n)
	}
	return fail(errno)
}

// removable says whether n can lose its name.
func removable(n *node, wantDir bool) syscall.Errno {
	switch {
	case wantDir && !n.dir():
		return syscall.ENOTDIR
	case !wantDir && n.dir():
		return syscall.EISDIR
	case wantDir && len(n.children) > 0:
		return syscall.ENOTEMPTY
	}
	return 0
}

func (m *Model) remove(op Op) Result {
	s, errno := m.resolve(op, op.Path, false)
	if errno == 0 && s.n == nil {
		errno = syscall.ENOENT
	}
	if errno == 0 {
		errno = removable(s.n, op.Kind == Rmdir)
	}
	if errno != 0 {
		return fail(errno)
	}
	delete(s.dir.children, s.name)
	m.lost(s.dir, s.n)
	m.touch(s.dir)
	return Result{}
}

// lost counts the loss of a name in d.
func (m *Model) lost(d, n *node) {
	n.nlink--
	n.ctime = m.stamp()
	if n.dir() {
		n.nlink = 0
		d.nlink--
	}
}

func (m *Model) rename(op Op) syscall.Errno {
	from, errno := m.parent(op, op.Path, false)
	if errno != 0 {
		return errno
	}
	to, errno := m.parent(op, op.Path2, false)
	if errno != 0 {
		return errno
	}
	if errno := from.tooLong(); errno != 0 {
		return errno
	}
	if from.n == nil {
		return syscall.ENOENT
	}
	if errno := to.tooLong(); errno != 0 {
		return errno
	}
	exchange := op.Flags == unix.RENAME_EXCHANGE
	switch {
	case op.Flags == unix.RENAME_NOREPLACE && to.n != nil:
		return syscall.EEXIST
	case exchange && to.n == nil:
		return syscall.ENOENT
	case from.n.dir() && to.dir.below(from.n):
		return syscall.EINVAL
	case to.n != nil && to.n.dir() && from.dir.below(to.n) && exchange:
		return syscall.EINVAL
	case to.n != nil && to.n.dir() && from.dir.below(to.n):
		return syscall.ENOTEMPTY
	case from.n == to.n:
		return 0
	case to.dir.nlink == 0:
		return syscall.ENOENT
	}
	if exchange {
		m.swap(from, to)
		return 0
	}
	if to.n != nil {
		if errno := removable(to.n, from.n.dir()); errno != 0 {
			return errno
		}
		m.lost(to.dir, to.n)
	}
	delete(from.dir.children, from.name)
	to.dir.children[to.name] = from.n
	m.moved(from.n, from.dir, to.dir)
	m.touch(from.dir)
	m.touch(to.dir)
	return 0
}

// moved notes that n has another directory.
func (m *Model) moved(n, from, to *node) {
	n.ctime = m.stamp()
	if n.dir() {
		n.parent = to
		from.nlink--
		to.nlink++
	}
}

func (m *Model) swap(a, b spot) {
	a.dir.children[a.name], b.dir.children[b.name] = b.n, a.n
	m.moved(a.n, a.dir, b.dir)
	m.moved(b.n, b.dir, a.dir)
	m.touch(a.dir)
	m.touch(b.dir)
}

func (m *Model) getdents(f *file) Result {
	switch {
	case !f.n.dir():
		return fail(syscall.ENOTDIR)
	case f.n.nlink == 0:
		return fail(syscall.ENOENT)
	}
	f.n.atime.known = false
	return Result{Text: strings.Join(slices.Sorted(maps.Keys(f.n.children)), "/")}
}
