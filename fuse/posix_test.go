package fuse_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
)

// TestPosix does what programs may rely on and seldom do. docs/posix.md names its
// parts.
func TestPosix(t *testing.T) {
	s := testserver.Mounted(t)
	for _, part := range []struct {
		name string
		run  func(t *testing.T, dir string)
	}{
		{"Times", testPosixTimes},
		{"TimesOfReading", testTimesOfReading},
		{"DirectIO", testDirectIO},
		{"SpecialFilesWork", testSpecialFilesWork},
		{"Sticky", testSticky},
		{"SetgidDirectory", testSetgidDirectory},
		{"LongNames", testLongNames},
		{"LongPaths", testLongPaths},
		{"LongSymlinks", testLongSymlinks},
		{"RenameFlags", testRenameFlags},
		{"SeekHoles", testSeekHoles},
		{"Syncfs", testSyncfs},
		{"Telldir", testTelldir},
		{"Cannot", testCannot},
	} {
		t.Run(part.name, func(t *testing.T) {
			dir := s.Mount + "/" + part.name
			must(t, os.Mkdir(dir, 0o755))
			part.run(t, dir)
		})
	}
}

// past is what all times are set to before a call; ctime cannot be set, so it is
// compared with what it was.
var past = []unix.Timespec{{Sec: 1_000_000_000}, {Sec: 1_000_000_000}}

// testPosixTimes: for each call, which times of the file and of the directory
// change. a, m, c: of the file; A, M, C: of the directory.
func testPosixTimes(t *testing.T, dir string) {
	for _, c := range []struct {
		call string
		do   func(d, f string) error
		want string
	}{
		{"stat", func(d, f string) error { _, err := os.Stat(f); return err }, ""},
		{"open", func(d, f string) error { return withFile(f, unix.O_RDWR, func(int) error { return nil }) }, ""},
		{"write", func(d, f string) error { return rewrite(f, 0, "x") }, "mc"},
		{"write behind the end", func(d, f string) error { return rewrite(f, 1<<20, "x") }, "mc"},
		{"write of nothing", func(d, f string) error { return rewrite(f, 0, "") }, ""},
		{"append", func(d, f string) error {
			return withFile(f, unix.O_WRONLY|unix.O_APPEND, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		}, "mc"},
		{"truncate shorter", func(d, f string) error { return unix.Truncate(f, 3) }, "mc"},
		{"truncate longer", func(d, f string) error { return unix.Truncate(f, 30) }, "mc"},
		{"ftruncate to the same size", func(d, f string) error {
			return withFile(f, unix.O_WRONLY, func(fd int) error { return unix.Ftruncate(fd, int64(len(timesContent))) })
		}, "mc"},
		{"open with O_TRUNC", func(d, f string) error {
			return withFile(f, unix.O_WRONLY|unix.O_TRUNC, func(int) error { return nil })
		}, "mc"},
		{"fallocate", func(d, f string) error { return fallocate(f, 0, 0, 1<<20) }, "mc"},
		{"punch", func(d, f string) error {
			return fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		}, "mc"},
		{"fallocate within", func(d, f string) error { return fallocate(f, 0, 0, 5) }, "c"},
		{"fallocate behind the end", func(d, f string) error { return fallocate(f, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20) }, "c"},
		{"zero", func(d, f string) error { return fallocate(f, unix.FALLOC_FL_ZERO_RANGE, 0, 4096) }, "mc"},
		{"copy_file_range to it", func(d, f string) error { return copyRange(d+"/source", f) }, "mc"},
		{"copy_file_range from it", func(d, f string) error { return copyRange(f, dir+"/copy") }, ""},
		{"store through a mapping", storeMapped, "amc"},
		{"flock", func(d, f string) error {
			return withFile(f, unix.O_RDWR, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) })
		}, ""},
		{"utimes of the modification alone", func(d, f string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0)
		}, "mc"},
		{"chmod", func(d, f string) error { return unix.Chmod(f, 0o600) }, "c"},
		{"chmod to the same", func(d, f string) error { return unix.Chmod(f, 0o644) }, "c"},
		{"chown", func(d, f string) error { return unix.Chown(f, os.Getuid(), os.Getgid()) }, "c"},
		{"chown to nobody", func(d, f string) error { return unix.Chown(f, -1, -1) }, "c"},
		{"fchown to nobody", func(d, f string) error {
			return withFile(f, unix.O_RDONLY, func(fd int) error { return unix.Fchown(fd, -1, -1) })
		}, "c"},
		{"chown of a directory to nobody", func(d, f string) error { return unix.Chown(d, -1, -1) }, "C"},
		{"utimes of now", func(d, f string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, f, nil, 0) }, "amc"},
		{"setxattr", func(d, f string) error { return unix.Setxattr(f, "user.x", nil, 0) }, "c"},
		{"getxattr of none", func(d, f string) error { unix.Getxattr(f, "user.x", nil); return nil }, ""},
		{"removexattr of none", func(d, f string) error { unix.Removexattr(f, "user.x"); return nil }, ""},
		{"setxattr and removexattr of a directory", func(d, f string) error {
			return errors.Join(unix.Setxattr(d, "user.x", nil, 0), unix.Removexattr(d, "user.x"))
		}, "C"},
		{"fsync", func(d, f string) error { return withFile(f, unix.O_RDWR, unix.Fsync) }, ""},
		{"link", func(d, f string) error { return os.Link(f, d+"/g") }, "cMC"},
		{"unlink of one name", func(d, f string) error { return unlinkSecond(d, f) }, "cMC"},
		{"rename", func(d, f string) error { return os.Rename(f, d+"/g") }, "cMC"},
		{"rename over", func(d, f string) error { return os.Rename(d+"/other", f) }, "cMC"},
		{"rename to itself", func(d, f string) error { return os.Rename(f, f) }, ""},
		{"rename to another directory", func(d, f string) error { return os.Rename(f, d+"/sub/g") }, "cMC"},
		{"rename from another directory", func(d, f string) error { return os.Rename(d+"/sub", dir+"/moved") }, "MC"},
		{"exchange", func(d, f string) error {
			return unix.Renameat2(unix.AT_FDCWD, f, unix.AT_FDCWD, d+"/sub", unix.RENAME_EXCHANGE)
		}, "cMC"},
		{"O_TMPFILE", func(d, f string) error {
			return withFile(d, unix.O_TMPFILE|unix.O_RDWR, func(int) error { return nil })
		}, ""},
		{"a name for an O_TMPFILE", func(d, f string) error {
			return withFile(d, unix.O_TMPFILE|unix.O_RDWR, func(fd int) error {
				return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/g", unix.AT_SYMLINK_FOLLOW)
			})
		}, "MC"},
		{"create", func(d, f string) error { return os.WriteFile(d+"/g", nil, 0o600) }, "MC"},
		{"create of what is there", func(d, f string) error {
			return withFile(f, unix.O_CREAT|unix.O_WRONLY, func(int) error { return nil })
		}, ""},
		{"mkdir", func(d, f string) error { return os.Mkdir(d+"/g", 0o700) }, "MC"},
		{"rmdir", func(d, f string) error { return os.Remove(d + "/sub") }, "MC"},
		{"symlink", func(d, f string) error { return os.Symlink("f", d+"/g") }, "MC"},
		{"mknod", func(d, f string) error { return unix.Mkfifo(d+"/g", 0o600) }, "MC"},
		{"lookup of nothing", func(d, f string) error { os.Stat(d + "/none"); return nil }, ""},
		{"mkdir of what is there", func(d, f string) error { os.Mkdir(d+"/sub", 0o700); return nil }, ""},
	} {
		d := dir + "/" + strings.ReplaceAll(c.call, " ", "_")
		must(t, os.MkdirAll(d+"/sub", 0o755))
		f := d + "/f"
		writeFile(t, f, timesContent)
		writeFile(t, d+"/source", timesContent)
		fd, err := unix.Open(f, unix.O_RDONLY, 0) // also when its name is gone
		must(t, err)
		must(t, unix.UtimesNano(f, past))
		must(t, unix.UtimesNano(d, past))
		if c.call == "unlink of one name" || c.call == "rename over" {
			must(t, prepareNames(d, f))
			must(t, unix.UtimesNano(d, past))
		}
		fBefore, dBefore := fstat(t, fd), stat(t, d)
		if err := c.do(d, f); err != nil {
			t.Errorf("%s: %v", c.call, err)
		}
		got := changedTimes(fBefore, fstat(t, fd), "amc") + changedTimes(dBefore, stat(t, d), "AMC")
		unix.Close(fd)
		if got != c.want {
			t.Errorf("%s changes %q, want %q", c.call, got, c.want)
		}
	}
}

const timesContent = "0123456789"

func copyRange(from, to string) error {
	return withFile(from, unix.O_RDONLY, func(src int) error {
		return withFile(to, unix.O_WRONLY|unix.O_CREAT, func(dst int) error {
			n, err := unix.CopyFileRange(src, nil, dst, nil, 5, 0)
			if err == nil && n != 5 {
				err = fmt.Errorf("%d bytes copied", n)
			}
			return err
		})
	})
}

// storeMapped stores into a page of a mapping, which is read first.
func storeMapped(_, f string) error {
	return withFile(f, unix.O_RDWR, func(fd int) error {
		p, err := unix.Mmap(fd, 0, len(timesContent), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return err
		}
		p[0] = 'x'
		return errors.Join(unix.Msync(p, unix.MS_SYNC), unix.Munmap(p))
	})
}

// prepareNames gives the calls that need them a second name and another file.
func prepareNames(d, f string) error {
	if err := os.Link(f, d+"/second"); err != nil {
		return err
	}
	return os.WriteFile(d+"/other", nil, 0o600)
}

func unlinkSecond(d, _ string) error { return os.Remove(d + "/second") }

func withFile(path string, flags int, do func(fd int) error) error {
	fd, err := unix.Open(path, flags, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

func fstat(t *testing.T, fd int) (st unix.Stat_t) {
	t.Helper()
	must(t, unix.Fstat(fd, &st))
	return st
}

// changedTimes names those of the three times that differ.
func changedTimes(a, b unix.Stat_t, names string) string {
	var out []byte
	for k, differ := range []bool{a.Atim != b.Atim, a.Mtim != b.Mtim, a.Ctim != b.Ctim} {
		if differ {
			out = append(out, names[k])
		}
	}
	return string(out)
}

// testTimesOfReading: reading sets the time of access, as with relatime: if it
// would be before the last change, or is a day old. With O_NOATIME it does not.
func testTimesOfReading(t *testing.T, dir string) {
	f, link := dir+"/f", dir+"/link"
	writeFile(t, f, "content")
	must(t, os.Symlink("f", link))
	must(t, os.Mkdir(dir+"/d", 0o755))
	read := func(flags int) {
		t.Helper()
		must(t, withFile(f, unix.O_RDONLY|flags, func(fd int) error { _, err := unix.Read(fd, make([]byte, 10)); return err }))
	}
	age := func(path string, ago time.Duration) unix.Timespec {
		t.Helper()
		ts := unix.NsecToTimespec(time.Now().Add(-ago).UnixNano())
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, past[1]}, unix.AT_SYMLINK_NOFOLLOW))
		return ts
	}
	old := age(f, 48*time.Hour)
	read(unix.O_NOATIME)
	if got := stat(t, f).Atim; got != old {
		t.Errorf("O_NOATIME: read set the time of access to %v", got)
	}
	read(0)
	now := stat(t, f)
	if now.Atim == old || now.Mtim != past[1] {
		t.Errorf("read: atime %v, mtime %v", now.Atim, now.Mtim)
	}
	read(0)
	if again := stat(t, f); again.Atim != now.Atim {
		t.Error("a second read set it again")
	}
	old = age(link, 48*time.Hour)
	_, err := os.Readlink(link)
	must(t, err)
	if got := stat(t, link).Atim; got == old {
		t.Error("readlink does not set the time of access")
	}
	old = age(dir+"/d", 48*time.Hour)
	_, err = os.ReadDir(dir + "/d")
	must(t, err)
	if got := stat(t, dir+"/d").Atim; got == old {
		t.Error("readdir does not set the time of access")
	}
}

// testSticky: in a sticky directory a name goes by its owner, or the directory's.
func testSticky(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	d := dir + "/tmp"
	must(t, os.Mkdir(d, 0o777))
	must(t, unix.Chmod(d, 0o1777))
	for _, name := range []string{"roots", "other"} {
		writeFile(t, d+"/"+name, "")
		must(t, os.Chmod(d+"/"+name, 0o666))
	}
	for _, c := range []struct {
		command string
		ok      bool
	}{
		{"rm -f roots", false}, {"mv roots x", false}, {"touch mine && mv mine roots", false},
		{"touch mine && rm mine", true}, {"touch mine && mv mine mine2", true}, {"echo x > roots", true},
	} {
		if out, err := asNobody(t, "cd "+d+" && "+c.command); (err == nil) != c.ok {
			t.Errorf("%s: %v %s", c.command, err, out)
		}
	}
	must(t, os.Chown(d, 65534, 65534))
	if out, err := asNobody(t, "cd "+d+" && rm -f roots"); err != nil {
		t.Errorf("the owner of a sticky directory cannot remove: %s", out)
	}
}

// testSetgidDirectory: what is made in one has its group; directories the bit, too.
func testSetgidDirectory(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	d := dir + "/d"
	must(t, os.Mkdir(d, 0o777))
	must(t, os.Chown(d, 0, 77))
	must(t, unix.Chmod(d, 0o2777))
	writeFile(t, d+"/f", "")
	must(t, os.Mkdir(d+"/sub", 0o755))
	must(t, os.Symlink("x", d+"/link"))
	tmp := tmpfile(t, d, 0)
	if st := fstat(t, int(tmp.Fd())); st.Gid != 77 {
		t.Errorf("O_TMPFILE: group %d", st.Gid)
	}
	for name, bit := range map[string]uint32{"f": 0, "sub": syscall.S_ISGID, "link": 0} {
		if st := stat(t, d+"/"+name); st.Gid != 77 || st.Mode&syscall.S_ISGID != bit {
			t.Errorf("%s: group %d, mode %o", name, st.Gid, st.Mode)
		}
	}
	// Who is not of the group makes no set-group-id program of it.
	if out, err := asNobody(t, "cd "+d+" && : > n && chmod 2755 n"); err != nil {
		t.Error(out, err)
	}
	if st := stat(t, d+"/n"); st.Gid != 77 || st.Mode&0o7777 != 0o755 {
		t.Errorf("made by nobody: group %d, mode %o", st.Gid, st.Mode)
	}
}

func testLongNames(t *testing.T, dir string) {
	name, longer := dir+"/"+strings.Repeat("n", 255), dir+"/"+strings.Repeat("n", 256)
	short := dir + "/short"
	writeFile(t, short, "")
	for what, make := range map[string]func(path string) error{
		"open":    func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"mkdir":   func(p string) error { return os.Mkdir(p, 0o700) },
		"symlink": func(p string) error { return os.Symlink("x", p) },
		"mknod":   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"link":    func(p string) error { return os.Link(short, p) },
		"rename": func(p string) error {
			if err := os.WriteFile(dir+"/moving", nil, 0o600); err != nil {
				return err
			}
			return os.Rename(dir+"/moving", p)
		},
	} {
		if err := make(name); err != nil {
			t.Errorf("%s of a name of 255 bytes: %v", what, err)
		}
		must(t, os.Remove(name))
		wantErrno(t, make(longer), syscall.ENAMETOOLONG)
	}
	_, err := os.Lstat(longer)
	wantErrno(t, err, syscall.ENAMETOOLONG)
}

func testLongPaths(t *testing.T, dir string) {
	// A path of 4095 bytes and its zero are PATH_MAX; what lies deeper is reached in steps.
	path := dir
	for len(path)+1+250 < 4094 {
		path += "/" + strings.Repeat("d", 250)
		must(t, os.Mkdir(path, 0o755))
	}
	full := path + "/" + strings.Repeat("f", 4095-len(path)-1)
	writeFile(t, full, "deep")
	wantContent(t, full, "deep")
	if len(full) != 4095 {
		t.Errorf("path of %d bytes", len(full))
	}
	_, err := os.Lstat(full + "f")
	wantErrno(t, err, syscall.ENAMETOOLONG)
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	for range 20 {
		must(t, unix.Mkdirat(fd, strings.Repeat("e", 255), 0o755))
		next, err := unix.Openat(fd, strings.Repeat("e", 255), unix.O_DIRECTORY|unix.O_RDONLY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	must(t, os.RemoveAll(dir+"/"+strings.Repeat("d", 250)))
}

func testLongSymlinks(t *testing.T, dir string) {
	target := strings.Repeat("x/", 2047) + "y"
	must(t, os.Symlink(target, dir+"/link"))
	buf := make([]byte, 5000)
	if n, err := unix.Readlink(dir+"/link", buf); err != nil || string(buf[:n]) != target {
		t.Errorf("%d bytes of %d, %v", n, len(target), err)
	}
	wantErrno(t, os.Symlink(target+"z", dir+"/longer"), syscall.ENAMETOOLONG)
	must(t, os.Symlink("loop", dir+"/loop"))
	_, err := os.Stat(dir + "/loop")
	wantErrno(t, err, syscall.ELOOP)
}

func testRenameFlags(t *testing.T, dir string) {
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, dir+from, unix.AT_FDCWD, dir+to, flags)
	}
	must(t, os.MkdirAll(dir+"/d/inner", 0o755))
	writeFile(t, dir+"/f", "file")
	wantErrno(t, rename("/f", "/d", unix.RENAME_NOREPLACE), syscall.EEXIST)
	wantErrno(t, rename("/f", "/none", unix.RENAME_EXCHANGE), syscall.ENOENT)
	must(t, rename("/f", "/new", unix.RENAME_NOREPLACE))
	must(t, rename("/new", "/d", unix.RENAME_EXCHANGE)) // a file and a directory
	wantContent(t, dir+"/d", "file")
	if st := stat(t, dir+"/new"); st.Mode&syscall.S_IFMT != syscall.S_IFDIR || st.Nlink != 3 {
		t.Errorf("mode %o, %d links", st.Mode, st.Nlink)
	}
	wantErrno(t, rename("/new", "/new/inner", unix.RENAME_EXCHANGE), syscall.EINVAL)
	must(t, os.Mkdir(dir+"/other", 0o755))
	must(t, rename("/new/inner", "/other", unix.RENAME_EXCHANGE))
	wantErrno(t, rename("/d", "/x", unix.RENAME_WHITEOUT), syscall.EINVAL)
	wantNames(t, dir, "d", "new", "other")
}

// testSeekHoles goes through holes and data as cp --sparse does.
func testSeekHoles(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	fd := int(f.Fd())
	var want []string
	for k := range int64(5) {
		_, err := f.WriteAt(make([]byte, 8192), k<<20)
		must(t, err)
		want = append(want, fmt.Sprintf("%d-%d", k<<20, k<<20+8192))
	}
	must(t, unix.Fallocate(fd, 0, 6<<20, 1<<20)) // never written: a hole
	var got []string
	for off := int64(0); ; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == syscall.ENXIO {
			break
		}
		must(t, err)
		off, err = unix.Seek(fd, data, unix.SEEK_HOLE)
		must(t, err)
		got = append(got, fmt.Sprintf("%d-%d", data, off))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("data at %v, want %v", got, want)
	}
	if end, err := unix.Seek(fd, 6<<20, unix.SEEK_HOLE); end != 6<<20 {
		t.Errorf("hole at %d, %v", end, err)
	}
	_, err = unix.Seek(fd, 7<<20, unix.SEEK_HOLE)
	wantErrno(t, err, syscall.ENXIO)
	_, err = unix.Seek(fd, -1, unix.SEEK_DATA)
	wantErrno(t, err, syscall.ENXIO)
}

// testSyncfs: the call succeeds, and what was fsync'ed before needs none.
func testSyncfs(t *testing.T, dir string) {
	writeFile(t, dir+"/f", "content")
	must(t, withFile(dir+"/f", unix.O_RDONLY, unix.Syncfs))
	unix.Sync()
}
