package window

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/internal/pinprobe"
)

// storeEnv makes the test binary a holder that stores into a window when told to.
const storeEnv = "HOLDFAST_WINDOW_STORE"

func TestMain(m *testing.M) {
	if os.Getenv(storeEnv) != "" {
		storeLate()
		return
	}
	goleak.VerifyTestMain(m)
}

const page = extent.BlockSize

func newWindow(t testing.TB, pages int64) *Window {
	t.Helper()
	w, err := New(7, "test", pages*page)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Detach() })
	return w
}

// descriptor opens the window as its holder.
func descriptor(t testing.TB, w *Window, write bool) *os.File {
	t.Helper()
	f, err := w.Open(write)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// mapped maps the window as its holder.
func mapped(t testing.TB, w *Window) []byte {
	t.Helper()
	mem, err := unix.Mmap(int(descriptor(t, w, true).Fd()), 0, int(w.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	return mem
}

// allocated returns how many bytes of memory the object has.
func allocated(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestNew(t *testing.T) {
	for _, size := range []int64{0, -page, page + 1, 100} {
		if _, err := New(2, "odd", size); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("window of %d bytes: %v", size, err)
		}
	}
	if _, err := New(2, "huge", 1<<50); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("a window of more than the memory: %v", err)
	}
	w, err := New(2, strings.Repeat("n", 1000), page)
	if err != nil {
		t.Fatalf("long name: %v", err)
	}
	w.Detach()

	w = newWindow(t, 3)
	f := descriptor(t, w, true)
	if got := allocated(t, f); got != 3*page {
		t.Errorf("%d bytes of %d are allocated", got, 3*page)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 || st.Size() != 3*page {
		t.Errorf("mode %v, size %d", st.Mode(), st.Size())
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil || !strings.Contains(link, "holdfast:test") {
		t.Errorf("named %q, %v", link, err)
	}
	if err := f.Truncate(4 * page); !errors.Is(err, syscall.EPERM) {
		t.Errorf("growing the object: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 3*page); err == nil {
		t.Error("a write beyond the end grew the object")
	}
}

func TestReadWrite(t *testing.T) {
	w := newWindow(t, 2)
	mem := mapped(t, w)
	if n, err := w.WriteAt([]byte("server"), page-3); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	if got := string(mem[page-3 : page+3]); got != "server" {
		t.Errorf("the holder sees %q", got)
	}
	copy(mem[100:], "holder")
	p := make([]byte, 6)
	if _, err := w.ReadAt(p, 100); err != nil || string(p) != "holder" {
		t.Errorf("the server reads %q, %v", p, err)
	}
	for _, off := range []int64{-1, 2*page - 5, 2*page + 1, 1 << 62} {
		if _, err := w.ReadAt(p, off); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("read at %d: %v", off, err)
		}
		if _, err := w.WriteAt(p, off); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("write at %d: %v", off, err)
		}
	}
}

// TestReadOnly: a read-only descriptor gives no way to write.
func TestReadOnly(t *testing.T) {
	w := newWindow(t, 1)
	f := descriptor(t, w, false)
	if _, err := unix.Mmap(int(f.Fd()), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, syscall.EACCES) {
		t.Errorf("writable mapping: %v", err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if err := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE); !errors.Is(err, syscall.EACCES) {
		t.Errorf("mprotect to writable: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EBADF) {
		t.Errorf("write: %v", err)
	}
	if err := unix.Ftruncate(int(f.Fd()), 0); err == nil {
		t.Error("it can be truncated")
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, page); err == nil {
		t.Error("it can be punched")
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); !errors.Is(err, syscall.EPERM) {
		t.Errorf("it can be sealed: %v", err)
	}
}

// TestDescriptorsApart: flags that a holder sets on his descriptor do not reach the server's.
func TestDescriptorsApart(t *testing.T) {
	w := newWindow(t, 1)
	f := descriptor(t, w, true)
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("the server's write after a holder's O_APPEND: %v", err)
	}
}

// storeLate is the holder of TestDetachKillsStores: it maps descriptor 3, tells,
// waits to be told, and stores.
func storeLate() {
	mem, err := unix.Mmap(3, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		fmt.Println(err)
		return
	}
	mem[0] = 'x'
	fmt.Println("mapped")
	os.Stdin.Read(make([]byte, 1))
	if os.Getenv(storeEnv) == "load" {
		os.Stdout.Write(mem[:1])
	}
	mem[0] = 'y'
	fmt.Println("stored")
}

// TestDetachKillsStores: after Detach a holder's late load or store is a SIGBUS for
// him, in a process of his own.
func TestDetachKillsStores(t *testing.T) {
	for _, how := range []string{"store", "load"} {
		w := newWindow(t, 1)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), storeEnv+"="+how)
		cmd.ExtraFiles = []*os.File{descriptor(t, w, true)}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 100)
		n, _ := out.Read(line)
		if got := string(line[:n]); got != "mapped\n" {
			t.Fatalf("the holder says %q", got)
		}
		if err := w.Detach(); err != nil {
			t.Fatal(err)
		}
		in.Close()
		n, _ = out.Read(line)
		err = cmd.Wait()
		if n != 0 || err == nil || !strings.Contains(stderr.String(), "SIGBUS") {
			t.Errorf("%s after Detach: the holder says %q, ends with %v:\n%s", how, line[:n], err, stderr.String())
		}
	}
}

// TestDetachRange: a detached range shows its holder nothing that the server
// writes elsewhere later, and keeps nothing of his for the server.
func TestDetachRange(t *testing.T) {
	w := newWindow(t, 4)
	mem := mapped(t, w)
	for i := range mem {
		mem[i] = 'h'
	}
	for _, r := range [][2]int64{{-page, page}, {0, 0}, {1, page}, {0, page + 1}, {3 * page, 2 * page}} {
		if err := w.DetachRange(r[0], r[1]); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("detach [%d,+%d): %v", r[0], r[1], err)
		}
	}
	if err := w.DetachRange(page, 2*page); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{'h'}, page)
	if !bytes.Equal(mem[:page], want) || !bytes.Equal(mem[3*page:], want) {
		t.Error("pages around the detached range have changed")
	}
	if !bytes.Equal(mem[page:3*page], make([]byte, 2*page)) {
		t.Error("the detached range still shows its old pages")
	}
	later := newWindow(t, 4)
	if _, err := later.WriteAt(bytes.Repeat([]byte{'L'}, 4*page), 0); err != nil {
		t.Fatal(err)
	}
	if bytes.IndexByte(mem, 'L') >= 0 {
		t.Error("an old mapping shows a later window's bytes")
	}
}

func TestDetached(t *testing.T) {
	w := newWindow(t, 1)
	f := descriptor(t, w, true)
	if err := w.Detach(); err != nil {
		t.Fatal(err)
	}
	if got := allocated(t, f); got != 0 {
		t.Errorf("%d bytes are allocated after Detach", got)
	}
	if err := f.Truncate(page); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a holder grows the dead object: %v", err)
	}
	p := make([]byte, 1)
	if _, err := w.ReadAt(p, 0); !errors.Is(err, ErrDetached) {
		t.Errorf("read: %v", err)
	}
	if _, err := w.WriteAt(p, 0); !errors.Is(err, ErrDetached) {
		t.Errorf("write: %v", err)
	}
	if _, err := w.Open(false); !errors.Is(err, ErrDetached) {
		t.Errorf("open: %v", err)
	}
	if err := errors.Join(w.Detach(), w.DetachRange(0, page)); err != nil {
		t.Errorf("detached again: %v", err)
	}
}

// TestHostileHolder: whatever a holder does to the object, the server gets an
// error at worst.
func TestHostileHolder(t *testing.T) {
	p := make([]byte, page)
	for _, c := range []struct {
		name                string
		do                  func(fd int) error
		read, write, detach error
	}{
		{"truncates", func(fd int) error { return unix.Ftruncate(fd, 100) }, ErrDamaged, ErrDamaged, nil},
		{"punches", func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, page)
		}, nil, nil, nil},
		{"seals against writing", func(fd int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
			return err
		}, nil, ErrDamaged, nil},
		{"seals against everything", func(fd int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
			return err
		}, nil, ErrDamaged, ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWindow(t, 1)
			f := descriptor(t, w, true)
			if err := c.do(int(f.Fd())); err != nil {
				t.Fatal(err)
			}
			if _, err := w.ReadAt(p, 0); !errors.Is(err, c.read) {
				t.Errorf("read: %v, want %v", err, c.read)
			}
			if _, err := w.WriteAt(p, 0); !errors.Is(err, c.write) || err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("write: %v, want %v", err, c.write)
			}
			if err := w.Detach(); !errors.Is(err, c.detach) {
				t.Errorf("detach: %v, want %v", err, c.detach)
			}
			if _, err := w.ReadAt(p, 0); !errors.Is(err, ErrDetached) {
				t.Errorf("read after detach: %v", err)
			}
		})
	}
}

// TestFaultHandler: a holder who handles page faults himself, and does not, cannot
// stall the server, which meets no fault.
func TestFaultHandler(t *testing.T) {
	w := newWindow(t, 1)
	mem := mapped(t, w)
	mem[0] = 'x'
	if err := unix.Madvise(mem, unix.MADV_REMOVE); err != nil { // a hole that his mapping would fault on
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0) // UFFD_USER_MODE_ONLY
	if errno != 0 {
		t.Skipf("no userfaultfd here: %v", errno)
	}
	defer unix.Close(int(fd))
	if err := registerFaults(int(fd), mem); err != nil {
		t.Skipf("userfaultfd takes no shared memory here: %v", err)
	}
	p := []byte{1}
	if _, err := w.WriteAt(p, 0); err != nil {
		t.Errorf("write: %v", err)
	}
	if _, err := w.ReadAt(p, 0); err != nil || p[0] != 1 {
		t.Errorf("read: %v, %v", p, err)
	}
}

// TestPinned: pages can be pinned for long through both interfaces, and after
// Detach what a device still moves lands in nobody's page.
func TestPinned(t *testing.T) {
	t.Run("AF_XDP", func(t *testing.T) {
		umem, err := pinprobe.NewUmem(mapped(t, newWindow(t, 4)))
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := umem.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("io_uring", func(t *testing.T) {
		w := newWindow(t, 4)
		ring, err := pinprobe.NewRing(mapped(t, w))
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer ring.Close()
		testDMA(t, w, ring)
	})
}

func testDMA(t *testing.T, w *Window, ring *pinprobe.Ring) {
	disk, err := os.CreateTemp(t.TempDir(), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	stamp := bytes.Repeat([]byte("stamp!!!"), page/8)
	if _, err := disk.WriteAt(stamp, 0); err != nil {
		t.Fatal(err)
	}
	// The device writes memory, and the server sees it.
	if n, err := ring.ReadFixed(disk, 0, page, page); n != page || err != nil {
		t.Fatalf("read into the buffer: %d, %v", n, err)
	}
	p := make([]byte, page)
	if _, err := w.ReadAt(p, page); err != nil || !bytes.Equal(p, stamp) {
		t.Errorf("the server does not see what the device wrote (%v)", err)
	}
	// The server writes, and the device sees it.
	want := bytes.Repeat([]byte("servers!"), page/8)
	if _, err := w.WriteAt(want, 2*page); err != nil {
		t.Fatal(err)
	}
	if n, err := ring.WriteFixed(disk, page, 2*page, page); n != page || err != nil {
		t.Fatalf("write from the buffer: %d, %v", n, err)
	}
	if _, err := disk.ReadAt(p, page); err != nil || !bytes.Equal(p, want) {
		t.Errorf("the device does not see what the server wrote (%v)", err)
	}
	// A part is detached; the device goes on.
	if err := w.DetachRange(page, page); err != nil {
		t.Fatal(err)
	}
	if n, err := ring.ReadFixed(disk, 0, page, page); n != page || err != nil {
		t.Fatalf("late read into the buffer: %d, %v", n, err)
	}
	if _, err := w.ReadAt(p, page); err != nil || !bytes.Equal(p, make([]byte, page)) {
		t.Errorf("what the device wrote late shows in the window (%v)", err)
	}
	// All is detached. Later windows never show the stamp.
	if err := w.Detach(); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		later := newWindow(t, 64)
		if n, err := ring.ReadFixed(disk, 0, 2*page, page); n != page || err != nil {
			t.Fatalf("read into the buffer after Detach: %d, %v", n, err)
		}
		got := make([]byte, 64*page)
		if _, err := later.ReadAt(got, 0); err != nil || bytes.Contains(got, stamp[:8]) {
			t.Fatalf("a later window shows what the device wrote (%v)", err)
		}
	}
}

func TestProbe(t *testing.T) {
	if err := Probe(); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Error(err)
	}
}

// BenchmarkCopy compares memory copies to a window's mapping with the same to
// plain shared anonymous memory.
func BenchmarkCopy(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		src := bytes.Repeat([]byte{1}, size)
		run := func(name string, mem []byte) {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				b.SetBytes(int64(size))
				off := 0
				for b.Loop() {
					copy(mem[off:], src)
					if off += size; off+size > len(mem) {
						off = 0
					}
				}
			})
		}
		const total = 64 << 20
		plain, err := unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON|unix.MAP_POPULATE)
		if err != nil {
			b.Fatal(err)
		}
		w := newWindow(b, total/page)
		mem := mapped(b, w)
		for i := 0; i < total; i += page { // as with MAP_POPULATE
			mem[i] = 1
		}
		run("plain", plain)
		run("window", mem)
		unix.Munmap(plain)
	}
}
