package fuse_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/testserver"
)

// testDirectIO: O_DIRECT takes any offset, length and memory.
func testDirectIO(t *testing.T, dir string) {
	fd, err := unix.Open(dir+"/f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o600)
	must(t, err)
	defer unix.Close(fd)
	want := make([]byte, 3<<20)
	for _, at := range []struct{ off, n int }{{0, 4096}, {4096, 1 << 20}, {512, 512}, {1, 1}, {3<<20 - 7, 7}, {100, 2<<20 + 3}} {
		p := bytes.Repeat([]byte{byte(at.n)}, at.n+1)[1:]
		n, err := unix.Pwrite(fd, p, int64(at.off))
		if err != nil || n != at.n {
			t.Errorf("write of %d at %d: %d, %v", at.n, at.off, n, err)
		}
		copy(want[at.off:], p)
		got := make([]byte, at.n)
		if n, err := unix.Pread(fd, got, int64(at.off)); err != nil || n != at.n || !bytes.Equal(got, p) {
			t.Errorf("read of %d at %d: %d, %v", at.n, at.off, n, err)
		}
	}
	wantContent(t, dir+"/f", string(want))
}

// testSpecialFilesWork: FIFOs and sockets connect processes. Device nodes are kept,
// but a mount that is not trusted with devices does not open them.
func testSpecialFilesWork(t *testing.T, dir string) {
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	mustShell(t, dir, `(echo through > fifo) & test "$(cat fifo)" = through`)
	l, err := net.Listen("unix", dir+"/sock")
	must(t, err)
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	c, err := net.Dial("unix", dir+"/sock")
	must(t, err)
	if got, err := io.ReadAll(c); string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	c.Close()
	l.Close()
	if os.Geteuid() != 0 {
		return
	}
	for name, mode := range map[string]uint32{"char": syscall.S_IFCHR, "block": syscall.S_IFBLK} {
		must(t, unix.Mknod(dir+"/"+name, mode|0o600, int(unix.Mkdev(1, 3))))
		if st := stat(t, dir+"/"+name); st.Mode != mode|0o600 || st.Rdev != unix.Mkdev(1, 3) {
			t.Errorf("%s: mode %o, device %x", name, st.Mode, st.Rdev)
		}
		_, err := unix.Open(dir+"/"+name, unix.O_RDWR, 0)
		wantErrno(t, err, syscall.EACCES)
	}
}

// lockHolder is a process that holds a lock on a file until it is killed.
const lockHolder = `
import fcntl, struct, sys
f = open(sys.argv[1], "r+")
if sys.argv[2] == "flock":
    fcntl.flock(f, fcntl.LOCK_EX)
else:
    command = {"posix": fcntl.F_SETLK, "ofd": 37}[sys.argv[2]]
    fcntl.fcntl(f, command, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 10, 10, 0))
print("locked", flush=True)
sys.stdin.read()
`

// TestLocks: POSIX locks, open file description locks and flock exclude processes
// from each other, make them wait, and end with a process that is killed.
func TestLocks(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("needs python3")
	}
	s := testserver.Mounted(t)
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	for kind, lock := range map[string]func(fd int, wait bool) error{
		"posix": func(fd int, wait bool) error {
			l := whole
			return unix.FcntlFlock(uintptr(fd), choose(wait, unix.F_SETLKW, unix.F_SETLK), &l)
		},
		"ofd": func(fd int, wait bool) error {
			l := whole
			return unix.FcntlFlock(uintptr(fd), choose(wait, unix.F_OFD_SETLKW, unix.F_OFD_SETLK), &l)
		},
		"flock": func(fd int, wait bool) error {
			return unix.Flock(fd, choose(wait, unix.LOCK_EX, unix.LOCK_EX|unix.LOCK_NB))
		},
	} {
		t.Run(kind, func(t *testing.T) { testLock(t, s.Mount+"/"+kind, kind, lock) })
	}
}

func choose(yes bool, a, b int) int {
	if yes {
		return a
	}
	return b
}

func testLock(t *testing.T, path, kind string, lock func(fd int, wait bool) error) {
	writeFile(t, path, strings.Repeat("x", 100))
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	must(t, err)
	defer unix.Close(fd)
	holder := exec.Command("python3", "-c", lockHolder, path, kind)
	stdin, err := holder.StdinPipe()
	must(t, err)
	defer stdin.Close()
	stdout, err := holder.StdoutPipe()
	must(t, err)
	must(t, holder.Start())
	defer holder.Wait()
	defer holder.Process.Kill()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	wantErrno(t, lock(fd, false), syscall.EAGAIN)
	if kind == "posix" {
		l := unix.Flock_t{Type: unix.F_RDLCK}
		must(t, unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &l))
		if l.Type != unix.F_WRLCK || l.Start != 10 || l.Len != 10 || int(l.Pid) != holder.Process.Pid {
			t.Errorf("F_GETLK: %+v, the holder is %d", l, holder.Process.Pid)
		}
		l = unix.Flock_t{Type: unix.F_WRLCK, Len: 10} // beside it
		must(t, unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &l))
	}
	got := make(chan error, 1)
	go func() { got <- lock(fd, true) }()
	ino := fmt.Sprintf(":%d ", stat(t, path).Ino)
	eventually(t, "somebody waits for the lock", func() bool {
		locks, err := os.ReadFile("/proc/locks")
		must(t, err)
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, "->") && strings.Contains(line, ino) {
				return true
			}
		}
		return false
	})
	select {
	case err := <-got:
		t.Fatalf("the lock was given away: %v", err)
	default:
	}
	must(t, holder.Process.Kill())
	must(t, <-got)
}

// TestAppendByProcesses: what several append at once is all there, each piece whole.
func TestAppendByProcesses(t *testing.T) {
	s := testserver.Mounted(t)
	const writers, each = 4, 100
	var procs []*exec.Cmd
	for w := range writers {
		p := exec.Command("sh", "-c", fmt.Sprintf(`exec >> log; i=0; while [ $i -lt %d ]; do echo writer-%d-$i; i=$((i+1)); done`, each, w))
		p.Dir = s.Mount
		must(t, p.Start())
		procs = append(procs, p)
	}
	for _, p := range procs {
		must(t, p.Wait())
	}
	got, err := os.ReadFile(s.Mount + "/log")
	must(t, err)
	next := map[string]int{}
	for line := range strings.Lines(string(got)) {
		writer, number, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "writer-"), "-")
		if !ok || number != fmt.Sprint(next[writer]) {
			t.Fatalf("line %q, want number %d", line, next[writer])
		}
		next[writer]++
	}
	for w := range writers {
		if next[fmt.Sprint(w)] != each {
			t.Errorf("writer %d: %d lines", w, next[fmt.Sprint(w)])
		}
	}
}

// TestSyncWrites: with O_SYNC and O_DSYNC a write is in the volume when it returns.
// Killing the server is enough to tell: it takes everything with it that was not
// committed.
func TestSyncWrites(t *testing.T) {
	s := testserver.Mounted(t)
	for name, flag := range map[string]int{"sync": unix.O_SYNC, "dsync": unix.O_DSYNC} {
		fd, err := unix.Open(s.Mount+"/"+name, unix.O_CREAT|unix.O_WRONLY|flag, 0o600)
		must(t, err)
		_, err = unix.Write(fd, []byte("durable"))
		must(t, err)
		defer unix.Close(fd)
	}
	f, err := os.Create(s.Mount + "/rwf")
	must(t, err)
	defer f.Close()
	_, err = unix.Pwritev2(int(f.Fd()), [][]byte{[]byte("durable")}, 0, unix.RWF_DSYNC)
	must(t, err)
	s.Kill()
	s = s.Restart()
	for _, name := range []string{"sync", "dsync", "rwf"} {
		wantContent(t, s.Mount+"/"+name, "durable")
	}
}

// position is a name in a directory, and where reading goes on behind it.
type position struct {
	name string
	off  int64
}

// positions reads a directory from where fd stands, at most limit names.
func positions(t *testing.T, fd, limit int) (out []position) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		must(t, err)
		if n == 0 {
			return out
		}
		for b := buf[:n]; len(b) > 0; {
			size := binary.NativeEndian.Uint16(b[16:])
			name, _, _ := bytes.Cut(b[19:size], []byte{0})
			if string(name) != "." && string(name) != ".." {
				out = append(out, position{string(name), int64(binary.NativeEndian.Uint64(b[8:]))})
			}
			b = b[size:]
		}
		if len(out) >= limit {
			return out
		}
	}
}

// testTelldir: a position stays good while names come and go before and behind it.
func testTelldir(t *testing.T, dir string) {
	const files = 5000
	for k := range files {
		must(t, unix.Mknod(fmt.Sprintf("%s/%d", dir, k), syscall.S_IFREG|0o600, 0))
	}
	d := mustOpenDir(t, dir)
	fd := int(d.Fd())
	all := positions(t, fd, files+1)
	if len(all) != files {
		t.Fatalf("%d names", len(all))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	gone := map[string]bool{}
	for _, k := range rng.Perm(files)[:files/3] {
		gone[all[k].name] = true
		must(t, os.Remove(dir+"/"+all[k].name))
		must(t, unix.Mknod(dir+"/new-"+all[k].name, syscall.S_IFREG|0o600, 0))
	}
	for range 300 {
		k := rng.IntN(files)
		_, err := unix.Seek(fd, all[k].off, unix.SEEK_SET)
		must(t, err)
		for k++; k < files && gone[all[k].name]; k++ {
		}
		got := positions(t, fd, 1)
		switch {
		case k < files && (len(got) == 0 || got[0].name != all[k].name):
			t.Fatalf("behind position %d: %v, want %q", k, got[:min(1, len(got))], all[k].name)
		case k == files && (len(got) == 0 || !strings.HasPrefix(got[0].name, "new-")):
			t.Fatalf("behind the last: %v", got[:min(1, len(got))])
		}
	}
}
