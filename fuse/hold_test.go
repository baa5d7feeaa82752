package fuse_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/internal/testserver"
	"holdfast/server"
)

// holdEnv makes the test binary hold a lease on the file of its argument: a
// breakable one, or with the value "unbreakable" such a one. It has to be a
// process beside those that change the file: its descendants would be taken for
// itself.
const holdEnv = "HOLDFAST_TEST_HOLD"

func holdLease(kind, path string) error {
	ctx := context.Background()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	session, err := client.ForFile(ctx, f)
	if err != nil {
		return err
	}
	defer session.Close()
	l, err := session.Lease(ctx, f, client.Range{End: client.Inf}, client.Options{Access: client.Write, Unbreakable: kind == "unbreakable"})
	if err != nil {
		return err
	}
	fmt.Println("holding")
	go func() {
		for e := range l.Events() {
			if e.Kind == client.BreakAsked {
				fmt.Println("asked")
			}
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	return l.Release(ctx)
}

// held mounts, and has another process hold a lease on a file of 64 KiB. lines
// are what that process says; release ends it.
func held(t *testing.T, kind string, mountWait time.Duration) (s *testserver.Server, lines *bufio.Reader, release func()) {
	t.Helper()
	s = testserver.Mounted(t, testserver.With(func(c *server.Config) { c.MountWait = mountWait }))
	must(t, os.WriteFile(s.Mount+"/file", make([]byte, 64<<10), 0o644))
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe, s.Mount+"/file")
	cmd.Env = append(os.Environ(), holdEnv+"="+kind)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	release = sync.OnceFunc(func() {
		in.Close()
		cmd.Wait()
	})
	t.Cleanup(release)
	lines = bufio.NewReader(out)
	wantLine(t, lines, "holding")
	return s, lines, release
}

func wantLine(t *testing.T, lines *bufio.Reader, want string) {
	t.Helper()
	got, err := lines.ReadString('\n')
	if err != nil || got != want+"\n" {
		t.Fatalf("the holder says %q, %v; want %q", got, err, want)
	}
}

// TestRefused: what would pull blocks from under an unbreakable lease of another
// process fails through the mount with ETXTBSY and has changed nothing; the rest
// works.
func TestRefused(t *testing.T) {
	s, _, release := held(t, "unbreakable", time.Second)
	for _, change := range []string{
		"truncate -s 0 file", "truncate -s 5000 file", ": > file", "fallocate -p -o 4096 -l 4096 file",
	} {
		out, err := shell(s.Mount, change)
		if err == nil || !strings.Contains(out, "Text file busy") {
			t.Errorf("%s: %v %s; want Text file busy", change, err, out)
		}
	}
	if st := stat(t, s.Mount+"/file"); st.Size != 64<<10 || st.Blocks != 128 {
		t.Errorf("refused changes left size %d, %d blocks", st.Size, st.Blocks)
	}
	for _, allowed := range []string{
		"echo x | dd of=file bs=1 seek=100 conv=notrunc", "cat file", "truncate -s 128K file", "mv file elsewhere", "ln elsewhere again", "rm elsewhere again",
	} {
		if out, err := shell(s.Mount, allowed); err != nil {
			t.Errorf("%s: %v %s", allowed, err, out)
		}
	}
	release()
	if out, err := shell(s.Mount, "truncate -s 0 elsewhere"); err != nil {
		t.Errorf("after the release: %v %s", err, out)
	}
}

func shell(dir, command string) (string, error) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestInterrupt: who waits for a lease to be given back can be killed, long
// before the wait is over, and what others do with the same file and directory
// does not wait.
func TestInterrupt(t *testing.T) {
	s, lines, _ := held(t, "breakable", time.Hour)
	waiting := exec.Command("truncate", "-s", "0", "file")
	waiting.Dir = s.Mount
	must(t, waiting.Start())
	ended := make(chan error, 1)
	go func() { ended <- waiting.Wait() }()
	wantLine(t, lines, "asked")
	if out, err := shell(s.Mount, "ls -l && cat file | wc -c && echo > new && mkdir d"); err != nil {
		t.Errorf("beside a change that waits: %v %s", err, out)
	}
	must(t, waiting.Process.Signal(syscall.SIGTERM))
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("SIGTERM does not end the wait")
	}
	if st := stat(t, s.Mount+"/file"); st.Size != 64<<10 {
		t.Errorf("the interrupted change left size %d", st.Size)
	}
}

// TestMountWait: through the mount a change waits no longer than it may.
func TestMountWait(t *testing.T) {
	s, _, _ := held(t, "breakable", 50*time.Millisecond)
	if out, err := shell(s.Mount, "truncate -s 0 file"); err == nil || !strings.Contains(out, "temporarily unavailable") {
		t.Errorf("%v %s, want EAGAIN", err, out)
	}
}

// TestSeenAtOnce: a change by the local API is seen through the mount when the
// API answers, though the kernel may trust attributes for a while.
func TestSeenAtOnce(t *testing.T) {
	s := testserver.Mounted(t)
	f, err := os.Create(s.Mount + "/file")
	must(t, err)
	defer f.Close()
	session, err := client.ForFile(t.Context(), f)
	must(t, err)
	defer session.Close()
	for _, size := range []int64{100_000, 4096, 0, 1 << 20} {
		stat(t, f.Name()) // the kernel learns the attributes
		must(t, session.Truncate(t.Context(), f, size, client.ChangeOptions{}))
		if st := stat(t, f.Name()); st.Size != size {
			t.Errorf("size %d right after the API set %d", st.Size, size)
		}
		if end, err := f.Seek(0, 2); err != nil || end != size {
			t.Errorf("seek to the end: %d, %v, want %d", end, err, size)
		}
	}
	// The kernel takes the end of the file for an append from what it remembers.
	log, err := os.OpenFile(f.Name(), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer log.Close()
	must(t, session.Truncate(t.Context(), f, 5000, client.ChangeOptions{}))
	_, err = log.WriteString("appended")
	must(t, err)
	if st := stat(t, f.Name()); st.Size != 5008 {
		t.Errorf("size %d after 8 bytes appended to 5000", st.Size)
	}
	must(t, f.Truncate(4096))
	_, err = f.WriteAt([]byte("x"), 0)
	must(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	if m[0] != 'x' {
		t.Fatal("the mapping does not show the file")
	}
	must(t, session.Punch(t.Context(), f, client.Range{Off: 0, End: 4096}, client.ChangeOptions{}))
	// Mappings follow a moment later: their pages are dropped behind the API's back.
	for deadline := time.Now().Add(20 * time.Second); m[0] != 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("a mapping goes on showing what was punched")
		}
	}
	if st := stat(t, f.Name()); st.Blocks != 0 {
		t.Errorf("%d blocks right after the API punched the only one", st.Blocks)
	}
}

// TestDirectWriter: what a holder writes into its memory is read through the
// mount at once, and the other way round, whatever was read before.
func TestDirectWriter(t *testing.T) {
	s := testserver.Mounted(t)
	f, err := os.Create(s.Mount + "/file")
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 8192))
	must(t, err)
	session, err := client.ForFile(t.Context(), f)
	must(t, err)
	defer session.Close()
	l, err := session.Lease(t.Context(), f, client.Range{Off: 0, End: 8192}, client.Options{Access: client.Write, Prepare: true})
	must(t, err)
	m, err := l.Map(t.Context())
	must(t, err)
	defer m.Close()
	buf := make([]byte, 1)
	for i := range byte(10) {
		m.Bytes()[4096] = 'a' + i
		if _, err := f.ReadAt(buf, 4096); err != nil || buf[0] != 'a'+i {
			t.Errorf("read %q, %v; the holder wrote %q", buf, err, 'a'+i)
		}
	}
	for i := range byte(10) {
		_, err := f.WriteAt([]byte{'A' + i}, 4097)
		must(t, err)
		if got := m.Bytes()[4097]; got != 'A'+i {
			t.Errorf("the holder sees %q, written was %q", got, 'A'+i)
		}
	}
	must(t, l.Release(t.Context()))
}
