package fuse_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
)

func testSocketXattr(t *testing.T, dir, socket string) {
	const name = "user.holdfast.socket"
	wantXattr(t, dir, name, socket)
	if n, err := unix.Getxattr(dir, name, nil); err != nil || n != len(socket) {
		t.Errorf("size %d, %v", n, err)
	}
	_, err := unix.Getxattr(dir, name, make([]byte, 1))
	wantErrno(t, err, syscall.ERANGE)
	wantErrno(t, unix.Setxattr(dir, name, []byte("x"), 0), syscall.EPERM)
	wantErrno(t, unix.Removexattr(dir, name), syscall.EPERM)
	wantXattrs(t, dir) // or cp -a would copy it
}

// wantXattr wants an attribute of path to have a value.
func wantXattr(t *testing.T, path, name, want string) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	} else if string(buf[:n]) != want {
		t.Errorf("%s is %q, want %q", name, clip(string(buf[:n])), clip(want))
	}
}

// wantXattrs wants path to have these attributes and no others.
func wantXattrs(t *testing.T, path string, want ...string) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	got := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	got = slices.DeleteFunc(got, func(name string) bool { return name == "security.selinux" })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}

func testXattr(t *testing.T, dir string) {
	f := dir + "/f"
	writeFile(t, f, "content")
	set := func(name, value string, flags int) error { return unix.Lsetxattr(f, name, []byte(value), flags) }
	wantErrno(t, set("user.a", "1", unix.XATTR_REPLACE), syscall.ENODATA)
	must(t, set("user.a", "1", unix.XATTR_CREATE))
	wantErrno(t, set("user.a", "2", unix.XATTR_CREATE), syscall.EEXIST)
	wantXattr(t, f, "user.a", "1")
	must(t, set("user.a", "longer than before", unix.XATTR_REPLACE))
	wantXattr(t, f, "user.a", "longer than before")
	must(t, set("user.empty", "", 0))
	wantXattr(t, f, "user.empty", "")
	must(t, set("user.bytes", "\x00\xff\n", 0))
	wantXattr(t, f, "user.bytes", "\x00\xff\n")
	long := "user." + strings.Repeat("n", 250)
	must(t, set(long, "255", 0))
	wantErrno(t, set(long+"n", "256", 0), syscall.ERANGE)
	wantXattrs(t, f, "user.a", "user.empty", "user.bytes", long)

	_, err := unix.Getxattr(f, "user.a", make([]byte, 3))
	wantErrno(t, err, syscall.ERANGE)
	if n, err := unix.Getxattr(f, "user.a", nil); n != len("longer than before") {
		t.Errorf("size %d, %v", n, err)
	}
	_, err = unix.Listxattr(f, make([]byte, 3))
	wantErrno(t, err, syscall.ERANGE)
	if n, err := unix.Listxattr(f, nil); n != len("user.a")+len("user.empty")+len("user.bytes")+len(long)+4 {
		t.Errorf("list of %d bytes, %v", n, err)
	}
	_, err = unix.Getxattr(f, "user.none", nil)
	wantErrno(t, err, syscall.ENODATA)
	wantErrno(t, unix.Removexattr(f, "user.none"), syscall.ENODATA)
	wantErrno(t, set("nowhere.a", "", 0), syscall.EOPNOTSUPP)
	wantErrno(t, set("user.", "", 0), syscall.EINVAL)
	must(t, unix.Removexattr(f, "user.a"))
	_, err = unix.Getxattr(f, "user.a", nil)
	wantErrno(t, err, syscall.ENODATA)

	// By an open file, after its last name is gone.
	file, err := os.Open(f)
	must(t, err)
	defer file.Close()
	must(t, os.Remove(f))
	must(t, unix.Fsetxattr(int(file.Fd()), "user.late", []byte("x"), 0))
	if n, err := unix.Fgetxattr(int(file.Fd()), "user.late", make([]byte, 9)); n != 1 {
		t.Errorf("of an unlinked file: %d, %v", n, err)
	}

	// On directories, but not on what cannot be read or written.
	must(t, unix.Setxattr(dir, "user.d", []byte("dir"), 0))
	wantXattrs(t, dir, "user.d")
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	wantErrno(t, unix.Setxattr(dir+"/fifo", "user.a", nil, 0), syscall.EPERM)
	must(t, os.Symlink("f", dir+"/link"))
	wantErrno(t, unix.Lsetxattr(dir+"/link", "user.a", nil, 0), syscall.EPERM)
	wantXattrs(t, dir+"/link")
}

func testXattrLimits(t *testing.T, dir string) {
	f := dir + "/f"
	writeFile(t, f, "")
	big := strings.Repeat("0123456789abcdef", 4096)
	must(t, unix.Setxattr(f, "user.big", []byte(big), 0))
	wantXattr(t, f, "user.big", big)
	wantErrno(t, unix.Setxattr(f, "user.big", []byte(big+"x"), 0), syscall.E2BIG)
	wantXattr(t, f, "user.big", big)
	must(t, unix.Removexattr(f, "user.big"))
	// A list of 64 KiB is the longest that the kernel hands out.
	for i := range 256 {
		must(t, unix.Setxattr(f, fmt.Sprintf("user.%0250d", i), nil, 0))
	}
	wantErrno(t, unix.Setxattr(f, "user.x", nil, 0), syscall.ENOSPC)
	must(t, unix.Setxattr(f, fmt.Sprintf("user.%0250d", 7), []byte("replaced"), 0))
	if n, err := unix.Listxattr(f, make([]byte, 64<<10)); n != 64<<10 {
		t.Errorf("list of %d bytes, %v", n, err)
	}
	must(t, unix.Removexattr(f, fmt.Sprintf("user.%0250d", 7)))
	must(t, unix.Setxattr(f, "user.x", nil, 0))
}

func testXattrRights(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	f := dir + "/f"
	writeFile(t, f, "")
	must(t, unix.Setxattr(f, "trusted.t", []byte("T"), 0))
	must(t, unix.Setxattr(f, "security.s", []byte("S"), 0))
	must(t, unix.Setxattr(f, "user.u", []byte("U"), 0))
	wantXattrs(t, f, "security.s", "trusted.t", "user.u")
	must(t, os.Chown(f, 65534, 65534))
	if out, err := asNobody(t, "cd "+dir+" && getfattr -m - f"); err != nil || out != "# file: f\nsecurity.s\nuser.u\n\n" {
		t.Errorf("nobody lists %q, %v", out, err)
	}
	for _, c := range []struct{ command, want string }{
		{"getfattr -d -m - f", `security.s="S"` + "\n" + `user.u="U"`},
		{"getfattr -n trusted.t f", "No such attribute"},
		{"setfattr -n trusted.t -v x f", "Operation not permitted"},
		{"setfattr -n security.s -v x f", "Operation not permitted"},
		{"setfattr -x security.s f", "Operation not permitted"},
		{"setfattr -n user.u -v x f && getfattr -n user.u f", `user.u="x"`},
		{"chmod 400 f; setfattr -n user.u -v y f", "Permission denied"},
		{"chmod 200 f; getfattr -n user.u f", "Permission denied"},
	} {
		out, _ := asNobody(t, "cd "+dir+" && "+c.command)
		if !strings.Contains(out, c.want) {
			t.Errorf("%s as nobody: %q, want %q", c.command, out, c.want)
		}
	}
	wantXattr(t, f, "trusted.t", "T")
	wantXattr(t, f, "security.s", "S")
	// Of a sticky directory only the owner alters them.
	must(t, os.Mkdir(dir+"/sticky", 0o777))
	must(t, unix.Chmod(dir+"/sticky", 0o1777))
	if out, err := asNobody(t, "setfattr -n user.u -v x "+dir+"/sticky"); err == nil {
		t.Errorf("nobody set an attribute of a sticky directory: %s", out)
	}
}

// testCapabilities: whoever alters a program takes its capabilities off.
func testCapabilities(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const name = "security.capability"
	// Version 2, effective: CAP_NET_RAW.
	caps := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	f := dir + "/f"
	for what, change := range map[string]func() error{
		"write":           func() error { return rewrite(f, 0, "new") },
		"write into":      func() error { return rewrite(f, 2, "n") },
		"write behind":    func() error { return rewrite(f, 1<<20, "n") },
		"truncate":        func() error { return os.Truncate(f, 3) },
		"chown":           func() error { return os.Chown(f, 1, 1) },
		"fallocate":       func() error { return fallocate(f, 0, 0, 1<<20) },
		"punch":           func() error { return fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096) },
		"write, repeated": func() error { return rewrite(f, 0, "again") },
	} {
		os.Remove(f)
		writeFile(t, f, "content of a program")
		must(t, unix.Setxattr(f, "user.other", []byte("stays"), 0))
		must(t, unix.Setxattr(f, name, caps, 0))
		wantXattr(t, f, name, string(caps))
		must(t, change())
		wantXattrs(t, f, "user.other")
		// And a second time, which is a different way through the server.
		must(t, unix.Setxattr(f, name, caps, 0))
		must(t, change())
		if _, err := unix.Getxattr(f, name, nil); err != syscall.ENODATA && what != "chown" {
			t.Errorf("after %s twice: %v", what, err)
		}
	}
}

func rewrite(path string, off int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte(text), off)
	return err
}

func fallocate(path string, mode uint32, off, n int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), mode, off, n)
}

// TestXattrsSurvive: attributes and lists are there after the server was killed,
// once fsync has returned.
func TestXattrsSurvive(t *testing.T) {
	s := testserver.Mounted(t)
	f, err := os.Create(s.Mount + "/f")
	must(t, err)
	must(t, unix.Fsetxattr(int(f.Fd()), "user.a", bytes.Repeat([]byte("v"), 5000), 0))
	must(t, unix.Fsetxattr(int(f.Fd()), "system.posix_acl_access", aclBytes(6, 4, namedUser{1000, 7}, 5, 0), 0))
	must(t, f.Sync())
	f.Close()
	s.Kill()
	s = s.Restart()
	wantXattrs(t, s.Mount+"/f", "system.posix_acl_access", "user.a")
	wantXattr(t, s.Mount+"/f", "user.a", strings.Repeat("v", 5000))
	if mode := stat(t, s.Mount+"/f").Mode & 0o777; mode != 0o650 {
		t.Errorf("mode %o, want what the list says: 650", mode)
	}
}
