package fuse_test

import (
	"os"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// testCannot keeps what docs/posix.md says the mount cannot do true.
func testCannot(t *testing.T, dir string) {
	f := dir + "/f"
	writeFile(t, f, "content")
	fd, err := unix.Open(f, unix.O_RDWR, 0)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	wantErrno(t, err, syscall.ENOTTY)
	const fiemap = 0xc020660b // FS_IOC_FIEMAP
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fiemap, uintptr(unsafe.Pointer(&[32]byte{})))
	wantErrno(t, errno, syscall.EOPNOTSUPP)
	wantErrno(t, unix.Renameat2(unix.AT_FDCWD, f, unix.AT_FDCWD, dir+"/g", unix.RENAME_WHITEOUT), syscall.EINVAL)
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	if fs.Flags&unix.ST_NODEV == 0 || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("mount flags %#x, want nodev and nosuid", fs.Flags)
	}
	if os.Geteuid() == 0 {
		// A set-user-id program runs as who starts it.
		mustShell(t, dir, "cp /usr/bin/id id && chmod 4755 id")
		if out, err := asNobody(t, dir+"/id -u"); err != nil || out != "65534\n" {
			t.Errorf("set-user-id id says %q, %v", out, err)
		}
	}
}
