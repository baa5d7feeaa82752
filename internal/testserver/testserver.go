// Package testserver starts real servers for tests: processes of their own, on
// temporary directories, with real mounts where the machine can mount.
//
// The process is the test binary again. A package that uses Start has
//
//	func TestMain(m *testing.M) { testserver.Main(m) }
//
// A server ends with the test that started it, and with the test process however
// that dies: its standard input is a pipe from there. What a killed server left
// mounted is taken away.
package testserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/fuse"
	"holdfast/internal/mountinfo"
	"holdfast/server"
)

// childEnv holds the configuration of a test binary that is to be a server.
const childEnv = "HOLDFAST_TESTSERVER"

// startTimeout bounds the start of a server, stopTimeout its end.
const startTimeout, stopTimeout = 30 * time.Second, 40 * time.Second

// Child reports whether this process was started to be a server: then Main has to be called
// before anything else is done.
func Child() bool { return os.Getenv(childEnv) != "" }

// Main runs the tests, or the server if this process was started to be one.
func Main(m *testing.M) {
	cfg := os.Getenv(childEnv)
	if cfg == "" {
		os.Exit(m.Run())
	}
	if err := serve(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "testserver:", err)
		os.Exit(1)
	}
}

func serve(text string) error {
	var cfg server.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	cfg.Ready = func(a server.Addresses) { json.NewEncoder(os.Stdout).Encode(a) }
	cfg.Out, cfg.Log = io.Discard, os.Stderr
	signal.Ignore(syscall.SIGPIPE) // the log's reader is the test process, which may be dead
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // the test process is gone when its pipe is
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return server.Run(ctx, cfg)
}

// Server is a running server.
type Server struct {
	server.Addresses
	// Config is what it was started with; Start again with it to restart.
	Config server.Config

	t    testing.TB
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan struct{} // closed after the process was reaped
	err  error         // of Wait; read after done
}

// Option changes how a server is started.
type Option func(*Server)

// With changes the configuration.
func With(f func(*server.Config)) Option { return func(s *Server) { f(&s.Config) } }

// AsUser runs the server as another user, who must be able to reach its directory.
func AsUser(uid, gid uint32) Option {
	return func(s *Server) {
		s.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
		s.cmd.Path = publicCopy(s.t, s.cmd.Path) // go test builds where others cannot look
	}
}

func publicCopy(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(tempDir(t), "server")
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// InNamespace runs the server in a mount namespace of its own, after a shell
// command that changes what it sees. It needs root.
func InNamespace(command string) Option {
	return func(s *Server) {
		s.cmd.Args = []string{"unshare", "-m", "sh", "-c", command + ` && exec "$0"`, s.cmd.Path}
		s.cmd.Path = "/usr/bin/unshare"
	}
}

// NeedMount skips the test where this process cannot mount.
func NeedMount(t testing.TB) {
	t.Helper()
	if err := fuse.Available(os.Geteuid() == 0); err != nil {
		t.Skipf("needs a mount: %v", err)
	}
}

// NeedRoot skips the test for ordinary users.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Start starts a server on a volume of 1 GiB in a temporary directory, and waits
// until it serves. It fails the test if the server does not start.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s, err := TryStart(t, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Mounted is Start for tests that need the mount; it skips where there is none.
func Mounted(t testing.TB, opts ...Option) *Server {
	t.Helper()
	NeedMount(t)
	s := Start(t, opts...)
	if s.Mount == "" {
		t.Fatalf("the server has no mount:\n%s", s.Log())
	}
	return s
}

// TryStart is Start that returns the error of a server that does not start.
func TryStart(t testing.TB, opts ...Option) (*Server, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &Server{t: t, cmd: exec.Command(exe), log: &lockedBuffer{written: make(chan struct{})}, done: make(chan struct{})}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.Config = server.Config{Size: 1 << 30}
	for _, o := range opts {
		o(s)
	}
	if s.Config.Dir == "" {
		s.Config.Dir = filepath.Join(tempDir(t), "volume")
	}
	cfg, err := json.Marshal(s.Config)
	if err != nil {
		return nil, err
	}
	s.cmd.Env = append(os.Environ(), childEnv+"="+string(cfg))
	s.cmd.Stderr = s.log
	s.cmd.Dir = "/"
	if err := s.run(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) run() error {
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	// Registered before anything can fail: nothing stays behind.
	s.t.Cleanup(func() {
		s.stop()
		in.Close()
		s.unmountLeft()
	})
	ready := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(out).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &s.Addresses)
		}
		ready <- err
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	select {
	case err = <-ready:
	case <-time.After(startTimeout):
		err = errors.New("not ready in time")
		s.cmd.Process.Kill()
	}
	if err != nil {
		<-s.done
		return fmt.Errorf("server: %w (%v):\n%s", err, s.err, s.Log())
	}
	return nil
}

// PID returns the process id of the server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Log returns what the server has logged.
func (s *Server) Log() string { return s.log.String() }

// WaitLog waits until the log has a line that contains text.
func (s *Server) WaitLog(text string) {
	s.t.Helper()
	if !s.log.wait(text, startTimeout) {
		s.t.Errorf("the server did not log %q:\n%s", text, s.Log())
	}
}

// Done is closed when the process has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Stop ends the server with SIGTERM and fails the test if that does not go
// cleanly.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.stop(); err != nil {
		s.t.Errorf("server: %v\n%s", err, s.Log())
	}
}

func (s *Server) stop() error {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		s.cmd.Process.Kill()
		<-s.done
		return errors.New("did not end after SIGTERM and was killed")
	}
	return s.err
}

// Kill ends the server with SIGKILL, as a crash would. The mount stays, dead.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	<-s.done
}

// Restart starts a server of the same configuration after Stop or Kill.
func (s *Server) Restart() *Server {
	s.t.Helper()
	return Start(s.t, With(func(c *server.Config) { *c = s.Config }), func(n *Server) {
		n.cmd.SysProcAttr.Credential = s.cmd.SysProcAttr.Credential
		n.cmd.Path = s.cmd.Path
	})
}

// unmountLeft takes away mounts below the directory of the volume.
func (s *Server) unmountLeft() {
	mounts, err := mountinfo.Holdfast()
	if err != nil {
		s.t.Error(err)
	}
	for _, m := range mounts {
		if m.Source != s.Config.Dir {
			continue
		}
		if os.Geteuid() == 0 {
			unix.Unmount(m.Path, unix.MNT_DETACH|unix.MNT_FORCE)
		} else {
			exec.Command("fusermount3", "-u", "-z", m.Path).Run()
		}
	}
}

// tempDir is t.TempDir with a path short enough for a socket and open to other
// users, who are part of some tests.
func tempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "holdfast-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lockedBuffer collects the log; readers can wait for a text.
type lockedBuffer struct {
	mu      sync.Mutex // protects the rest
	buf     bytes.Buffer
	written chan struct{} // closed and replaced at each write
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.written)
	b.written = make(chan struct{})
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(b.buf.String())
}

func (b *lockedBuffer) wait(text string, limit time.Duration) bool {
	timeout := time.After(limit)
	for {
		b.mu.Lock()
		found, more := strings.Contains(b.buf.String(), text), b.written
		b.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-more:
		case <-timeout:
			return false
		}
	}
}
