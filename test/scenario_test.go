package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/client"
	"holdfast/internal/pinprobe"
	"holdfast/internal/testserver"
)

// mechanism is a way in which the kernel pins memory for long, and the context
// that stands for it.
type mechanism struct {
	name    string
	kind    client.Kind
	deed    string // makes it, from the mapped memory
	listed  string // how the kernel calls it
	hasRing bool
}

var (
	viaXDP  = mechanism{"AF_XDP", client.XDP, "Umem", "AF_XDP", false}
	viaRing = mechanism{"io_uring", client.IOUring, "Ring", "io_uring", true}
)

// need skips the test where the kernel does not have the mechanism.
func (m mechanism) need(t testing.TB) {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if m.hasRing {
		var r *pinprobe.Ring
		if r, err = pinprobe.NewRing(mem); err == nil {
			r.Close()
		}
	} else {
		testserver.NeedRoot(t)
		var u *pinprobe.Umem
		if u, err = pinprobe.NewUmem(mem); err == nil {
			u.Close()
		}
	}
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("needs %s: %v", m.name, err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// eachMechanism runs a story once for each mechanism, at the same time.
func eachMechanism(t *testing.T, tell func(t *testing.T, m mechanism)) {
	for _, m := range []mechanism{viaXDP, viaRing} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.need(t)
			tell(t, m)
		})
	}
}

// heldSize is the size of the files of these stories.
const heldSize = 64 * blockSize

// held is a file whose pages a process has pinned, and let go of everything but
// the socket or ring and the context that stands for it.
type held struct {
	v        *volume
	m        mechanism
	path     string
	content  []byte
	lease    uint64
	pin      int64
	context  string // its name in listings
	a, b     *actor // a holds; b is another process, to whom a can pass handles
	happened *events
}

// holdFile tells the beginning: open through the mount, unbreakable write lease,
// map, context, pin, munmap, close data, close lease handle.
func holdFile(t *testing.T, v *volume, m mechanism, name string) *held {
	t.Helper()
	h := &held{v: v, m: m, content: pattern(1, heldSize), happened: v.events(t)}
	h.path = v.write(t, name, h.content)
	h.a, h.b = newPair(t)
	h.a.do("Open", Do{Path: h.path})
	h.lease = uint64(h.a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write, Unbreakable: true}}).N)
	if n := h.a.do("Map", Do{}).N; n != heldSize {
		t.Fatalf("mapped %d bytes, want %d", n, heldSize)
	}
	if got := h.a.do("Mem", Do{Len: heldSize}).Data; !bytes.Equal(got, h.content) {
		t.Fatalf("the memory is not the file: first difference at %d", differAt(got, h.content))
	}
	h.a.do(m.deed, Do{})
	h.context = h.a.do("Register", Do{Name: "ctx", Kind: m.kind}).Text
	h.pin = h.a.do("Pin", Do{Name: "ctx", Len: heldSize}).N
	h.a.do("Munmap", Do{})
	h.a.do("CloseData", Do{})
	h.a.do("CloseLease", Do{})
	h.happened.waitLease(arbiter.EventTransfer, h.lease)
	return h
}

// wantHeld checks that the change was refused with ETXTBSY at once and altered nothing.
func (h *held) wantHeld(t *testing.T, what string, r result) {
	t.Helper()
	if r.status == 0 || !strings.Contains(r.err, "Text file busy") {
		t.Errorf("%s: exit status %d, %q, want Text file busy", what, r.status, r.err)
	}
	if r.took > scenarioMountWait/2 {
		t.Errorf("%s took %v: that is not at once", what, r.took)
	}
	wantContent(t, h.path, h.content)
}

// letGo closes the last copy of the context's handle, which b has, and waits for the end of the lease.
func (h *held) letGo(t *testing.T) {
	t.Helper()
	h.b.do("CloseCopy", Do{Name: "ctx"})
	h.happened.waitLease(arbiter.EventRelease, h.lease)
}

// pass has a copy of the context's handle passed to b.
func (h *held) pass() {
	h.a.do("SendHandle", Do{Name: "ctx"})
	h.b.do("ReceiveHandle", Do{Name: "ctx"})
}

// pins returns how `holdfast pins` lists the pin.
func (h *held) pins(t *testing.T) arbiter.PinInfo {
	t.Helper()
	for _, p := range askJSON[[]arbiter.PinInfo](t, h.v, "pins") {
		if int64(p.ID) == h.pin {
			return p
		}
	}
	t.Errorf("pin %d is not listed", h.pin)
	return arbiter.PinInfo{}
}

// scenarioMountWait is long, so that what takes less was not a wait.
const scenarioMountWait = 20 * time.Second

// The scenarios that everything started from, "RDMA/FS DAX truncate proposal", 2019, told with an AF_XDP socket and with an
// io_uring. Their numbers are those of the list that was made from that discussion.

// TestScenario01: open, lease, map, register, unmap, close; truncate is ETXTBSY, and everybody can find out why, until the last
// close of the last copy.
func TestScenario01(t *testing.T) {
	t.Parallel()
	v := serveScenario(t)
	eachMechanism(t, func(t *testing.T, m mechanism) { tellHold(t, holdFile(t, v, m, "hold-"+m.name)) })
}

// TestScenario04: a change over one's own pins.
func TestScenario04(t *testing.T) {
	t.Parallel()
	v := serveScenario(t)
	eachMechanism(t, func(t *testing.T, m mechanism) { tellOwn(t, v, m) })
}

// TestScenario05: who writes without a lease over mapped blocks breaks nothing; into a hole, only what is exclusive.
func TestScenario05(t *testing.T) {
	t.Parallel()
	tellHole(t, serveScenario(t))
}

// TestScenario12: what is unlinked and pinned keeps its space, and says so.
func TestScenario12(t *testing.T) {
	t.Parallel()
	v := serveScenario(t)
	t.Run("unlink", func(t *testing.T) {
		eachMechanism(t, func(t *testing.T, m mechanism) { tellUnlink(t, v, m) })
	})
	t.Run("space", tellSpace)
}

func serveScenario(t *testing.T, args ...string) *volume {
	t.Helper()
	return serve(t, append([]string{"--mount-wait", scenarioMountWait.String()}, args...)...)
}

func tellHold(t *testing.T, h *held) {
	truncate := func() result { return run(t, "truncate", "-s", "4096", h.path) }
	punch := func() result { return run(t, "fallocate", "-p", "-o", "8192", "-l", "4096", h.path) }

	t.Run("truncate by another process is refused at once, nothing changed", func(t *testing.T) {
		h.wantHeld(t, "truncate(1)", truncate())
		begin := time.Now()
		_, err := h.b.try("Truncate", Do{Path: h.path, Len: 1})
		wantErrno(t, "truncate(2)", err, syscall.ETXTBSY)
		if took := time.Since(begin); took > scenarioMountWait/2 {
			t.Errorf("truncate(2) took %v", took)
		}
		wantErrno(t, "O_TRUNC", os.WriteFile(h.path, nil, 0), syscall.ETXTBSY)
		wantContent(t, h.path, h.content)
	})
	t.Run("punch is refused at once, nothing changed", func(t *testing.T) {
		need(t, "fallocate")
		h.wantHeld(t, "fallocate -p", punch())
	})
	t.Run("truncate up is not", func(t *testing.T) {
		if err := os.Truncate(h.path, heldSize+blockSize); err != nil {
			t.Error(err)
		}
		wantErrno(t, "truncate down to where the pin ends and the lease did", os.Truncate(h.path, heldSize-1), syscall.ETXTBSY)
		if err := os.Truncate(h.path, heldSize); err != nil {
			t.Errorf("truncate of what nobody holds: %v", err)
		}
	})
	t.Run("overwrite works, and both sides see it", func(t *testing.T) { tellOverwrite(t, h) })
	t.Run("pins names process, context and file", func(t *testing.T) {
		text := h.v.ask(t, "pins", h.path)
		for _, want := range []string{fmt.Sprint(h.a.pid()), h.m.listed, h.context, "/" + filepath.Base(h.path)} {
			if !strings.Contains(text, want) {
				t.Errorf("holdfast pins does not name %q:\n%s", want, text)
			}
		}
		if p := h.pins(t); p.Unattended || p.Range.Extent().Len() != heldSize {
			t.Errorf("listed as %+v", p)
		}
	})
	t.Run("who explains the refusal", func(t *testing.T) {
		text := h.v.ask(t, "who", h.path)
		for _, want := range []string{fmt.Sprint(h.a.pid()), "unbreakable", h.m.listed, "closed"} {
			if !strings.Contains(text, want) {
				t.Errorf("holdfast who does not say %q:\n%s", want, text)
			}
		}
		would := run(t, h.v.bin, "would", "truncate", h.path)
		if would.status != 1 || !strings.Contains(would.out, "refused") || !strings.Contains(would.out, fmt.Sprint(h.a.pid())) {
			t.Errorf("holdfast would truncate: exit status %d\n%s%s", would.status, would.out, would.err)
		}
		h.happened.wait("the refusal, and why", func(e arbiter.Event) bool {
			return e.Kind == arbiter.EventRefuse && e.Errno == syscall.ETXTBSY && len(e.Blockers) > 0 && e.Reason != ""
		})
	})
	t.Run("a passed copy keeps the pin when the holder is killed", func(t *testing.T) {
		h.pass()
		h.a.kill()
		h.happened.wait("end of the session", func(e arbiter.Event) bool {
			return e.Kind == arbiter.EventSessionEnd && int(e.PID) == h.a.pid()
		})
		if p := h.pins(t); !p.Unattended {
			t.Errorf("not listed as unattended: %+v", p)
		}
		h.wantHeld(t, "truncate(1)", truncate())
	})
	t.Run("after the last close, wherever it is, truncate works", func(t *testing.T) {
		h.letGo(t)
		if r := truncate(); r.status != 0 {
			t.Errorf("truncate(1): %s", r.err)
		}
		wantContent(t, h.path, h.content[:4096])
	})
}

// tellOverwrite: what one side writes, the other sees. The holder has unmapped its memory,
// so only its device can look: a ring's fixed buffers are such a device; a umem without a
// network card is not.
func tellOverwrite(t *testing.T, h *held) {
	mark := bytes.Repeat([]byte("by another process "), 300)
	h.b.do("WriteAt", Do{Path: h.path, Off: 3 * blockSize, Data: mark})
	copy(h.content[3*blockSize:], mark)
	wantContent(t, h.path, h.content)
	if !h.m.hasRing {
		return
	}
	if got := h.a.do("RingOut", Do{Len: heldSize}).Data; !bytes.Equal(got, h.content) {
		t.Errorf("the device sees something else than the file has, first at %d", differAt(got, h.content))
	}
	dma := bytes.Repeat([]byte("by the holder's device "), 300)
	h.a.do("RingIn", Do{Off: 9 * blockSize, Data: dma})
	copy(h.content[9*blockSize:], dma)
	if got := mustRun(t, "cat", h.path); got != string(h.content) {
		t.Errorf("cat shows something else than the device has written, first at %d", differAt([]byte(got), h.content))
	}
}

// tellUnlink: unlink and rename over the file succeed, and the space stays taken until the last close.
func tellUnlink(t *testing.T, v *volume, m mechanism) {
	for _, how := range []string{"unlink", "rename"} {
		t.Run(how, func(t *testing.T) {
			name := fmt.Sprintf("%s-%s", how, m.name)
			h := holdFile(t, v, m, name)
			if how == "unlink" {
				mustRun(t, "rm", h.path)
			} else {
				mustRun(t, "mv", "-f", v.write(t, name+".new", []byte("new")), h.path)
				wantContent(t, h.path, []byte("new"))
			}
			if p := h.pins(t); p.Path != "/"+name+" (deleted)" {
				t.Errorf("listed as %q", p.Path)
			}
			for _, list := range []string{"pins", "leases"} {
				if text := v.ask(t, list); !strings.Contains(text, filepath.Base(name)+" (deleted)") {
					t.Errorf("holdfast %s does not say that it is deleted:\n%s", list, text)
				}
			}
			if m.hasRing { // its blocks are still its own
				h.a.do("RingIn", Do{Data: []byte("still here")})
				copy(h.content, "still here")
				if got := h.a.do("RingOut", Do{Len: heldSize}).Data; !bytes.Equal(got, h.content) {
					t.Errorf("the deleted file changed under its holder, first at %d", differAt(got, h.content))
				}
			}
			h.pass()
			h.a.kill()
			if !strings.Contains(v.ask(t, "leases"), name+" (deleted)") {
				t.Errorf("a copy of the context's handle lives, but not the lease")
			}
			h.letGo(t)
			if strings.Contains(v.ask(t, "leases"), name+" (deleted)") {
				t.Error("listed after the last close")
			}
		})
	}
}

// tellSpace: what is deleted and held still takes its space, as df says, and gives it back at the last close.
func tellSpace(t *testing.T) {
	t.Parallel()
	v := serve(t, "--size", "256M")
	const size, noise = 64 << 20, 4 << 20
	empty := v.free(t)
	path := v.write(t, "big", pattern(9, size))
	events, a := v.events(t), newActor(t)
	a.do("Open", Do{Path: path})
	lease := uint64(a.do("Lease", Do{Lease: client.Options{Access: client.Write, Unbreakable: true}}).N)
	a.do("Register", Do{Name: "ctx", Kind: client.Memory})
	a.do("Pin", Do{Name: "ctx", Len: size})
	a.do("CloseData", Do{})
	a.do("CloseLease", Do{})
	taken := v.free(t)
	if empty-taken < size-noise {
		t.Errorf("a file of %d bytes takes %d", size, empty-taken)
	}
	must(t, os.Remove(path))
	if held := v.free(t); held > taken+noise {
		t.Errorf("%d bytes of a file that is pinned became free when it was unlinked", held-taken)
	}
	a.do("CloseContext", Do{Name: "ctx"})
	events.waitLease(arbiter.EventRelease, lease)
	eventually(t, "the space is free again", func() bool { return v.free(t) > empty-noise })
}

// tellOwn: who waits for himself is told so.
func tellOwn(t *testing.T, v *volume, m mechanism) {
	h := holdFile(t, v, m, "own-"+m.name)
	_, err := h.a.try("Truncate", Do{Path: h.path, Len: 0})
	wantErrno(t, "truncate by the holder itself", err, syscall.EDEADLK)
	child := h.a.do("Run", Do{Path: fmt.Sprintf("truncate -s 0 '%s'", h.path)})
	if child.N == 0 || !strings.Contains(child.Text, syscall.EDEADLK.Error()) && !strings.Contains(child.Text, "deadlock") {
		t.Errorf("truncate by a child of the holder: exit status %d, %q", child.N, child.Text)
	}
	_, err = h.a.try("ChangeTruncate", Do{Path: h.path})
	wantErrno(t, "truncate through the library by the holder", err, syscall.EDEADLK)
	_, err = h.a.try("ChangeTruncate", Do{Path: h.path, Other: true})
	wantErrno(t, "truncate by another session of the holder", err, syscall.EDEADLK)
	_, err = h.b.try("ChangeTruncate", Do{Path: h.path})
	wantErrno(t, "truncate through the library by another", err, syscall.ETXTBSY)
	_, err = h.b.try("Truncate", Do{Path: h.path, Len: 0})
	wantErrno(t, "truncate by another", err, syscall.ETXTBSY)
	wantContent(t, h.path, h.content)
}

// tellHole: writing into a hole meets nobody who shares, and is refused by who does not.
func tellHole(t *testing.T, v *volume) {
	for _, mode := range []client.Mode{client.Shared, client.Exclusive} {
		name := map[client.Mode]string{client.Shared: "shared", client.Exclusive: "exclusive"}[mode]
		t.Run(name, func(t *testing.T) {
			path := v.write(t, "hole-"+name, pattern(2, blockSize))
			if err := os.Truncate(path, heldSize); err != nil {
				t.Fatal(err)
			}
			a, b := newActor(t), newActor(t)
			a.do("Open", Do{Path: path})
			a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write, Mode: mode, Unbreakable: true}})
			a.do("Register", Do{Name: "ctx", Kind: client.Memory})
			a.do("Pin", Do{Name: "ctx", Len: blockSize})
			want := append(pattern(2, blockSize), make([]byte, heldSize-blockSize)...)
			_, err := b.try("WriteAt", Do{Path: path, Off: 5 * blockSize, Data: []byte("into the hole")})
			if mode == client.Exclusive {
				wantErrno(t, "write into the hole of an exclusive lease", err, syscall.ETXTBSY)
			} else {
				if err != nil {
					t.Errorf("write into a hole: %v", err)
				}
				copy(want[5*blockSize:], "into the hole")
			}
			wantContent(t, path, want)
			b.do("WriteAt", Do{Path: path, Off: 100, Data: []byte("over what is there")})
			copy(want[100:], "over what is there")
			wantContent(t, path, want)
		})
	}
}
