package test

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/client"
)

// undisturbed is a file of some blocks and a part of one on which an actor holds a breakable lease, and another an
// unbreakable one with a pin.
type undisturbed struct {
	path         string
	content      []byte
	happened     *events
	asked, never *actor
	lease        uint64
}

func newUndisturbed(t *testing.T, v *volume) *undisturbed {
	t.Helper()
	u := &undisturbed{content: pattern(6, 4*blockSize-100), asked: newActor(t), never: newActor(t)}
	u.path = v.write(t, "file", u.content)
	for _, a := range []*actor{u.asked, u.never} {
		a.do("Open", Do{Path: u.path})
	}
	u.lease = uint64(u.asked.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}}).N)
	u.never.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write, Unbreakable: true}})
	u.never.do("Register", Do{Name: "ctx", Kind: client.Memory})
	u.never.do("Pin", Do{Name: "ctx", Len: 4 * blockSize})
	u.happened = v.events(t)
	return u
}

// was checks that no holder was asked for anything, and that one is when there is reason to.
func (u *undisturbed) was(t *testing.T) {
	t.Helper()
	u.never.do("CloseContext", Do{Name: "ctx"})
	u.never.do("CloseLease", Do{})
	change := u.never.begin("ChangeTruncate", Do{Path: u.path})
	u.happened.waitLease(arbiter.EventBreak, u.lease)
	u.asked.do("Return", Do{Len: heldSize})
	if _, err := change.wait(); err != nil {
		t.Error(err)
	}
	n := 0
	for _, e := range u.happened.seen {
		if e.Kind == arbiter.EventBreak || e.Kind == arbiter.EventRefuse {
			n++
		}
	}
	if n != 1 {
		t.Errorf("asked or refused %d times, not once by the truncate at the end: %+v", n, u.happened.seen)
	}
}

// TestScenario06: to make a file larger meets nobody, not even who holds its last block; what is new reads as zeros.
func TestScenario06(t *testing.T) {
	t.Parallel()
	u := newUndisturbed(t, serveScenario(t))
	const size = 6 * blockSize
	must(t, os.Truncate(u.path, size))
	wantContent(t, u.path, append(u.content, make([]byte, size-len(u.content))...))
	if _, err := u.asked.try("ChangeTruncate", Do{Path: u.path, Len: size + 1}); err != nil {
		t.Errorf("through the library: %v", err)
	}
	u.was(t)
}

// TestScenario18: what would not alter anything breaks nothing.
func TestScenario18(t *testing.T) {
	t.Parallel()
	u := newUndisturbed(t, serveScenario(t))
	size := int64(len(u.content))
	f, err := os.OpenFile(u.path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	must(t, os.Truncate(u.path, size))
	fd := int(f.Fd())
	must(t, unix.Fallocate(fd, 0, 0, size))
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, blockSize, blockSize))
	if _, err := u.asked.try("ChangeTruncate", Do{Path: u.path, Len: size}); err != nil {
		t.Errorf("through the library: %v", err)
	}
	wantContent(t, u.path, u.content)
	u.was(t)
}

// TestScenario07: I/O that is under way has no lease and needs none. A truncate waits for it, and never fails for it.
func TestScenario07(t *testing.T) {
	t.Parallel()
	v := serveScenario(t)
	const size, part = 1 << 20, 128 << 10
	path := v.write(t, "file", pattern(7, size))
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for i := range 3 {
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT, 0)
		must(t, err)
		defer f.Close()
		mem, err := unix.Mmap(-1, 0, part, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		must(t, err)
		defer unix.Munmap(mem)
		busy.Go(func() {
			for off := int64(i) * part; ; off = (off + part) % size {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := f.WriteAt(mem, off); err != nil {
					t.Errorf("direct write: %v", err)
					return
				}
				if _, err := f.ReadAt(mem, off); err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("direct read: %v", err)
					return
				}
				clear(mem)
			}
		})
	}
	for i := range 50 {
		if err := os.Truncate(path, int64(i%4)*part/2); err != nil {
			t.Errorf("truncate under I/O: %v", err)
		}
	}
	close(stop)
	busy.Wait()
	must(t, os.Truncate(path, 0))
	if text := v.ask(t, "who", path); !strings.HasPrefix(text, "nobody holds") {
		t.Errorf("I/O is listed as a hold:\n%s", text)
	}
}
