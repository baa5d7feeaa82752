package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/client"
	"holdfast/internal/mountinfo"
	"holdfast/internal/testserver"
)

const blockSize = 4096

// volumePrefix begins the names of the volumes of this process: other runs of the tests have
// theirs on the same machine.
func volumePrefix() string { return fmt.Sprintf("holdfast-test-vol-%d-", os.Getpid()) }

// volume is a directory with a volume and, most of the time, the server of it.
type volume struct {
	bin, dir string
	args     []string
	mnt      string
	socket   string
	server   *process
	log      *lockedBuffer
}

// serve starts `holdfast serve` on a new volume. The server ends with the test,
// and nothing of it is left.
func serve(t testing.TB, args ...string) *volume {
	t.Helper()
	testserver.NeedMount(t)
	v := newVolume(t, args...)
	v.start(t)
	return v
}

// newVolume makes the place for a volume without serving it.
func newVolume(t testing.TB, args ...string) *volume {
	t.Helper()
	bin, err := command()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its names are too long for a socket.
	top, err := os.MkdirTemp("", volumePrefix())
	if err != nil {
		t.Fatal(err)
	}
	v := &volume{bin: bin, dir: filepath.Join(top, "vol"), args: args, log: &lockedBuffer{}}
	t.Cleanup(func() {
		v.end(t)
		if t.Failed() {
			t.Logf("log of the server of %s:\n%s", v.dir, v.log)
		}
		if err := os.RemoveAll(top); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	if err := os.Chmod(top, 0o755); err != nil { // other users are part of some tests
		t.Fatal(err)
	}
	return v
}

// start starts the server and waits until it says where it serves.
func (v *volume) start(t testing.TB) {
	t.Helper()
	if err := v.tryStart(); err != nil {
		t.Fatalf("%v\n%s", err, v.log)
	}
}

func (v *volume) tryStart() error {
	args := append([]string{"serve", "--size", "1G"}, v.args...)
	cmd := exec.Command(v.bin, append(args, v.dir)...)
	cmd.Stderr = v.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	if v.server, err = start(cmd, syscall.SIGTERM); err != nil {
		return err
	}
	timeout := time.AfterFunc(patience, func() { v.server.Process.Kill() })
	defer timeout.Stop()
	for lines.Scan() {
		if p, ok := strings.CutPrefix(lines.Text(), "mounted at "); ok {
			v.mnt = p
		}
		if p, ok := strings.CutPrefix(lines.Text(), "socket at "); ok {
			v.socket = p
			go io.Copy(io.Discard, out)
			return nil
		}
	}
	<-v.server.done
	return fmt.Errorf("the server does not serve: %v", v.server.err)
}

// stop ends the server as a user would, which must go without complaint.
func (v *volume) stop(t testing.TB) {
	t.Helper()
	v.server.Process.Signal(syscall.SIGTERM)
	select {
	case <-v.server.done:
	case <-time.After(patience):
		v.server.Process.Signal(syscall.SIGQUIT) // the log gets its goroutines
		<-v.server.done
	}
	if v.server.err != nil {
		t.Errorf("the server did not end cleanly: %v", v.server.err)
	}
}

// kill ends the server as a crash would.
func (v *volume) kill() {
	v.server.Process.Kill()
	<-v.server.done
}

// end leaves neither process nor mount, whatever has happened before.
func (v *volume) end(t testing.TB) {
	if v.server != nil && v.server.Process != nil {
		select {
		case <-v.server.done:
		default:
			v.stop(t)
		}
	}
	mounts, err := mountinfo.Holdfast()
	if err != nil {
		t.Error(err)
	}
	for _, m := range mounts {
		if m.Source != v.dir {
			continue
		}
		if os.Geteuid() == 0 {
			unix.Unmount(m.Path, unix.MNT_DETACH)
		} else {
			exec.Command("fusermount3", "-u", "-z", m.Path).Run()
		}
	}
}

// check runs `holdfast check` on a volume that is not served: it must find
// nothing.
func (v *volume) check(t testing.TB) {
	t.Helper()
	if r := run(t, v.bin, "check", v.dir); r.status != 0 {
		t.Errorf("holdfast check: exit status %d\n%s%s", r.status, r.out, r.err)
	}
}

// path returns the path of a file on the mount.
func (v *volume) path(names ...string) string {
	return filepath.Join(append([]string{v.mnt}, names...)...)
}

// ask runs a subcommand that asks the server, which must succeed.
func (v *volume) ask(t testing.TB, args ...string) string {
	t.Helper()
	return mustRun(t, v.bin, append(args, "--socket", v.socket)...)
}

// askJSON is ask with --json, decoded.
func askJSON[T any](t testing.TB, v *volume, args ...string) (answer T) {
	t.Helper()
	out := v.ask(t, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("holdfast %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
	return answer
}

// write makes a file on the mount.
func (v *volume) write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := v.path(name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// free returns the free space as df has it.
func (v *volume) free(t testing.TB) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(v.mnt, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

// pattern returns n bytes in which each block is different, and each seed.
func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i/blockSize)*7 + byte(i)*3 + seed
	}
	return b
}

// wantContent reads a file as any program would and compares.
func wantContent(t testing.TB, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s has another content: %d bytes, want %d; first difference at %d", path, len(got), len(want), differAt(got, want))
	}
}

func differAt(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// events follows what happens in a server.
type events struct {
	t    testing.TB
	sub  *client.Subscription
	seen []arbiter.Event
}

// events begins to follow; what happens from now on is not missed.
func (v *volume) events(t testing.TB) *events {
	t.Helper()
	s, err := client.Dial(t.Context(), v.socket)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := s.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sub.Close(); s.Close() })
	return &events{t: t, sub: sub}
}

// wait returns the first event that match accepts, also of those that have been
// passed over before.
func (e *events) wait(what string, match func(arbiter.Event) bool) arbiter.Event {
	e.t.Helper()
	for _, ev := range e.seen {
		if match(ev) {
			return ev
		}
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	for {
		raw, dropped, err := e.sub.Next(ctx)
		if err != nil || dropped > 0 {
			e.t.Fatalf("waiting for the event %q: %v, %d dropped; seen: %v", what, err, dropped, e.seen)
		}
		var ev arbiter.Event
		if err := json.Unmarshal(raw, &ev); err != nil {
			e.t.Fatalf("event %s: %v", raw, err)
		}
		e.seen = append(e.seen, ev)
		if match(ev) {
			return ev
		}
	}
}

// waitLease waits for an event about a lease.
func (e *events) waitLease(kind arbiter.EventKind, lease uint64) arbiter.Event {
	e.t.Helper()
	return e.wait(fmt.Sprintf("%v of lease %d", kind, lease), func(ev arbiter.Event) bool {
		return ev.Kind == kind && uint64(ev.Lease) == lease
	})
}

// lockedBuffer collects the log of a process.
type lockedBuffer struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
