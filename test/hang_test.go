package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/client"
)

// besiege is how many changes wait at once.
const besiege = 100

// siege is a crowd of threads that keep asking for changes.
type siege struct {
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex // protects the rest
	n    int64
	errs []error
}

// Besiege begins to truncate files again and again, with Count threads: thread i that of name Path + i, or all of them
// that of name Path if there is a Name. With Wait they do it through the library and wait that long.
func (p *Deeds) Besiege(d Do, _ *Done) error {
	s := &siege{stop: make(chan struct{})}
	p.siege = s
	change := func(path string) error { return os.Truncate(path, 0) }
	if d.Wait > 0 {
		change = func(path string) error { return p.ChangeTruncate(Do{Path: path, Wait: d.Wait}, nil) }
	}
	for i := range d.Count {
		path := d.Path
		if d.Name == "" {
			path += fmt.Sprint(i)
		}
		s.wg.Go(func() {
			for {
				err := change(path)
				s.mu.Lock()
				s.n++
				if err != nil && !errors.Is(err, syscall.EAGAIN) {
					s.errs = append(s.errs, err)
				}
				s.mu.Unlock()
				if err == nil {
					return
				}
				pause := time.NewTimer(50 * time.Millisecond) // try again later, says EAGAIN
				select {
				case <-s.stop:
					return
				case <-pause.C:
				}
			}
		})
	}
	return nil
}

// Relieve ends that and returns how many changes were tried, and what went wrong other than EAGAIN.
func (p *Deeds) Relieve(_ Do, done *Done) error {
	close(p.siege.stop)
	p.siege.wg.Wait()
	done.N = p.siege.n
	return errors.Join(p.siege.errs...)
}

// TestNothingHangs: a hold hangs nobody but the one who asked for the change.
func TestNothingHangs(t *testing.T) {
	t.Parallel()
	const (
		mountWait = time.Second
		// What is not delayed takes milliseconds, what hangs takes until the break time: two minutes, or as long as 100
		// changes one after the other: 100 s. Between the two there is room for noise.
		bound = mountWait + 5*time.Second
	)
	for _, c := range []struct {
		name  string
		d     Do // besieging
		files int
	}{
		{"a change through the mount", Do{Path: "f0", Name: "same", Count: 1}, 1},
		{"100 changes of a file through the mount", Do{Path: "f0", Name: "same", Count: besiege}, 1},
		{"100 changes of 100 files through the mount", Do{Path: "f", Count: besiege}, besiege},
		{"100 changes of a file through the library", Do{Path: "f0", Name: "same", Count: besiege, Wait: time.Minute}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := serve(t, "--mount-wait", mountWait.String(), "--break-time", "2m")
			holders := make([]*actor, 0, c.files)
			for i := range c.files {
				path := v.write(t, fmt.Sprintf("f%d", i), pattern(5, heldSize))
				if i%10 == 0 { // ten files a process
					holders = append(holders, newActor(t))
				}
				a := holders[len(holders)-1]
				a.do("Open", Do{Path: path})
				a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}})
			}
			events, crowd := v.events(t), newActor(t)
			c.d.Path = v.path(c.d.Path)
			crowd.do("Besiege", c.d)
			events.wait("a change that waits", func(e arbiter.Event) bool { return e.Kind == arbiter.EventWait })
			for round := range 3 {
				daily(t, v, bound, round)
			}
			for _, h := range holders {
				h.kill()
			}
			if _, err := crowd.try("Relieve", Do{}); err != nil {
				t.Errorf("the changes: %v", err)
			}
		})
	}
}

// daily does what other processes do all day, each deed as a process of its own or by this one, and wants each to end in time.
func daily(t *testing.T, v *volume, bound time.Duration, round int) {
	t.Helper()
	same, fresh := v.path("f0"), v.path(fmt.Sprintf("fresh%d", round))
	for _, deed := range []struct {
		name string
		do   func() error
	}{
		{"ls", func() error { mustRun(t, "ls", "-l", v.mnt); return nil }},
		{"create", func() error { mustRun(t, "touch", fresh); return nil }},
		{"stat", func() error { mustRun(t, "stat", same); return nil }},
		{"read", func() error { mustRun(t, "head", "-c", "100000", same); return nil }},
		{"write", func() error {
			mustRun(t, "dd", "if=/dev/zero", "of="+same, "bs=4096", "count=4", "conv=notrunc", "status=none")
			return nil
		}},
		{"write into another file", func() error { return os.WriteFile(fresh, []byte("x"), 0o644) }},
		{"rename", func() error { return os.Rename(fresh, fresh+"-renamed") }},
		{"unlink", func() error { return os.Remove(fresh + "-renamed") }},
		{"mkdir", func() error { return os.Mkdir(filepath.Join(v.mnt, fmt.Sprintf("dir%d", round)), 0o755) }},
		{"who", func() error { v.ask(t, "who", same); return nil }},
	} {
		begin := time.Now()
		if err := deed.do(); err != nil {
			t.Errorf("%s while changes wait: %v", deed.name, err)
		}
		if took := time.Since(begin); took > bound {
			t.Errorf("%s took %v while changes wait; want less than %v", deed.name, took, bound)
		}
	}
}
