package test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/client"
	"holdfast/internal/mountinfo"
)

// killsVar says how often TestServerKilled kills the server.
const killsVar = "HOLDFAST_KILLS"

// TestServerKilled: the server is killed in the middle of everything, again and again; each time holdfast check finds nothing,
// what was fsynced or committed is there, and no file shows what is not its own.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	if s := os.Getenv(killsVar); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		rounds = n
	}
	k := &killing{v: serve(t, "--size", "512M"), logs: t.TempDir()}
	for round := range rounds {
		k.round(t, round)
		if t.Failed() {
			return
		}
	}
	k.v.stop(t)
	k.v.check(t)
}

const churners = 4

// killing is a server that is killed and what it must not have lost.
type killing struct {
	v    *volume
	logs string
}

func (k *killing) dir(round, worker int) string {
	return k.v.path(fmt.Sprintf("round%d-%d", round, worker))
}

func (k *killing) log(round, worker int) string {
	return filepath.Join(k.logs, fmt.Sprintf("%d-%d", round, worker))
}

func (k *killing) round(t *testing.T, round int) {
	v := k.v
	var busy []*deed
	for w := range churners {
		busy = append(busy, newActor(t).begin("Churn", Do{Path: k.dir(round, w), Name: k.log(round, w), Off: int64(round*churners+w) * 100_000}))
	}
	holder := newActor(t)
	committed, want := commit(t, v, holder, round)
	for w := range churners {
		eventually(t, "a writer has synced some files", func() bool {
			p, err := readPromises(k.log(round, w))
			return err != nil || len(p) > 8 || busy[w].ended()
		})
	}
	// A little later each time, so that it is not always the same moment.
	pause := time.NewTimer(time.Duration(round%50) * 7 * time.Millisecond)
	<-pause.C
	for _, b := range busy {
		if b.ended() {
			_, err := b.wait()
			t.Errorf("before the crash: %v", err)
		}
	}
	v.kill()
	for _, b := range busy {
		b.wait()
		b.a.kill()
	}
	holder.kill()
	v.check(t)
	v.start(t) // over the dead mount
	kept := 0
	for r := max(0, round-2); r <= round; r++ {
		for w := range churners {
			p, err := readPromises(k.log(r, w))
			must(t, err)
			n, err := verifyChurn(k.dir(r, w), p)
			if err != nil {
				t.Errorf("round %d: %v", round, err)
			}
			kept += n
		}
	}
	wantContent(t, v.path(committed), want)
	t.Logf("round %d: %d synced files are there", round, kept)
	for w := range churners { // what three rounds have seen makes room
		if round >= 2 {
			must(t, os.RemoveAll(k.dir(round-2, w)))
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// commit writes a file through a window and commits it; the holder keeps the lease until the server dies.
func commit(t *testing.T, v *volume, a *actor, round int) (name string, want []byte) {
	name = fmt.Sprintf("committed%d", round)
	path := v.write(t, name, pattern(1, heldSize))
	a.do("Open", Do{Path: path})
	a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}})
	a.do("Map", Do{})
	a.do("Store", Do{Data: pattern(byte(round), heldSize/2)})
	a.do("Commit", Do{Len: heldSize})
	if err := syncDir(v.mnt); err != nil {
		t.Error(err)
	}
	return name, append(pattern(byte(round), heldSize/2), pattern(1, heldSize)[heldSize/2:]...)
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
