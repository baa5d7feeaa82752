package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/fuse"
	"holdfast/internal/mountinfo"
	"holdfast/store"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfast": main})
}

// TestScript runs testdata/script: the real program, real processes, and real
// mounts where the machine has them. Beside testscript's own commands there are
//
//	start NAME TEXT COMMAND…   starts a process and waits until it prints TEXT
//	await NAME TEXT            waits until it has printed TEXT
//	[!] finish NAME [SIGNAL]   closes its standard input or sends a signal, waits
//	                           for its end, and leaves NAME.out and NAME.err
//	damage DIR PREFIX          removes from the metadata all that begins with PREFIX;
//	                           if there is nothing, it puts nonsense there
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOLDFAST_SOCKET", "")
			p := &processes{running: map[string]*started{}}
			env.Values[processesKey{}] = p
			env.Defer(func() { p.cleanup(env.WorkDir) })
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "fuse":
				return fuse.Available(os.Geteuid() == 0) == nil, nil
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": start, "await": await, "finish": finish, "damage": damage,
		},
	})
}

const waitLimit = 30 * time.Second

// processesKey finds the processes of a script.
type processesKey struct{}

// processes are those that a script has started.
type processes struct{ running map[string]*started }

type started struct {
	cmd      *exec.Cmd
	in       io.Closer
	out, err *output
	done     chan error
}

func (p *processes) cleanup(workDir string) {
	for _, proc := range p.running {
		syscall.Kill(-proc.cmd.Process.Pid, syscall.SIGKILL) // and what it has started
		<-proc.done
	}
	mounts, _ := mountinfo.Holdfast()
	for _, m := range mounts {
		if !strings.HasPrefix(m.Path, workDir+"/") {
			continue
		}
		if os.Geteuid() == 0 {
			unix.Unmount(m.Path, unix.MNT_DETACH|unix.MNT_FORCE)
		} else {
			exec.Command("fusermount3", "-u", "-z", m.Path).Run()
		}
	}
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: start NAME TEXT COMMAND...")
	}
	p := &started{cmd: exec.Command(args[2], args[3:]...), out: newOutput(), err: newOutput(), done: make(chan error, 1)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = append(os.Environ(), "HOLDFAST_SOCKET="+ts.Getenv("HOLDFAST_SOCKET"), "WORK="+ts.Getenv("WORK"), "HOME="+ts.Getenv("WORK"))
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	in, err := p.cmd.StdinPipe()
	ts.Check(err)
	p.in = in
	ts.Check(p.cmd.Start())
	ts.Value(processesKey{}).(*processes).running[args[0]] = p
	go func() {
		p.done <- p.cmd.Wait()
		p.out.close()
		p.err.close()
	}()
	waitText(ts, args[0], args[1])
}

func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: damage DIR PREFIX")
	}
	st, err := store.Open(ts.MkAbs(args[0]+"/meta"), store.Options{})
	ts.Check(err)
	defer st.Close()
	prefix := []byte(args[1])
	b := store.Batch{Term: math.MaxUint64}
	ts.Check(st.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
		if bytes.HasPrefix(k, prefix) {
			b.Delete(bytes.Clone(k))
		}
		return bytes.HasPrefix(k, prefix), nil
	}))
	if b.Ops() == 0 {
		b.Put(prefix, []byte("nonsense"))
	}
	ts.Check(st.Apply(&b))
	ts.Check(st.Sync())
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await NAME TEXT")
	}
	waitText(ts, args[0], args[1])
}

func named(ts *testscript.TestScript, name string) *started {
	p := ts.Value(processesKey{}).(*processes).running[name]
	if p == nil {
		ts.Fatalf("no process %q", name)
	}
	return p
}

func waitText(ts *testscript.TestScript, name, text string) {
	p := named(ts, name)
	limit := time.After(waitLimit)
	for {
		out, outMore := p.out.state()
		errs, errMore := p.err.state()
		if strings.Contains(out+errs, text) {
			return
		}
		if outMore == nil && errMore == nil {
			ts.Fatalf("%s ended without printing %q:\n%s%s", name, text, out, errs)
		}
		select {
		case <-outMore:
		case <-errMore:
		case <-limit:
			ts.Fatalf("%s did not print %q:\n%s%s", name, text, out, errs)
		}
	}
}

func finish(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: [!] finish NAME [SIGNAL]")
	}
	p := named(ts, args[0])
	p.in.Close()
	if len(args) == 2 {
		sig := unix.SignalNum("SIG" + args[1])
		if sig == 0 {
			ts.Fatalf("unknown signal %s", args[1])
		}
		p.cmd.Process.Signal(syscall.Signal(sig))
	}
	var err error
	select {
	case err = <-p.done:
	case <-time.After(waitLimit):
		ts.Fatalf("%s does not end", args[0])
	}
	delete(ts.Value(processesKey{}).(*processes).running, args[0])
	for suffix, o := range map[string]*output{".out": p.out, ".err": p.err} {
		text, _ := o.state()
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+suffix), []byte(text), 0o644))
	}
	if (err != nil) != neg {
		text, _ := p.err.state()
		ts.Fatalf("%s ended with %v:\n%s", args[0], err, text)
	}
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex // protects the rest
	buf  bytes.Buffer
	more chan struct{} // closed at each write; nil after the end
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.buf.Write(p)
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = nil
}

func (o *output) state() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.more
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "4096": 4096, "1K": 1024, "2KiB": 2048, "3KB": 3000, "10G": 10 << 30, "1PiB": 1 << 50} {
		var s byteSize
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%q: %d, %v, want %d", text, s, err, want)
		}
	}
	for _, text := range []string{"", "G", "-1", "1X", "1GG", "1iB", "1B", "9999999P", "1.5G", "1 G", "99999999999999999999"} {
		var s byteSize
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken as %d", text, s)
		}
	}
	if s := byteSize(3 << 20); s.String() != "3MiB" {
		t.Errorf("3 MiB prints as %s", s.String())
	}
}

func TestByteRange(t *testing.T) {
	for text, want := range map[string]string{"0+4096": "[0,4096)", "1M+64K": "[1048576,1114112)", "4096+": "[4096,∞)"} {
		var r byteRange
		if err := r.Set(text); err != nil || client.Range(r).String() != want {
			t.Errorf("%q: %s, %v, want %s", text, client.Range(r).String(), err, want)
		}
	}
	for _, text := range []string{"", "+", "5", "1+0", "-1+1", "9223372036854775807+1", "1+9223372036854775807", "a+b"} {
		var r byteRange
		if err := r.Set(text); err == nil {
			t.Errorf("%q is taken as %s", text, client.Range(r).String())
		}
	}
}
