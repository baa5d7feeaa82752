// Package clonetree makes files and trees of files that share the blocks of others, by
// the system calls that any program has. The filesystem below them does the sharing;
// this package brings along what belongs to a file beside its bytes.
//
// It has no locks and no state, and must not know Holdfast's socket or its formats.
package clonetree

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// File makes dst, which must not exist, a clone of the regular file src: its bytes,
// holes, mode, owner, times and extended attributes. dst is there when it is whole and
// durable, and not before.
func File(src, dst string) error {
	var st unix.Stat_t
	if err := unix.Stat(src, &st); err != nil {
		return &os.PathError{Op: "stat", Path: src, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s is not a regular file: %w", src, syscall.EINVAL)
	}
	src, err := filepath.EvalSymlinks(src) // what is below takes links as they are
	if err != nil {
		return err
	}
	return whole(dst, func(tmp string) error { return file(src, tmp, &st) })
}

// Tree makes dst, which must not exist, a tree of clones of what is in the directory
// src: files as File has them, directories, symbolic links, special files; files with
// several names in src have them in dst. dst is there when it is whole and durable. It
// may lie in src and is not part of itself. What is mounted below src is left out.
//
// Each file is as it was at one moment, up to 4 GiB of it; files that are changed
// meanwhile need not be of the same moment.
func Tree(stop func() error, src, dst string) error {
	var st unix.Stat_t
	if err := unix.Stat(src, &st); err != nil {
		return &os.PathError{Op: "stat", Path: src, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s is not a directory: %w", src, syscall.ENOTDIR)
	}
	src, err := filepath.EvalSymlinks(src) // what is below takes links as they are
	if err != nil {
		return err
	}
	return whole(dst, func(tmp string) error {
		t := tree{stop: stop, dev: st.Dev, links: make(map[uint64]string)}
		if err := os.Mkdir(tmp, 0o700); err != nil {
			return err
		}
		var made unix.Stat_t
		if err := unix.Lstat(tmp, &made); err != nil {
			return err
		}
		t.self = made.Ino
		return t.fill(src, tmp, &st)
	})
}

// whole calls make for a name beside dst, and gives what it made the name dst when it
// is durable.
func whole(dst string, make func(tmp string) error) error {
	switch _, err := os.Lstat(dst); {
	case err == nil:
		return &os.PathError{Op: "clone", Path: dst, Err: syscall.EEXIST}
	case !errors.Is(err, syscall.ENOENT):
		return err // no name for a file
	}
	dir := filepath.Dir(dst)
	base := filepath.Base(dst)
	tmp := filepath.Join(dir, fmt.Sprintf(".%s.%d", base[:min(len(base), 200)], os.Getpid())) // no longer than a name can be
	if err := make(tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	d, err := os.Open(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	defer d.Close()
	// Files and directories are durable already; this is for links and special files,
	// where the kernel passes it on.
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return errors.Join(&os.PathError{Op: "syncfs", Path: dir, Err: err}, os.RemoveAll(tmp))
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dst, unix.RENAME_NOREPLACE); err != nil {
		return errors.Join(&os.PathError{Op: "rename to", Path: dst, Err: err}, os.RemoveAll(tmp))
	}
	return d.Sync()
}

// tree is a Tree under way.
type tree struct {
	stop  func() error
	dev   uint64
	self  uint64            // the inode of the new tree's root
	links map[uint64]string // where files with several names are already, by inode
}

// fill makes the entries of the directory from in the directory to.
func (t *tree) fill(from, to string, st *unix.Stat_t) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := t.stop(); err != nil {
			return err
		}
		if err := t.entry(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return attributes(from, to, st) // last: the entries have changed its times
}

func (t *tree) entry(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if st.Dev == t.dev && st.Ino == t.self {
		return nil
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := t.links[st.Ino]; ok {
			return os.Link(first, to)
		}
		t.links[st.Ino] = to
	}
	switch kind {
	case unix.S_IFREG:
		return file(from, to, &st)
	case unix.S_IFDIR:
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		if st.Dev != t.dev {
			return attributes(from, to, &st)
		}
		return t.fill(from, to, &st)
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	default:
		if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
			return &os.PathError{Op: "mknod", Path: to, Err: err}
		}
	}
	return attributes(from, to, &st)
}

// file makes to a clone of from, which is what st says.
func file(from, to string, st *unix.Stat_t) error {
	src, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(share(src, dst), dst.Close()); err != nil {
		return err
	}
	return attributes(from, to, st)
}

// share makes all of src the content of dst.
func share(src, dst *os.File) error {
	for off := int64(0); ; {
		in, out := off, off
		n, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, math.MaxInt32&^0xfff, 0)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return &os.PathError{Op: "clone", Path: src.Name(), Err: err}
		case n == 0:
			return nil
		}
		off += int64(n)
	}
}

// attributes gives to what from has beside its bytes, and makes it durable, which syncfs
// does not on a FUSE mount. What only root can give is left to be the caller's, as cp does.
func attributes(from, to string, st *unix.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return setAttributes(from, to, st)
	}
	f, err := os.Open(to) // before its mode may forbid it
	if err != nil {
		return err
	}
	defer f.Close()
	if err := setAttributes(from, to, st); err != nil {
		return err
	}
	return f.Sync()
}

func setAttributes(from, to string, st *unix.Stat_t) error {
	mode := st.Mode & 0o7777
	switch err := unix.Lchown(to, int(st.Uid), int(st.Gid)); {
	case errors.Is(err, syscall.EPERM):
		mode &^= unix.S_ISUID | unix.S_ISGID
	case err != nil:
		return &os.PathError{Op: "chown", Path: to, Err: err}
	}
	if err := xattrs(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, mode); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: to, Err: err}
	}
	return nil
}

// xattrs copies the extended attributes, and takes away the ACLs that the place has handed
// down. Without the right to some of them, those stay behind.
func xattrs(from, to string) error {
	for _, acl := range [...]string{"system.posix_acl_access", "system.posix_acl_default"} {
		err := unix.Lremovexattr(to, acl)
		if err != nil && !errors.Is(err, syscall.ENODATA) && !errors.Is(err, syscall.EOPNOTSUPP) {
			return &os.PathError{Op: "remove attribute " + acl + " of", Path: to, Err: err}
		}
	}
	list, err := grown(func(b []byte) (int, error) { return unix.Llistxattr(from, b) })
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "listxattr", Path: from, Err: err}
	}
	for len(list) > 0 {
		name := unix.ByteSliceToString(list)
		list = list[min(len(name)+1, len(list)):]
		value, err := grown(func(b []byte) (int, error) { return unix.Lgetxattr(from, name, b) })
		if err == nil {
			err = unix.Lsetxattr(to, name, value, 0)
		}
		if err != nil && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENODATA) {
			return &os.PathError{Op: "copy attribute " + name + " to", Path: to, Err: err}
		}
	}
	return nil
}

// grown calls get with a buffer that is large enough.
func grown(get func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; size <= 1<<17; size <<= 1 {
		b := make([]byte, size)
		n, err := get(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, syscall.ERANGE) {
			return nil, err
		}
	}
	return nil, io.ErrShortBuffer
}
