package clonetree

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const aclAccess, aclDefault = "system.posix_acl_access", "system.posix_acl_default"

// acl returns an ACL as the kernel takes it, in which one more user has some rights.
func acl(user uint32, perm uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag, perm uint16, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	const none = 0xffffffff
	add(0x01, 6, none) // the owner
	add(0x02, perm, user)
	add(0x04, 4, none) // the group
	add(0x10, 6, none) // the mask
	add(0x20, 0, none) // others
	return b
}

// setxattr sets an attribute, or skips the test where there are none.
func setxattr(t *testing.T, path, name string, value []byte) {
	t.Helper()
	err := unix.Lsetxattr(path, name, value, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("needs %s on %s", name, path)
	}
	must(t, err)
}

// xattr returns an attribute, nothing if there is none.
func xattr(t *testing.T, path, name string) string {
	t.Helper()
	b, err := grown(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
	if !errors.Is(err, unix.ENODATA) {
		must(t, err)
	}
	return string(b)
}

// TestACLs: what is cloned has the ACLs of its source, and none that the place would give it.
func TestACLs(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir+"/src")
	must(t, os.Mkdir(dir+"/heir", 0o755))
	setxattr(t, dir+"/heir", aclDefault, acl(77, 7))
	setxattr(t, dir+"/src/file", aclAccess, acl(1234, 6))
	setxattr(t, dir+"/src/sub", aclAccess, acl(1234, 4))
	setxattr(t, dir+"/src/sub", aclDefault, acl(1234, 2))
	want := describe(t, dir+"/src")
	must(t, File(dir+"/src/file", dir+"/heir/file"))
	must(t, File(dir+"/src/empty", dir+"/heir/empty"))
	must(t, Tree(never, dir+"/src", dir+"/heir/tree"))
	if got := describe(t, dir+"/heir/tree"); len(got) != len(want) || got[0] != want[0] {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	for _, name := range []string{"", "/file", "/empty", "/set-id", "/closed", "/sub", "/sub/deep", "/sub/deep/sparse", "/sub/fifo"} {
		for _, a := range []string{aclAccess, aclDefault} {
			if got, want := xattr(t, dir+"/heir/tree"+name, a), xattr(t, dir+"/src"+name, a); got != want {
				t.Errorf("%s of %q: %q, want %q", a, name, got, want)
			}
		}
	}
	for _, name := range []string{"/file", "/empty"} {
		if got, want := xattr(t, dir+"/heir"+name, aclAccess), xattr(t, dir+"/src"+name, aclAccess); got != want {
			t.Errorf("ACL of %q: %q, want %q", name, got, want)
		}
	}
}

// TestAttributes: values of all sizes, and of all that root can give.
func TestAttributes(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/src", []byte("content"), 0o600))
	values := map[string]string{"user.empty": "", "user.large": string(make([]byte, 3000))}
	if os.Geteuid() == 0 {
		values["trusted.secret"] = "s"
		// cap_net_raw=ep: a change of the owner would take it away.
		values["security.capability"] = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	}
	for name, value := range values {
		setxattr(t, dir+"/src", name, []byte(value))
	}
	must(t, File(dir+"/src", dir+"/clone"))
	for name, want := range values {
		if got := xattr(t, dir+"/clone", name); got != want {
			t.Errorf("%s: %d bytes %.40q, want %d", name, len(got), got, len(want))
		}
	}
}

// TestByLink: a clone of what a link leads to has its attributes, not those of the link, and
// may have any name that a file can have.
func TestByLink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/src", 0o755))
	must(t, os.WriteFile(dir+"/src/file", []byte("content"), 0o600))
	setxattr(t, dir+"/src/file", "user.test", []byte("of the file"))
	setxattr(t, dir+"/src", "user.test", []byte("of the directory"))
	must(t, os.Symlink("src", dir+"/link"))
	must(t, os.Symlink("file", dir+"/src/link"))
	long := dir + "/" + strings.Repeat("n", 255)
	must(t, File(dir+"/link/link", long))
	must(t, Tree(never, dir+"/link", dir+"/tree"))
	before, err := os.Stat(dir)
	must(t, err)
	if err := File(dir+"/src/file", long+"n"); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a name of 256 bytes: %v", err)
	}
	if after, err := os.Stat(dir); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("something was made for a name that cannot be: %v", err)
	}
	for path, want := range map[string]string{long: "of the file", dir + "/tree": "of the directory", dir + "/tree/file": "of the file"} {
		if got := xattr(t, path, "user.test"); got != want {
			t.Errorf("%.40s: attribute %q, want %q", path, got, want)
		}
	}
}

// TestWithoutRights: who may not give files away gets clones that are his own, and that run
// as nobody else.
func TestWithoutRights(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	must(t, os.Chmod(dir+"/..", 0o755))
	must(t, os.Mkdir(dir+"/src", 0o755))
	must(t, os.WriteFile(dir+"/src/set-id", []byte("x"), 0o755))
	must(t, os.Chmod(dir+"/src/set-id", 0o755|os.ModeSetuid|os.ModeSetgid))
	must(t, unix.Setxattr(dir+"/src/set-id", "user.test", []byte("value"), 0))
	const user = 65534
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its rights
		done <- func() error {
			if err := unix.Setfsgid(user); err != nil {
				return err
			}
			if err := unix.Setfsuid(user); err != nil {
				return err
			}
			return Tree(never, dir+"/src", dir+"/dst")
		}()
	}()
	must(t, <-done)
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/dst/set-id", &st))
	if st.Mode != unix.S_IFREG|0o755 || st.Uid != user || st.Gid != user {
		t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
	if got := xattr(t, dir+"/dst/set-id", "user.test"); got != "value" {
		t.Errorf("attribute %q", got)
	}
}
