package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/client"
	"holdfast/internal/testserver"
	"holdfast/server"
)

const heldBytes = 64 << 10

// hold has an actor reach a file through an io_uring: leased, mapped, registered, pinned.
func hold(t testing.TB, path string) *actor {
	t.Helper()
	a := newActor(t)
	a.do("Open", Do{Path: path})
	a.do("Lease", Do{Len: heldBytes, Lease: client.Options{Access: client.Write}})
	a.do("Map", Do{})
	if _, err := a.try("Ring", Do{}); err != nil {
		t.Skipf("no io_uring: %v", err)
	}
	a.do("Register", Do{Name: "ring", Kind: client.IOUring})
	a.do("Pin", Do{Name: "ring", Len: heldBytes})
	return a
}

// The server is killed under a holder whose memory a ring has pinned, and another is started. The holder notices nothing: what it
// and its ring stored before, meanwhile and since is in the file when it is committed, and its pin was never without effect.
func TestReclaimed(t *testing.T) {
	t.Parallel()
	v := serve(t)
	f := v.synced(t, "f", pattern(1, heldBytes))
	a := hold(t, f)
	before := askJSON[[]arbiter.PinInfo](t, v, "pins")
	a.do("Store", Do{Data: []byte("before")})
	a.do("CloseData", Do{})
	v.kill()
	a.do("Store", Do{Off: 8192, Data: []byte("meanwhile")})
	a.do("RingIn", Do{Off: 12288, Data: []byte("by the ring")})
	commit := a.begin("Commit", Do{Len: heldBytes}) // waits for the next server
	v.start(t)
	if err := truncate(f, 0); err == nil {
		t.Error("a truncate went past a pin from before the server was started")
	}
	if _, err := commit.wait(); err != nil {
		t.Fatal(err)
	}
	a.do("RingIn", Do{Off: 20480, Data: []byte("afterwards")})
	a.do("Commit", Do{Len: heldBytes})
	want := pattern(1, heldBytes)
	copy(want, "before")
	copy(want[8192:], "meanwhile")
	copy(want[12288:], "by the ring")
	copy(want[20480:], "afterwards")
	wantContent(t, v.path("f"), want)
	after := askJSON[[]arbiter.PinInfo](t, v, "pins")
	if len(before) != 1 || len(after) != 1 || after[0].ID != before[0].ID || after[0].Lease != before[0].Lease || after[0].Context != before[0].Context || after[0].Unclaimed {
		t.Errorf("the pin was %+v and is %+v", before, after)
	}
	wantErrno(t, "truncate under the pin", truncate(f, 0), syscall.ETXTBSY)

	// And once more, without the lease's handle: only the pin keeps it.
	a.do("CloseLease", Do{})
	v.kill()
	v.start(t)
	eventually(t, "the holder is back", func() bool { return !strings.Contains(v.ask(t, "pins"), "unclaimed") })
	wantErrno(t, "truncate under the pin", truncate(v.path("f"), 0), syscall.ETXTBSY)
	a.do("RingIn", Do{Off: 0, Data: []byte("by the ring alone")})
	copy(want, "by the ring alone")
	wantContent(t, v.path("f"), want)
	a.do("CloseDevices", Do{})
	a.do("CloseContext", Do{Name: "ring"})
	eventually(t, "nothing is held", func() bool { return strings.Contains(v.ask(t, "leases"), "no leases") })
	wantContent(t, v.path("f"), want)
	must(t, truncate(v.path("f"), 0))
	v.stop(t)
	v.check(t)
}

// synced makes a file on the mount that is there after a crash.
func (v *volume) synced(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := v.write(t, name, data)
	f, err := os.Open(path)
	must(t, err)
	must(t, errors.Join(f.Sync(), f.Close()))
	return path
}

func truncate(path string, size int64) error {
	for {
		if err := syscall.Truncate(path, size); err != syscall.EINTR {
			return err
		}
	}
}

// The same with an AF_XDP socket, whose umem the kernel keeps pinned all the while.
func TestReclaimedXDP(t *testing.T) {
	t.Parallel()
	v := serve(t)
	f := v.synced(t, "f", pattern(1, heldBytes))
	a := newActor(t)
	a.do("Open", Do{Path: f})
	a.do("Lease", Do{Len: heldBytes, Lease: client.Options{Access: client.Write}})
	a.do("Map", Do{})
	if _, err := a.try("Umem", Do{}); err != nil {
		t.Skipf("no AF_XDP: %v", err)
	}
	a.do("Register", Do{Name: "xdp", Kind: client.XDP})
	a.do("Pin", Do{Name: "xdp", Len: heldBytes})
	a.do("Store", Do{Data: []byte("a packet")})
	v.kill()
	v.start(t)
	wantErrno(t, "truncate under the pin", truncate(f, 0), syscall.ETXTBSY)
	a.do("Commit", Do{Len: heldBytes})
	want := pattern(1, heldBytes)
	copy(want, "a packet")
	wantContent(t, f, want)
	wantErrno(t, "truncate under the pin", truncate(f, 0), syscall.ETXTBSY)
	a.do("CloseDevices", Do{})
	a.do("CloseSession", Do{})
	v.stop(t)
	v.check(t)
}

// A break reaches the holder on the handle that it has from the next server. A copy of the handle from the former one has hung up.
func TestReclaimedBreak(t *testing.T) {
	t.Parallel()
	v := serve(t)
	f := v.synced(t, "f", pattern(1, heldBytes))
	a, passed := newPair(t)
	a.do("Open", Do{Path: f})
	a.do("Lease", Do{Len: heldBytes, Lease: client.Options{Access: client.Write}})
	a.do("Map", Do{})
	a.do("Store", Do{Data: []byte("before")})
	a.do("SendHandle", Do{})
	passed.do("ReceiveHandle", Do{})
	if n := passed.do("HungUp", Do{}).N; n != 0 {
		t.Error("the handle has hung up before the server was killed")
	}
	event := a.begin("ReadEvent", Do{})
	v.kill()
	v.start(t)
	eventually(t, "the holder is back", func() bool { return !strings.Contains(v.ask(t, "leases"), "unclaimed") })
	if n := passed.do("HungUp", Do{}).N; n != 1 {
		t.Error("a copy of the former handle has not hung up")
	}
	b := newActor(t)
	change := b.begin("ChangeTruncate", Do{Path: v.path("f"), Len: 4096})
	done, err := event.wait()
	if err != nil || done.Event.Kind != client.BreakAsked || done.Event.Range.Off != 4096 {
		t.Fatalf("event %+v, %v", done.Event, err)
	}
	a.do("Return", Do{Off: 4096})
	if _, err := change.wait(); err != nil {
		t.Error(err)
	}
	want := pattern(1, 4096)
	copy(want, "before")
	a.do("Commit", Do{Len: 4096})
	wantContent(t, v.path("f"), want)
	v.stop(t)
	v.check(t)
}

// What a holder had who died with the server is cut at once.
func TestReclaimDead(t *testing.T) {
	t.Parallel()
	v := serve(t)
	f := v.synced(t, "f", pattern(1, heldBytes))
	a, b := hold(t, f), hold(t, f)
	a.do("Store", Do{Data: []byte("never committed")})
	v.kill()
	a.kill()
	pauseProcess(t, b)
	v.start(t)
	if pins := askJSON[[]arbiter.PinInfo](t, v, "pins"); len(pins) != 1 || int(pins[0].PID) != b.pid() {
		t.Errorf("pins are %+v", pins)
	}
	wantErrno(t, "truncate under the other's pin", truncate(f, 0), syscall.ETXTBSY)
	b.kill() // while the server looks
	eventually(t, "nothing is held", func() bool { return strings.Contains(v.ask(t, "leases"), "no leases") })
	wantContent(t, f, pattern(1, heldBytes))
	must(t, truncate(f, 0))
	v.stop(t)
	v.check(t)
}

func pauseProcess(t *testing.T, a *actor) {
	t.Helper()
	must(t, a.proc.Process.Signal(syscall.SIGSTOP))
}

// A process that lives and does not come back keeps what it had, and an operator is told; when it wakes up it goes on.
func TestReclaimSilent(t *testing.T) {
	t.Parallel()
	s := testserver.Mounted(t, testserver.With(func(c *server.Config) { c.ReclaimTime = 2 * time.Second })) // time to listen
	v := &volume{mnt: s.Mount, socket: s.Socket, log: &lockedBuffer{}}
	var err error
	v.bin, err = command()
	must(t, err)
	f := v.synced(t, "f", pattern(1, heldBytes))
	a := hold(t, f)
	a.do("Store", Do{Data: []byte("before")})
	pauseProcess(t, a)
	s.Kill()
	s = s.Restart()
	v.events(t).wait("the alarm", func(e arbiter.Event) bool { return e.Kind == arbiter.EventUnclaimed && int(e.PID) == a.pid() })
	s.WaitLog("does not come back for it")
	who := v.ask(t, "who", f)
	if !strings.Contains(who, "unclaimed") || !strings.Contains(who, fmt.Sprint(a.pid())) {
		t.Errorf("who says\n%s", who)
	}
	wantErrno(t, "truncate under the pin", truncate(f, 0), syscall.ETXTBSY)
	must(t, a.proc.Process.Signal(syscall.SIGCONT))
	a.do("Commit", Do{Len: heldBytes})
	want := pattern(1, heldBytes)
	copy(want, "before")
	wantContent(t, f, want)
	a.do("CloseDevices", Do{})
	a.do("CloseSession", Do{})
	s.Stop()
}

// After another boot of the machine nobody has any memory: what was committed is there, and nothing is held.
func TestReclaimReboot(t *testing.T) {
	t.Parallel()
	s := testserver.Mounted(t, testserver.With(func(c *server.Config) { c.BootID = "the first" }))
	v := &volume{mnt: s.Mount, socket: s.Socket, log: &lockedBuffer{}}
	var err error
	v.bin, err = command()
	must(t, err)
	f := v.synced(t, "f", pattern(1, heldBytes))
	a := hold(t, f)
	a.do("Commit", Do{Len: heldBytes})
	a.do("Store", Do{Data: []byte("never committed")})
	s.Kill()
	s.Config.BootID = "the second"
	s = s.Restart()
	if got := v.ask(t, "leases"); !strings.Contains(got, "no leases") {
		t.Errorf("leases after a reboot:\n%s", got)
	}
	_, err = a.try("Commit", Do{Len: heldBytes})
	wantErrno(t, "commit of what was before the reboot", err, syscall.ECONNRESET)
	if got := a.do("Mem", Do{Len: 5}).Data; !bytes.Equal(got, []byte("never")) {
		t.Errorf("memory is %q", got)
	}
	wantContent(t, f, pattern(1, heldBytes))
	must(t, truncate(f, 0))
	s.Stop()
}

// A keeper starts a server that was killed again, and a holder goes on without anybody's doing; what was open through the mount is not.
func TestKeeper(t *testing.T) {
	t.Parallel()
	v := serve(t, "--keeper")
	f := v.synced(t, "f", pattern(1, heldBytes))
	a := hold(t, f)
	a.do("Store", Do{Data: []byte("before")})
	open, err := os.Open(f)
	must(t, err)
	defer open.Close()
	for round := range 2 {
		pids := children(v.server.Process.Pid)
		if len(pids) != 1 {
			t.Fatalf("the keeper has the processes %v", pids)
		}
		must(t, syscall.Kill(pids[0], syscall.SIGKILL))
		a.do("Store", Do{Off: int64(4096 * (round + 1)), Data: []byte("meanwhile")})
		a.do("Commit", Do{Len: heldBytes})
	}
	_, err = open.ReadAt(make([]byte, 1), 0)
	wantErrno(t, "read of a file from before", err, syscall.ENOTCONN)
	want := pattern(1, heldBytes)
	copy(want, "before")
	copy(want[4096:], "meanwhile")
	copy(want[8192:], "meanwhile")
	wantContent(t, f, want)
	wantErrno(t, "truncate under the pin", truncate(f, 0), syscall.ETXTBSY)
	a.do("CloseDevices", Do{})
	a.do("CloseSession", Do{})
	v.stop(t)
	v.check(t)
}
