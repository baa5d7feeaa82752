package fuse_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const aclAccess, aclDefault = "system.posix_acl_access", "system.posix_acl_default"

type namedUser struct {
	id   uint32
	perm uint16
}

// aclBytes is a list with one named user, as setxattr takes it.
func aclBytes(user, group uint16, named namedUser, mask, other uint16) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, user, 0xFFFFFFFF}, {2, named.perm, named.id}, {4, group, 0xFFFFFFFF}, {0x10, mask, 0xFFFFFFFF}, {0x20, other, 0xFFFFFFFF}} {
		b = le.AppendUint32(le.AppendUint16(le.AppendUint16(b, e.tag), e.perm), e.id)
	}
	return b
}

// getfacl returns the list of a file in short form.
func getfacl(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("getfacl", "-cEnp", path).CombinedOutput()
	if err != nil {
		t.Fatalf("getfacl: %v %s", err, out)
	}
	return strings.Join(strings.Fields(string(out)), ",")
}

func mustShell(t *testing.T, dir, command string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", command)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", command, err, out)
	}
}

func needACLTools(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"setfacl", "getfacl", "setfattr"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
}

// testACLEnforced: what the list grants and denies to another user.
func testACLEnforced(t *testing.T, dir string) {
	needACLTools(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	writeFile(t, dir+"/f", "content")
	for _, c := range []struct {
		list, command string
		ok            bool
	}{
		{"u::rw,g::-,o::-", "cat f", false},
		{"u::rw,g::-,u:65534:r,m::r,o::-", "cat f", true},
		{"u::rw,g::-,u:65534:r,m::r,o::-", "echo x >> f", false},
		{"u::rw,g::-,u:65534:rw,m::rw,o::-", "echo x >> f", true},
		{"u::rw,g::-,u:65534:rw,m::r,o::-", "echo x >> f", false},
		{"u::rw,g::-,u:65534:-,m::rw,o::rw", "cat f", false},
		{"u::rw,g::-,g:65534:r,m::r,o::-", "cat f", true},
		{"u::rw,g::-,g:12345:r,m::r,o::-", "cat f", false},
		{"u::rw,g::rw,o::rw", "echo x >> f", true},
	} {
		mustShell(t, dir, "setfacl --set "+c.list+" f")
		if out, err := asNobody(t, "cd "+dir+" && "+c.command); (err == nil) != c.ok {
			t.Errorf("with %s: %q as nobody: %v %s", c.list, c.command, err, out)
		}
	}
	// A list is the owner's to set.
	if out, err := asNobody(t, "setfacl -m u:1:r "+dir+"/f"); err == nil {
		t.Errorf("nobody set the list of a file of root: %s", out)
	}
}

// testACLMode: mode and list are in step, whichever is set.
func testACLMode(t *testing.T, dir string) {
	needACLTools(t)
	f := dir + "/f"
	writeFile(t, f, "")
	want := func(mode uint32, list string) {
		t.Helper()
		if got := stat(t, f).Mode & 0o7777; got != mode {
			t.Errorf("mode %o, want %o", got, mode)
		}
		if got := getfacl(t, f); got != list {
			t.Errorf("list %s, want %s", got, list)
		}
	}
	want(0o644, "user::rw-,group::r--,other::r--")
	must(t, unix.Setxattr(f, aclAccess, aclBytes(6, 4, namedUser{1000, 7}, 5, 0), 0))
	wantXattrs(t, f, aclAccess)
	want(0o650, "user::rw-,user:1000:rwx,group::r--,mask::r-x,other::---")
	must(t, unix.Chmod(f, 0o4761)) // the mask, not the group
	want(0o4761, "user::rwx,user:1000:rwx,group::r--,mask::rw-,other::--x")
	mustShell(t, dir, "setfacl -m u:1001:r f")
	want(0o4771, "user::rwx,user:1000:rwx,user:1001:r--,group::r--,mask::rwx,other::--x")
	mustShell(t, dir, "setfacl -x u:1000,u:1001,m f")
	want(0o4741, "user::rwx,group::r--,other::--x")
	wantXattrs(t, f) // the mode says it all
	must(t, unix.Removexattr(f, aclAccess))
	must(t, unix.Setxattr(f, aclAccess, aclBytes(6, 0, namedUser{1000, 6}, 6, 0), 0))
	must(t, unix.Removexattr(f, aclAccess))
	want(0o4660, "user::rw-,group::rw-,other::---")

	wantErrno(t, unix.Setxattr(f, aclAccess, []byte{2, 0, 0, 0, 1}, 0), syscall.EINVAL)
	short := aclBytes(6, 0, namedUser{1000, 6}, 6, 0)
	wantErrno(t, unix.Setxattr(f, aclAccess, short[:len(short)-8], 0), syscall.EINVAL) // no others
	wantErrno(t, unix.Setxattr(f, aclDefault, short, 0), syscall.EACCES)               // on a file
	must(t, os.Symlink("f", dir+"/link"))
	wantErrno(t, unix.Lsetxattr(dir+"/link", aclAccess, short, 0), syscall.EOPNOTSUPP)
}

// testACLInherited: new files have the default list of their directory, without it
// what the umask leaves.
func testACLInherited(t *testing.T, dir string) {
	needACLTools(t)
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	fd, err := unix.Open(dir+"/plain", unix.O_CREAT|unix.O_WRONLY, 0o666)
	must(t, err)
	unix.Close(fd)
	must(t, unix.Mkdir(dir+"/plaindir", 0o777))
	must(t, unix.Mkfifo(dir+"/plainfifo", 0o666))
	for name, want := range map[string]uint32{"plain": 0o640, "plaindir": 0o750, "plainfifo": 0o640} {
		if got := stat(t, dir+"/"+name).Mode & 0o777; got != want {
			t.Errorf("%s without a default list: mode %o, want %o", name, got, want)
		}
	}
	must(t, unix.Mkdir(dir+"/d", 0o777))
	mustShell(t, dir, "setfacl -d --set u::rwx,g::rx,u:1000:rwx,m::rwx,o::rx d")
	const list = "user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x"
	wantXattrs(t, dir+"/d", aclDefault)
	unix.Umask(0o077) // does not count in there
	fd, err = unix.Open(dir+"/d/file", unix.O_CREAT|unix.O_WRONLY, 0o664)
	must(t, err)
	unix.Close(fd)
	must(t, unix.Mkdir(dir+"/d/sub", 0o777))
	must(t, unix.Mkdir(dir+"/d/sub/sub", 0o700))
	must(t, unix.Mkfifo(dir+"/d/fifo", 0o600))
	must(t, os.Symlink("x", dir+"/d/link"))
	for name, want := range map[string]struct {
		mode uint32
		list string
	}{
		"file":    {0o664, "user::rw-,user:1000:rwx,group::r-x,mask::rw-,other::r--"},
		"sub":     {0o775, list + "," + defaults(list)},
		"sub/sub": {0o700, "user::rwx,user:1000:rwx,group::r-x,mask::---,other::---," + defaults(list)},
		"fifo":    {0o600, "user::rw-,user:1000:rwx,group::r-x,mask::---,other::---"},
	} {
		if got := stat(t, dir+"/d/"+name).Mode & 0o777; got != want.mode {
			t.Errorf("%s: mode %o, want %o", name, got, want.mode)
		}
		if got := getfacl(t, dir+"/d/"+name); got != want.list {
			t.Errorf("%s: list %s, want %s", name, got, want.list)
		}
	}
	wantXattrs(t, dir+"/d/link")
	// A default that says no more than a mode leaves no access list.
	mustShell(t, dir, "setfacl -b d; setfacl -d --set u::rwx,g::rx,o::- d; : > d/minimal")
	if mode := stat(t, dir+"/d/minimal").Mode & 0o777; mode != 0o640 {
		t.Errorf("with a minimal default: mode %o, want 640", mode)
	}
	wantXattrs(t, dir+"/d/minimal")
	mustShell(t, dir, "setfacl -k d; setfacl -k d")
	wantXattrs(t, dir+"/d")
	// Tools save and restore them.
	mustShell(t, dir, "getfacl -R d > saved; setfacl -R -b d; setfacl --restore=saved; getfacl -R d | cmp - saved; cp -a d copy; cd copy; getfacl -R . > ../a; cd ../d; getfacl -R . | cmp - ../a")
}

func defaults(list string) string {
	return "default:" + strings.ReplaceAll(list, ",", ",default:")
}

// testACLSetgid: set-group-id goes with a list that somebody sets who is not of
// the group.
func testACLSetgid(t *testing.T, dir string) {
	needACLTools(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	f := dir + "/f"
	for _, c := range []struct {
		gid  int
		keep bool
	}{{77, false}, {65534, true}} {
		os.Remove(f)
		writeFile(t, f, "")
		must(t, os.Chown(f, 65534, c.gid))
		must(t, unix.Chmod(f, 0o2755))
		if out, err := asNobody(t, "setfacl -m u:1000:r "+f); err != nil {
			t.Fatal(err, out)
		}
		if kept := stat(t, f).Mode&syscall.S_ISGID != 0; kept != c.keep {
			t.Errorf("group %d: set-group-id is kept: %v, want %v", c.gid, kept, c.keep)
		}
	}
}
