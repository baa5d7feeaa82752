package test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/client"
	"holdfast/internal/mountinfo"
)

// TestServerKilled: the server is killed in the middle of everything, ten times over; each time holdfast check finds nothing, and
// what was fsynced or committed is there.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	v := serve(t, "--size", "512M")
	kept := &synced{files: map[string][]byte{}}
	for round := range rounds {
		loaded := make(chan struct{})
		var workers sync.WaitGroup
		for w := range 3 {
			workers.Go(func() { kept.load(t, v, round, w, loaded) })
		}
		holder := newActor(t)
		committed := kept.commit(t, v, holder, round)
		for range 3 {
			<-loaded // each worker has something synced, and goes on
		}
		// A little later each time, so that it is not always the same moment.
		pause := time.NewTimer(time.Duration(round) * 7 * time.Millisecond)
		<-pause.C
		kept.killing.Store(true)
		v.kill()
		workers.Wait()
		kept.killing.Store(false)
		v.check(t)
		v.start(t) // over the dead mount
		kept.verify(t, round)
		wantContent(t, v.path(committed), kept.files[v.path(committed)])
		if t.Failed() {
			return
		}
	}
	v.stop(t)
	v.check(t)
}

// synced knows what must be there after a crash.
type synced struct {
	// killing: the server is being killed. The kernel has many names for what fails then, EIO among them for a request
	// that was being handed over.
	killing atomic.Bool

	mu    sync.Mutex // protects files
	files map[string][]byte
}

func (s *synced) keep(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = data
}

func (s *synced) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, path)
}

// load writes, syncs, renames, truncates and deletes until the server is gone. It says on loaded when it has synced a file.
func (s *synced) load(t *testing.T, v *volume, round, worker int, loaded chan<- struct{}) {
	told := false
	tell := func() {
		if !told {
			told = true
			loaded <- struct{}{}
		}
	}
	defer tell()
	dir := v.path(fmt.Sprintf("round%d-%d", round, worker))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Errorf("before the crash: %v", err)
		return
	}
	for n := 0; ; n++ {
		if err := s.step(dir, round, worker, n); err != nil {
			if !s.killing.Load() {
				t.Errorf("before the crash: %v", err)
			}
			return
		}
		if n > 10 {
			tell()
		}
	}
}

func (s *synced) step(dir string, round, worker, n int) error {
	path := filepath.Join(dir, fmt.Sprint(n))
	data := sealed(round, worker, n)
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if n%4 == 3 { // never synced: anything of it but strange bytes may be there
		return os.Truncate(path+".tmp", int64(len(data)/2))
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	s.keep(path, data)
	if n%3 == 0 && n > 6 {
		victim := filepath.Join(dir, fmt.Sprint(n-6))
		s.forget(victim)
		if err := os.Remove(victim); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sealed returns content that tells whether it is whole.
func sealed(round, worker, n int) []byte {
	data := pattern(byte(round*31+worker*7+n), 1000+n*977%(20*blockSize))
	return binary.LittleEndian.AppendUint32(data, crc32.ChecksumIEEE(data))
}

// commit writes a file through a window and commits it; the holder keeps the lease until the server dies.
func (s *synced) commit(t *testing.T, v *volume, a *actor, round int) string {
	name := fmt.Sprintf("committed%d", round)
	path := v.write(t, name, pattern(1, heldSize))
	a.do("Open", Do{Path: path})
	a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}})
	a.do("Map", Do{})
	a.do("Store", Do{Data: pattern(byte(round), heldSize/2)})
	a.do("Commit", Do{Len: heldSize})
	if err := syncDir(v.mnt); err != nil {
		t.Error(err)
	}
	s.keep(path, append(pattern(byte(round), heldSize/2), pattern(1, heldSize)[heldSize/2:]...))
	return name
}

// verify compares everything that was synced, also in earlier rounds.
func (s *synced) verify(t *testing.T, round int) {
	t.Helper()
	for path, want := range s.files {
		wantContent(t, path, want)
	}
	t.Logf("round %d: %d synced files are there", round, len(s.files))
}

// TestLogReaderGone: a server outlives whoever read its log, and still ends cleanly.
func TestLogReaderGone(t *testing.T) {
	t.Parallel()
	v := serve(t)
	v.stop(t)
	r, w, err := os.Pipe()
	must(t, err)
	cmd := exec.Command(v.bin, "serve", v.dir)
	cmd.Stdout, cmd.Stderr = w, w
	p, err := start(cmd, syscall.SIGTERM)
	w.Close()
	must(t, err)
	v.server = p
	for lines := bufio.NewScanner(r); lines.Scan() && !strings.HasPrefix(lines.Text(), "socket at "); {
	}
	r.Close()
	v.write(t, "file", []byte("after"))
	v.stop(t) // which it logs
	if mounts, err := mountinfo.Holdfast(); err != nil || slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return m.Source == v.dir }) {
		t.Errorf("the mount is left: %v, %v", mounts, err)
	}
}
