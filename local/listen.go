package local

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a Unix socket.
const maxPath = 107

// listen binds the socket. A socket file that a killed server left is replaced,
// one that is served is not.
func listen(cfg Config) (*net.UnixListener, error) {
	if err := checkPath(cfg.Path); err != nil {
		return nil, err
	}
	// Two servers that start at once would each find the other's new socket stale
	// between bind and listen. The lock leaves nothing behind.
	dir, err := os.Open(filepath.Dir(cfg.Path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	if err := removeStale(cfg.Path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), cfg.Path)
	defer f.Close() // FileListener makes its own copy
	if err := bind(fd, cfg); err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, errors.Join(err, os.Remove(cfg.Path))
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // by us, and only if it is still ours
	return ul, nil
}

func bind(fd int, cfg Config) error {
	// On the listener, before anyone connects: a message that is sent before
	// accept has credentials then too.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return fmt.Errorf("SO_PASSCRED: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: cfg.Path}); err != nil {
		return fmt.Errorf("bind %s: %w", cfg.Path, err)
	}
	err := setPermissions(cfg)
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("socket %s: %w", cfg.Path, err), os.Remove(cfg.Path))
	}
	return nil
}

// setPermissions is called before listen: nobody connects before they hold.
func setPermissions(cfg Config) error {
	if cfg.Group != "" {
		gid, err := groupID(cfg.Group)
		if err != nil {
			return err
		}
		if err := os.Chown(cfg.Path, -1, gid); errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("only root and members of group %s can give it the socket: %w", cfg.Group, err)
		} else if err != nil {
			return err
		}
	}
	return os.Chmod(cfg.Path, cfg.Mode)
}

func groupID(name string) (int, error) {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := osuser.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// removeStale removes the socket file at path if nobody serves it.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode()&fs.ModeSocket == 0:
		return notSocket(path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		// Accepted, its queue is full (EAGAIN), it is of another type, or may not be
		// asked: somebody's.
		return fmt.Errorf("%s is served by another process: %w", path, errors.Join(syscall.EADDRINUSE, err))
	}
	return os.Remove(path)
}

// fileID identifies the socket's file.
type fileID struct{ dev, ino uint64 }

func idOf(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileID{}, fmt.Errorf("%s: %w", path, err)
	}
	return fileID{st.Dev, st.Ino}, nil
}

// removeOwn removes the socket file unless another server has replaced it.
func removeOwn(path string, id fileID) error {
	now, err := idOf(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now != id {
		return nil
	}
	return errors.Join(err, os.Remove(path))
}
