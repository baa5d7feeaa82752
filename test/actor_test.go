package test

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/client"
)

// actorEnv makes a process of this test binary an actor.
const actorEnv = "HOLDFAST_TEST_ACTOR"

// Do says what an actor is to do; each deed uses the fields it needs.
type Do struct {
	Name     string // of a context, a copy of a handle, …: whatever there may be several of
	Path     string
	Off, Len int64
	Data     []byte
	Count    int
	Lease    client.Options
	Kind     client.Kind
	Wait     time.Duration
	Change   client.ChangeOptions
	Other    bool // by a session of its own
}

// Done is what an actor answers.
type Done struct {
	Data  []byte
	Text  string
	N     int64
	Event client.Event
}

// actor is the test's side of an actor.
type actor struct {
	t     testing.TB
	proc  *process
	calls *rpc.Client
}

// pipeConn is the pair of pipes to an actor, or from it.
type pipeConn struct {
	io.ReadCloser
	w io.WriteCloser
}

func (c pipeConn) Write(p []byte) (int, error) { return c.w.Write(p) }
func (c pipeConn) Close() error                { return errors.Join(c.ReadCloser.Close(), c.w.Close()) }

// newActor starts a process that does what it is told. It ends with the test.
// The files are its descriptors 3, 4, ….
func newActor(t testing.TB, files ...*os.File) *actor {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), actorEnv+"=1")
	cmd.ExtraFiles = files
	// Not StdoutPipe: Wait would close it under the reader.
	inR, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Nor a Writer for what it says: Wait would wait for accomplices too.
	said, saidW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, saidW
	proc, err := start(cmd, syscall.SIGKILL)
	inR.Close()
	outW.Close()
	saidW.Close()
	go func() {
		io.Copy(log, said)
		said.Close()
	}()
	if err != nil {
		t.Fatal(err)
	}
	a := newRemote(t, out, in)
	a.proc = proc
	t.Cleanup(func() {
		a.kill()
		if t.Failed() && log.String() != "" {
			t.Logf("actor %d said:\n%s", proc.Process.Pid, log)
		}
	})
	return a
}

// newRemote talks to an actor over pipes.
func newRemote(t testing.TB, from, to *os.File) *actor {
	a := &actor{t: t, proc: &process{Cmd: &exec.Cmd{}}, calls: jsonrpc.NewClient(pipeConn{from, to})}
	t.Cleanup(func() { a.calls.Close() })
	return a
}

// newPair starts two actors between whom handles can be passed.
func newPair(t testing.TB) (*actor, *actor) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	one, two := os.NewFile(uintptr(fds[0]), "pair"), os.NewFile(uintptr(fds[1]), "pair")
	defer one.Close()
	defer two.Close()
	return newActor(t, one), newActor(t, two)
}

func (a *actor) pid() int { return a.proc.Process.Pid }

// kill kills the process with SIGKILL and waits until the kernel has reaped it.
func (a *actor) kill() {
	a.proc.Process.Kill()
	<-a.proc.done
}

// do has a deed done that must succeed.
func (a *actor) do(what string, d Do) Done {
	a.t.Helper()
	done, err := a.try(what, d)
	if err != nil {
		a.t.Fatalf("actor %d, %s: %v", a.pid(), what, err)
	}
	return done
}

// try has a deed done and returns its error, in which errors.Is finds the errno.
func (a *actor) try(what string, d Do) (Done, error) {
	a.t.Helper()
	return a.begin(what, d).wait()
}

// begin has a deed done in the background.
func (a *actor) begin(what string, d Do) *deed {
	call := a.calls.Go("Actor."+what, d, new(Done), make(chan *rpc.Call, 1))
	return &deed{a, what, call}
}

// deed is something an actor is at.
type deed struct {
	a    *actor
	what string
	call *rpc.Call
}

// wait waits for the end.
func (d *deed) wait() (Done, error) {
	d.a.t.Helper()
	select {
	case <-d.call.Done:
		return *d.call.Reply.(*Done), remoteError(d.call.Error)
	case <-time.After(patience):
		d.a.t.Fatalf("actor %d does not end to %s", d.a.pid(), d.what)
		return Done{}, nil
	}
}

// ended tells whether it has ended.
func (d *deed) ended() bool {
	select {
	case c := <-d.call.Done:
		d.call.Done <- c
		return true
	default:
		return false
	}
}

// Errors cross the pipe as text that begins with the errno.
var errnoText = regexp.MustCompile(`^errno (\d+): `)

func errorText(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("errno %d: %w", int(errno), err)
	}
	return err
}

func remoteError(err error) error {
	if err == nil {
		return nil
	}
	m := errnoText.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	n, _ := strconv.Atoi(m[1])
	return fmt.Errorf("%w (%s)", syscall.Errno(n), err.Error()[len(m[0]):])
}

// wantErrno fails the test if err is not errno.
func wantErrno(t testing.TB, what string, err error, errno syscall.Errno) {
	t.Helper()
	if !errors.Is(err, errno) {
		t.Errorf("%s: %v, want %v (errno %d)", what, err, errno, int(errno))
	}
}

// actorMain is the other side: a process that does what it is told until its
// standard input ends.
func actorMain() int {
	srv := rpc.NewServer()
	if err := srv.RegisterName("Actor", newDeeds()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	codec := jsonrpc.NewServerCodec(pipeConn{os.Stdin, os.Stdout})
	for srv.ServeRequest(codec) == nil { // one after the other
	}
	return 0
}
