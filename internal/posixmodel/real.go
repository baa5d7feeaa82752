package posixmodel

import (
	"errors"
	"fmt"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process does operations by system calls below a directory.
type Process struct {
	root string
	fds  [Slots]int // -1: closed
}

// NewProcess returns a process without descriptors.
func NewProcess(root string) *Process {
	p := &Process{root: root}
	for slot := range p.fds {
		p.fds[slot] = -1
	}
	return p
}

// Close closes all descriptors. Those of a filesystem that died may complain; they are closed.
func (p *Process) Close() {
	for slot := range p.fds {
		p.closeSlot(slot)
	}
}

func (p *Process) closeSlot(slot int) error {
	fd := p.fds[slot]
	p.fds[slot] = -1
	return unix.Close(fd)
}

// Path returns a path of the model as the system has it.
func (p *Process) Path(op Op, of string) (string, error) {
	if of == "" {
		return "", nil
	}
	if op.Dir > 0 {
		fd := p.fds[op.Dir-1]
		if fd < 0 {
			return "", syscall.EBADF
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return "", err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return "", syscall.ENOTDIR
		}
		return fmt.Sprintf("/proc/self/fd/%d/%s", fd, of), nil
	}
	return p.root + "/" + of, nil
}

// Do does an operation.
func (p *Process) Do(op Op) (r Result) {
	path, err := p.Path(op, op.Path)
	var path2 = op.Path2
	if err == nil && op.Kind != Symlink {
		path2, err = p.Path(op, op.Path2)
	}
	for deadline := time.Now().Add(30 * time.Second); err == nil; {
		r, err = p.do(op, path, path2)
		if !errors.Is(err, syscall.EINTR) && (!op.Again || !errors.Is(err, syscall.EAGAIN) || time.Now().After(deadline)) {
			break
		}
		err = nil
	}
	if err == nil {
		return r
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return Result{Errno: syscall.EPROTO, Text: err.Error()}
	}
	return Result{Errno: errno}
}

func (p *Process) do(op Op, path, path2 string) (Result, error) {
	switch op.Kind {
	case Open, Tmpfile:
		flags := op.Flags | unix.O_CLOEXEC
		if op.Kind == Tmpfile {
			flags |= unix.O_TMPFILE
		}
		fd, err := unix.Open(path, flags, op.Mode)
		if err == nil {
			p.closeSlot(op.FD)
			p.fds[op.FD] = fd
		}
		return Result{}, err
	case Mkdir:
		return Result{}, unix.Mkdir(path, op.Mode)
	case Rmdir:
		return Result{}, unix.Rmdir(path)
	case Unlink:
		return Result{}, unix.Unlink(path)
	case Rename:
		return Result{}, unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, path2, uint(op.Flags))
	case Link:
		return Result{}, unix.Link(path, path2)
	case LinkFD:
		return Result{}, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", p.fds[op.FD]), unix.AT_FDCWD, path2, unix.AT_SYMLINK_FOLLOW)
	case Symlink:
		return Result{}, unix.Symlink(path2, path)
	case Readlink:
		buf := make([]byte, 4096)
		n, err := unix.Readlink(path, buf)
		return Result{Text: string(buf[:max(n, 0)])}, err
	case Lstat, Stat, Fstat:
		return p.stat(op, path)
	case Chmod:
		return Result{}, unix.Chmod(path, op.Mode)
	case Chown:
		return Result{}, unix.Chown(path, op.UID, op.GID)
	case Utimens:
		return Result{}, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{timespec(op.Atime), timespec(op.Mtime)}, 0)
	case Truncate:
		return Result{}, unix.Truncate(path, op.Len)
	case Setxattr, Getxattr, Removexattr, Listxattr:
		return xattr(op, path)
	case Statfs:
		var st unix.Statfs_t
		err := unix.Statfs(p.root, &st)
		return Result{N: int64(st.Bfree)}, err
	}
	return p.fileOp(op, p.fds[op.FD])
}

func (p *Process) fileOp(op Op, fd int) (r Result, err error) {
	n := 0
	switch op.Kind {
	case Close:
		return r, p.closeSlot(op.FD)
	case Read, Pread:
		buf := make([]byte, op.Len)
		if op.Kind == Read {
			n, err = unix.Read(fd, buf)
		} else {
			n, err = unix.Pread(fd, buf, op.Off)
		}
		return Result{N: int64(max(n, 0)), Sum: Sum(buf[:max(n, 0)])}, err
	case Write:
		n, err = unix.Write(fd, Data(op.Seq, op.Len))
	case Pwrite:
		n, err = unix.Pwrite(fd, Data(op.Seq, op.Len), op.Off)
	case Ftruncate:
		err = unix.Ftruncate(fd, op.Len)
	case Fallocate:
		err = unix.Fallocate(fd, uint32(op.Flags), op.Off, op.Len)
	case Lseek:
		return lseek(op, fd)
	case Fsync:
		err = unix.Fsync(fd)
	case Fdatasync:
		err = unix.Fdatasync(fd)
	case CopyRange:
		return p.copyRange(op, fd)
	case MmapLoad, MmapStore:
		return mmap(op, fd)
	case Getdents:
		return getdents(fd)
	default:
		err = syscall.ENOSYS
	}
	if err == nil {
		r.N = int64(n)
	}
	return r, err
}

// lseek puts the position back after SEEK_DATA and SEEK_HOLE: where it would be is not always determined.
func lseek(op Op, fd int) (Result, error) {
	special := op.Flags == unix.SEEK_DATA || op.Flags == unix.SEEK_HOLE
	var before int64
	var err error
	if special {
		if before, err = unix.Seek(fd, 0, unix.SEEK_CUR); err != nil {
			return Result{}, err
		}
	}
	pos, err := unix.Seek(fd, op.Off, op.Flags)
	if err != nil {
		return Result{}, err
	}
	if special {
		_, err = unix.Seek(fd, before, unix.SEEK_SET)
	}
	return Result{N: pos}, err
}

// copyRange copies all that the source has now: a call may do less, and a copy within a file may make it longer.
func (p *Process) copyRange(op Op, in int) (Result, error) {
	done := int64(0)
	var st unix.Stat_t
	if unix.Fstat(in, &st) == nil && op.Off < st.Size {
		op.Len = min(op.Len, st.Size-op.Off)
	}
	for {
		off, off2 := op.Off+done, op.Off2+done
		n, err := unix.CopyFileRange(in, &off, p.fds[op.FD2], &off2, int(op.Len-done), 0)
		if err != nil || n == 0 {
			return Result{N: done}, err
		}
		if done += int64(n); done == op.Len {
			return Result{N: done}, nil
		}
	}
}

func mmap(op Op, fd int) (r Result, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", syscall.EFAULT, v)
		}
	}()
	prot := unix.PROT_READ
	if op.Kind == MmapStore {
		prot |= unix.PROT_WRITE
	}
	base := op.Off / BlockSize * BlockSize
	mem, err := unix.Mmap(fd, base, int(op.Off-base+op.Len), prot, unix.MAP_SHARED)
	if err != nil {
		return Result{}, err
	}
	r.N = op.Len
	part := mem[op.Off-base:]
	if op.Kind == MmapStore {
		copy(part, Data(op.Seq, op.Len))
		err = unix.Msync(mem, unix.MS_SYNC)
	} else {
		r.Sum = Sum(part)
	}
	return r, errors.Join(err, unix.Munmap(mem))
}

func getdents(fd int) (Result, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return Result{}, err
	}
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return Result{}, err
		}
		if n == 0 {
			slices.Sort(names)
			return Result{Text: strings.Join(names, "/")}, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func (p *Process) stat(op Op, path string) (Result, error) {
	var st unix.Stat_t
	var err error
	switch op.Kind {
	case Fstat:
		err = unix.Fstat(p.fds[op.FD], &st)
	case Stat:
		err = unix.Stat(path, &st)
	default:
		err = unix.Lstat(path, &st)
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Stat: &Attr{
		Ino: st.Ino, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: int(st.Nlink), Size: st.Size, Blocks512: st.Blocks,
		Atime: st.Atim.Nano(), Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}}, nil
}

func timespec(t int64) unix.Timespec {
	switch t {
	case Keep:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case Now:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.NsecToTimespec(t)
}

func xattr(op Op, file string) (Result, error) {
	buf := make([]byte, 1<<16)
	switch op.Kind {
	case Setxattr:
		return Result{}, unix.Setxattr(file, op.Name, Data(op.Seq, op.Len), op.Flags)
	case Removexattr:
		return Result{}, unix.Removexattr(file, op.Name)
	case Getxattr:
		n, err := unix.Getxattr(file, op.Name, buf)
		return Result{N: int64(max(n, 0)), Sum: Sum(buf[:max(n, 0)])}, err
	}
	n, err := unix.Listxattr(file, buf)
	if err != nil {
		return Result{}, err
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	names = slices.DeleteFunc(names, func(name string) bool {
		own, _ := path.Match("user.model*", name)
		other, _ := path.Match("trusted.model*", name)
		return !own && !other
	})
	slices.Sort(names)
	return Result{Text: strings.Join(names, "/")}, nil
}
