package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/client"
)

// adversary is a process that keeps writing into pages it was once given.
type adversary struct {
	name   string
	v      *volume
	path   string
	lease  uint64
	writer *actor // who has the ring, the mapping or both
	cpu    bool   // the writer has a mapping
	events *events
}

// TestAdversary: whoever keeps a ring, a socket or a mapping of pages that were a
// file's can write into them for as long as he likes. No other file ever shows
// it, he sees nothing of other files, and his own file stops showing it when its
// window is detached.
//
// It fails without the detaching. With window.Detach only closing the object, seen
// on Linux 6.18:
//
//	killed: a store into memory that has been detached did not fault
//
// and the same for deleted, closed and cut. With fs ending a mapping without
// detaching what it covers, moreover:
//
//	killed: …/mnt/killed has another content: 262144 bytes, want 262144; first difference at 0
//	killed: stamps later than round 1426 reached the device: round 1910 at 1310736; …
//	…/mnt/closed shows at 0: "STAMP closed    0000000000002088"
func TestAdversary(t *testing.T) {
	t.Parallel()
	viaRing.need(t)
	// A small volume, so that blocks are used again and again.
	v := serve(t, "--size", "128M", "--break-time", "1s")
	t.Run("while", func(t *testing.T) {
		t.Run("killed", func(t *testing.T) {
			t.Parallel()
			a, leave := killedHolder(t, v, "killed")
			a.wantLive(t)
			leave()
			a.wantDetached(t, true)
		})
		t.Run("deleted", func(t *testing.T) {
			t.Parallel()
			a, leave := killedHolder(t, v, "deleted")
			mustRun(t, "rm", a.path)
			churn(t, v, a.name+"-held")
			leave()
			a.wantDetached(t, false)
		})
		t.Run("closed", func(t *testing.T) {
			t.Parallel()
			a := lyingHolder(t, v, "closed")
			a.wantLive(t)
			a.writer.do("CloseLease", Do{})
			a.events.waitLease(arbiter.EventRelease, a.lease)
			a.wantDetached(t, true)
		})
		t.Run("cut", func(t *testing.T) {
			t.Parallel()
			a := lyingHolder(t, v, "cut")
			a.wantLive(t)
			// He does not answer the break, but writes on.
			other := newActor(t)
			if _, err := other.try("ChangeTruncate", Do{Path: a.path, Len: 0}); err != nil {
				t.Errorf("truncate: %v", err)
			}
			a.events.waitLease(arbiter.EventRevoke, a.lease)
			a.wantDetached(t, true)
		})
	})
	v.stop(t)
	v.check(t)
	v.start(t)
	filepath.WalkDir(v.mnt, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
		} else if d.Type().IsRegular() {
			wantNoStamp(t, path)
		}
		return nil
	})
}

// lyingHolder has a breakable lease, ring and mapping in one process, which it will not part with.
func lyingHolder(t *testing.T, v *volume, name string) *adversary {
	a := &adversary{name: name, v: v, cpu: true, events: v.events(t), writer: newActor(t)}
	a.hold(t, a.writer, client.Options{Access: client.Write})
	a.writer.do("Stamp", Do{Name: name})
	return a
}

func (a *adversary) hold(t *testing.T, holder *actor, o client.Options) {
	a.path = a.v.write(t, a.name, pattern(4, heldSize))
	holder.do("Open", Do{Path: a.path})
	a.lease = uint64(holder.do("Lease", Do{Len: heldSize, Lease: o}).N)
	holder.do("Map", Do{})
	holder.do("Ring", Do{})
	if os.Geteuid() == 0 {
		holder.do("Umem", Do{}) // keeps the pages pinned too
	}
}

// killedHolder has pinned its pages and passed ring, mapping and context handle to an accomplice, and is killed. leave has
// the accomplice close the context handle, and nothing else.
func killedHolder(t *testing.T, v *volume, name string) (a *adversary, leave func()) {
	a = &adversary{name: name, v: v, cpu: os.Geteuid() == 0, events: v.events(t)}
	principal, spawn := newPrincipal(t)
	a.hold(t, principal, client.Options{Access: client.Write, Unbreakable: true})
	principal.do("Register", Do{Name: "ctx", Kind: client.IOUring})
	principal.do("Pin", Do{Name: "ctx", Len: heldSize})
	a.writer = spawn()
	principal.kill()
	a.events.wait("end of the session", func(e arbiter.Event) bool {
		return e.Kind == arbiter.EventSessionEnd && int(e.PID) == principal.pid()
	})
	a.writer.do("Stamp", Do{Name: name})
	return a, func() {
		a.writer.do("CloseCopy", Do{Name: "ctx"})
		a.events.waitLease(arbiter.EventRelease, a.lease)
	}
}

// wantLive: the pages are the file's, which shows every stamp; no other file does.
func (a *adversary) wantLive(t *testing.T) {
	t.Helper()
	a.wantBlind(t, a.writer.do("Stamped", Do{Count: 2}))
	got, err := os.ReadFile(a.path)
	if err != nil || !bytes.Contains(got, stampMark(a.name)) {
		t.Errorf("the file does not show what its holder writes: %v", err)
	}
	churn(t, a.v, a.name+"-held")
}

// wantDetached: the pages are nobody's. The window went as a whole, so a store by the CPU faults.
func (a *adversary) wantDetached(t *testing.T, named bool) {
	t.Helper()
	var zeros []byte
	if named {
		zeros = make([]byte, heldSize)
		if err := writeOver(a.path, zeros); err != nil {
			t.Error(err)
		}
	}
	s := a.writer.do("Stamped", Do{Count: 2})
	if a.cpu && s.Text == "" {
		t.Error("a store into memory that has been detached did not fault")
	}
	churn(t, a.v, a.name+"-gone")
	a.wantBlind(t, a.writer.do("Stamped", Do{Count: 2}))
	if named {
		wantContent(t, a.path, zeros)
	}
	wantNotOnDevice(t, a.v, a.name, int(s.N))
}

// writeOver overwrites the beginning of a file, which keeps its blocks: a truncate would take windows away too.
func writeOver(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	return errors.Join(err, f.Close())
}

// wantBlind: the adversary has seen nothing of others.
func (a *adversary) wantBlind(t *testing.T, s Done) {
	t.Helper()
	if len(s.Data) > 0 {
		t.Errorf("the adversary has seen other files: %s", s.Data)
	}
}

// churn creates, writes, reads, overwrites, truncates and deletes files by the thousand; each must show what was put into it
// and nothing else.
func churn(t *testing.T, v *volume, name string) {
	t.Helper()
	files := 1000
	if testing.Short() || raceEnabled {
		files = 200
	}
	dir := v.path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for w := range 2 {
		g.Go(func() error {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range files / 2 {
				if err := oneFile(filepath.Join(dir, fmt.Sprintf("%d-%d", w, i)), rnd, i%10 == 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Errorf("among the files of others: %v", err)
	}
}

func oneFile(path string, rnd *rand.Rand, keep bool) error {
	want := bytes.Repeat([]byte(secret+filepath.Base(path)+" "), 1+rnd.IntN(16*blockSize/len(secret)))
	if err := os.WriteFile(path, want, 0o644); err != nil {
		return err
	}
	if rnd.IntN(3) == 0 { // blocks go and come back
		if err := os.Truncate(path, int64(len(want)/2)); err != nil {
			return err
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return err
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s has another content from %d on", path, differAt(got, want))
	}
	if keep {
		return nil
	}
	return os.Remove(path)
}

// wantNoStamp fails the test if a file shows a stamp.
func wantNoStamp(t *testing.T, path string) {
	got, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	if i := bytes.Index(got, []byte("STAMP ")); i >= 0 {
		t.Errorf("%s shows at %d: %q", path, i, got[i:i+32])
	}
}

// wantNotOnDevice looks at the raw device: no stamp that was written later than round is there, be it in free blocks.
func wantNotOnDevice(t *testing.T, v *volume, name string, round int) {
	t.Helper()
	dev, err := os.Open(filepath.Join(v.dir, "device"))
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	var late []string
	err = eachData(dev, func(off int64, block []byte) {
		for i := 0; ; {
			j := bytes.Index(block[i:], stampMark(name))
			if j < 0 {
				return
			}
			i += j + len(stampMark(name))
			var n int
			if _, err := fmt.Sscanf(string(block[i:min(i+16, len(block))]), "%d", &n); err == nil && n > round {
				late = append(late, fmt.Sprintf("round %d at %d", n, off+int64(i)))
			}
		}
	})
	if err != nil {
		t.Error(err)
	}
	if len(late) > 0 {
		t.Errorf("stamps later than round %d reached the device: %s", round, strings.Join(slices.Compact(late[:min(len(late), 4)]), "; "))
	}
}

// eachData calls fn for each MiB of a sparse file that is no hole.
func eachData(f *os.File, fn func(off int64, data []byte)) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err == syscall.ENXIO {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := f.ReadAt(buf, start)
		if err != nil && err != io.EOF {
			return err
		}
		fn(start, buf[:n])
		off = start + int64(n)
		if n == 0 {
			return nil
		}
	}
}
