package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/internal/pinprobe"
)

// secret is what the files of others hold: no adversary may ever see it.
const secret = "THE SECRET OF ANOTHER FILE "

// stampOf is what an adversary writes: a block that says when it was written.
func stampOf(name string, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "STAMP %-9s %016d ", name, n), blockSize)[:blockSize]
}

// stampMark begins every stamp of an adversary.
func stampMark(name string) []byte { return fmt.Appendf(nil, "STAMP %-9s ", name) }

// stamper writes stamps into pages it once had, by DMA and by the CPU, and looks
// whether it sees there what is none of its business.
type stamper struct {
	name string
	ring *pinprobe.Ring // nil: no DMA
	mem  []byte         // nil: no CPU stores
	size int
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex // protects the rest
	news  *sync.Cond // of mu: round has risen, or done
	round int        // rounds that are complete
	fault error      // what a store raised at last
	seen  []string   // foreign things seen
	err   error
}

func (s *stamper) run() {
	defer close(s.done)
	defer s.news.Broadcast()
	debug.SetPanicOnFault(true) // SIGBUS is survived
	for n := 1; ; n++ {
		select {
		case <-s.stop:
			return
		default:
		}
		fault, seen, err := s.once(stampOf(s.name, n))
		s.mu.Lock()
		s.round, s.fault, s.err = n, fault, err
		if seen != "" && len(s.seen) < 4 {
			s.seen = append(s.seen, seen)
		}
		s.news.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// once writes the stamp into every page, the even ones by DMA and the odd ones by the CPU, after a look at all.
func (s *stamper) once(stamp []byte) (fault error, seen string, err error) {
	in, err := scratch()
	if err != nil {
		return nil, "", err
	}
	defer in.Close()
	if _, err := in.WriteAt(stamp, 0); err != nil {
		return nil, "", err
	}
	view := make([]byte, s.size)
	if s.ring != nil {
		if _, err := s.ring.WriteFixed(in, blockSize, 0, s.size); err != nil {
			return nil, "", fmt.Errorf("look by DMA: %w", err)
		}
		if _, err := in.ReadAt(view, blockSize); err != nil {
			return nil, "", err
		}
		seen = foreign("DMA", view)
	}
	for off := 0; off < s.size; off += blockSize {
		if s.ring != nil && off/blockSize%2 == 0 {
			if _, err := s.ring.ReadFixed(in, 0, off, blockSize); err != nil {
				return fault, seen, fmt.Errorf("stamp by DMA: %w", err)
			}
		}
		if s.mem != nil && off/blockSize%2 == 1 {
			if e := touch(func() { copy(view, s.mem[off:off+blockSize]); copy(s.mem[off:], stamp) }); e != nil {
				fault = e
			} else if seen == "" {
				seen = foreign("the CPU", view[:blockSize])
			}
		}
	}
	return fault, seen, nil
}

func foreign(by string, view []byte) string {
	if i := bytes.Index(view, []byte(secret)); i >= 0 {
		return fmt.Sprintf("%s saw at %d: %q", by, i, view[i:i+40])
	}
	return ""
}

// touch accesses memory and returns the fault that this raised.
func touch(access func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("fault: %v", r)
		}
	}()
	access()
	return nil
}

// Stamp begins to write stamps: into the registered buffer of the ring, and into the memory if it is mapped.
func (p *Deeds) Stamp(d Do, _ *Done) error {
	s := &stamper{name: d.Name, ring: p.ring, mem: p.inherited, size: heldSize, stop: make(chan struct{}), done: make(chan struct{})}
	if p.mapping != nil {
		s.mem = p.mapping.Bytes()
	}
	s.news = sync.NewCond(&s.mu)
	p.stamps = s
	go s.run()
	return nil
}

// Stamped waits until Count more rounds of stamps are complete, and tells how many there are (N), how the last store by the
// CPU ended (Text), and what has been seen that should not (Data).
func (p *Deeds) Stamped(d Do, done *Done) error {
	s := p.stamps
	s.mu.Lock()
	defer s.mu.Unlock()
	for until := s.round + d.Count; s.round < until && s.err == nil; {
		s.news.Wait()
	}
	done.N, done.Data = int64(s.round), []byte(strings.Join(s.seen, "; "))
	if s.fault != nil {
		done.Text = s.fault.Error()
	}
	return errorText(s.err)
}

// Spawn starts an accomplice that inherits ring, context handle and, as root, mapping and AF_XDP socket, by fork and exec. It serves
// descriptors 4 and 5 of this process. N is its process id, Data describes the ring.
func (p *Deeds) Spawn(_ Do, done *Done) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), actorEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.NewFile(4, "in"), os.NewFile(5, "out"), os.Stderr
	ring := dupFile(p.ring.FD())
	defer ring.Close()
	cmd.ExtraFiles = []*os.File{ring, p.contexts["ctx"].File()}
	if os.Geteuid() == 0 {
		window, err := openMapping(p.mapping.Bytes())
		if err != nil {
			return errorText(err)
		}
		defer window.Close()
		socket := dupFile(p.umem.FD()) // it does nothing but live on
		defer socket.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, window, socket)
		done.Text = "mapping"
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	done.N, done.Data = int64(cmd.Process.Pid), p.ring.Share()
	return nil
}

// openMapping opens again what is mapped at mem, as fork would have copied it. The memory must be one mapping at offset 0 of its object.
func openMapping(mem []byte) (*os.File, error) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	return os.OpenFile(fmt.Sprintf("/proc/self/map_files/%x-%x", at, at+uintptr(len(mem))), os.O_RDWR, 0)
}

// Inherit takes what Spawn has left in descriptors 3, 4 and 5.
func (p *Deeds) Inherit(d Do, _ *Done) (err error) {
	if p.ring, err = pinprobe.AttachRing(3, d.Data); err != nil {
		return errorText(err)
	}
	p.copies["ctx"] = os.NewFile(4, "handle")
	if d.Name == "mapping" {
		p.inherited, err = unix.Mmap(5, 0, heldSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		err = errors.Join(err, unix.Close(5))
	}
	return errorText(err)
}

// newPrincipal starts an actor that can spawn an accomplice; spawn starts that.
func newPrincipal(t testing.TB) (principal *actor, spawn func() *actor) {
	t.Helper()
	pipes := make([]*os.File, 4) // to the accomplice, from it
	for i := 0; i < 4; i += 2 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pipes[i], pipes[i+1] = r, w
	}
	null, err := os.Open(os.DevNull) // takes the place of the socket of a pair
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := newActor(t, null, pipes[0], pipes[3])
	pipes[0].Close()
	pipes[3].Close()
	b := newRemote(t, pipes[2], pipes[1])
	return a, func() *actor {
		t.Helper()
		spawned := a.do("Spawn", Do{})
		// The accomplice ends when its standard input does; this is for one that does not.
		if p, err := os.FindProcess(int(spawned.N)); err == nil {
			b.proc.Process = p
			t.Cleanup(func() { p.Signal(syscall.SIGKILL); p.Release() })
		}
		b.do("Inherit", Do{Name: spawned.Text, Data: spawned.Data})
		return b
	}
}
