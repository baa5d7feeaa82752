package fuse_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asNobody runs a shell command as the user nobody.
func asNobody(t *testing.T, command string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func testPermissions(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	writeFile(t, dir+"/secret", "s")
	must(t, os.Chmod(dir+"/secret", 0o600))
	must(t, os.Mkdir(dir+"/theirs", 0o777))
	must(t, unix.Chmod(dir+"/theirs", 0o1777))
	writeFile(t, dir+"/theirs/mine", "m")
	for _, c := range []struct {
		command string
		ok      bool
	}{
		{"cat " + dir + "/secret", false},
		{"touch " + dir + "/x", false},
		{"ls " + dir, true},
		{"echo hi > " + dir + "/theirs/a && cat " + dir + "/theirs/a", true},
		{"rm -f " + dir + "/theirs/mine", false}, // sticky
		{"chmod 777 " + dir + "/secret", false},
		{"chown 65534 " + dir + "/theirs/mine", false},
		{"chmod 600 " + dir + "/theirs/a && mv " + dir + "/theirs/a " + dir + "/theirs/b", true},
	} {
		if out, err := asNobody(t, c.command); (err == nil) != c.ok {
			t.Errorf("%s: %v %s", c.command, err, out)
		}
	}
	if st := stat(t, dir+"/theirs/b"); st.Uid != 65534 || st.Gid != 65534 || st.Mode&0o777 != 0o600 {
		t.Errorf("made by nobody: %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	must(t, os.Chown(dir+"/theirs/b", 12, 34))
	if st := stat(t, dir+"/theirs/b"); st.Uid != 12 || st.Gid != 34 {
		t.Errorf("after chown: %d:%d", st.Uid, st.Gid)
	}
}

// testSetUID checks that set-user-id goes when somebody changes the file.
func testSetUID(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	must(t, os.Chmod(dir, 0o777))
	for _, change := range []string{
		"echo x >> f", "truncate -s 1 f", ": > f", "fallocate -l 100000 f", "fallocate -p -o 1 -l 2 f",
	} {
		writeFile(t, dir+"/f", "1234")
		must(t, unix.Chmod(dir+"/f", 0o6777))
		if out, err := asNobody(t, "cd "+dir+" && "+change); err != nil {
			t.Errorf("%s: %v %s", change, err, out)
		}
		if mode := stat(t, dir+"/f").Mode & 0o7777; mode != 0o777 {
			t.Errorf("mode %o after %q by another user, want 777", mode, change)
		}
	}
	must(t, unix.Chmod(dir+"/f", 0o4755))
	must(t, os.Chown(dir+"/f", 1, 1))
	if mode := stat(t, dir+"/f").Mode & 0o7777; mode != 0o755 {
		t.Errorf("mode %o after chown, want 755", mode)
	}
	testSetUIDUnowned(t, dir)
	must(t, unix.Chmod(dir+"/f", 0o4755))
	f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("by root")
	must(t, err)
	if mode := stat(t, dir+"/f").Mode & 0o7777; mode != 0o4755 {
		t.Errorf("mode %o after a write by root, want 4755", mode)
	}
	must(t, os.Mkdir(dir+"/group", 0o755))
	must(t, os.Chown(dir+"/group", 0, 77))
	must(t, unix.Chmod(dir+"/group", 0o2755))
	must(t, os.Mkdir(dir+"/group/sub", 0o755))
	if st := stat(t, dir+"/group/sub"); st.Gid != 77 || st.Mode&syscall.S_ISGID == 0 {
		t.Errorf("in a set-group-id directory: gid %d, mode %o", st.Gid, st.Mode)
	}
}

// testSetUIDUnowned: chown(-1, -1) takes set-user-id off files, where their owner or root calls it.
func testSetUIDUnowned(t *testing.T, dir string) {
	for _, c := range []struct {
		who         string
		owner       int
		before, now uint32
	}{
		{"root", 65534, 0o6755, 0o755},
		{"its owner", 65534, 0o6755, 0o755},
		{"its owner", 65534, 0o2745, 0o2745}, // no execution by the group
		{"another", 1, 0o6755, 0o6755},
	} {
		writeFile(t, dir+"/unowned", "")
		must(t, os.Chown(dir+"/unowned", c.owner, c.owner))
		must(t, unix.Chmod(dir+"/unowned", c.before))
		if c.who == "root" {
			must(t, unix.Chown(dir+"/unowned", -1, -1))
		} else if out, err := asNobody(t, "chown : "+dir+"/unowned"); err != nil {
			t.Errorf("chown(-1, -1) by %s: %v %s", c.who, err, out)
		}
		if mode := stat(t, dir+"/unowned").Mode & 0o7777; mode != c.now {
			t.Errorf("mode %o, was %o, after chown(-1, -1) by %s, want %o", mode, c.before, c.who, c.now)
		}
	}
	must(t, os.Mkdir(dir+"/unowned.d", 0o755))
	must(t, unix.Chmod(dir+"/unowned.d", 0o6777))
	must(t, unix.Chown(dir+"/unowned.d", -1, -1))
	if mode := stat(t, dir+"/unowned.d").Mode & 0o7777; mode != 0o6777 {
		t.Errorf("mode %o of a directory after chown(-1, -1), want 6777", mode)
	}
}

func testTimes(t *testing.T, dir string) {
	writeFile(t, dir+"/f", "")
	for _, ts := range []time.Time{
		time.Unix(1_700_000_000, 123_456_789), time.Unix(-86400, 1), time.Unix(0, 0), time.Unix(4_000_000_000, 999_999_999),
	} {
		must(t, os.Chtimes(dir+"/f", ts.Add(time.Nanosecond), ts))
		st := stat(t, dir+"/f")
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(ts) {
			t.Errorf("mtime %v, want %v", got, ts)
		}
		if got := time.Unix(st.Atim.Unix()); !got.Equal(ts.Add(time.Nanosecond)) {
			t.Errorf("atime %v, want %v", got, ts.Add(time.Nanosecond))
		}
	}
	must(t, os.Chtimes(dir+"/f", time.Time{}, time.Unix(100, 0)))
	before := stat(t, dir+"/f")
	f, err := os.OpenFile(dir+"/f", os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("x")
	must(t, err)
	after := stat(t, dir+"/f")
	if time.Since(time.Unix(after.Mtim.Unix())) > time.Minute {
		t.Error("a write did not set the mtime")
	}
	if after.Ctim.Nano() < before.Ctim.Nano() {
		t.Error("ctime went back")
	}
	var x unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, dir+"/f", 0, unix.STATX_BTIME, &x))
	if x.Mask&unix.STATX_BTIME == 0 || time.Since(time.Unix(x.Btime.Sec, 0)) > time.Minute {
		t.Errorf("time of birth: mask %#x, %v", x.Mask, x.Btime)
	}
}

func testExec(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/script", []byte("#!/bin/sh\necho from the mount\n"), 0o755))
	out, err := exec.Command(dir + "/script").CombinedOutput()
	if err != nil || string(out) != "from the mount\n" {
		t.Errorf("%q, %v", out, err)
	}
	data, err := os.ReadFile("/bin/true")
	must(t, err)
	must(t, os.WriteFile(dir+"/true", data, 0o755))
	if out, err := exec.Command(dir + "/true").CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}
func testSpecialFiles(t *testing.T, dir string) {
	must(t, unix.Mkfifo(dir+"/fifo", 0o640))
	if st := stat(t, dir+"/fifo"); st.Mode != syscall.S_IFIFO|0o640 {
		t.Errorf("fifo has mode %o", st.Mode)
	}
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(dir+"/dev", syscall.S_IFCHR|0o600, int(unix.Mkdev(5, 300))))
		if st := stat(t, dir+"/dev"); st.Mode != syscall.S_IFCHR|0o600 || st.Rdev != unix.Mkdev(5, 300) {
			t.Errorf("device has mode %o, number %x", st.Mode, st.Rdev)
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/sock"}))
	if st := stat(t, dir+"/sock"); st.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		t.Errorf("socket has mode %o", st.Mode)
	}
}
