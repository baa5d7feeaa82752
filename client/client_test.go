package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/local/localtest"
)

// Memory of several windows is contiguous, is the file for both sides, and commit
// and release write it back.
func TestMapCommitRelease(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	content := make([]byte, 300_000)
	for i := range content {
		content[i] = byte(i / 4096)
	}
	f := open(t, s.FS.Create("f", content), os.O_RDWR)
	c := dial(t, s)
	whole := client.Range{End: 300_000}
	l := lease(t, c, f, whole, client.Options{Access: client.Write})
	if want := (client.Range{End: 303_104}); l.Granted().Range != want {
		t.Errorf("granted %v, want %v", l.Granted().Range, want)
	}
	m, err := l.Map(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mem := m.Bytes()
	if n := s.FS.Windows(); n != 5 {
		t.Errorf("%d windows, the test wants several", n)
	}
	if string(mem[:len(content)]) != string(content) {
		t.Error("memory is not the file")
	}
	// Another holder sees what is stored here, at once.
	other := dial(t, s)
	o := lease(t, other, f, client.Range{Off: 131_072, End: 135_168}, client.Options{})
	om, err := o.Map(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	copy(mem[131_072-3:], "abcdef")
	if got := string(om.Bytes()[:3]); got != "def" {
		t.Errorf("the other sees %q", got)
	}
	if om.Writable() || !m.Writable() {
		t.Error("a read lease gives writable memory, or a write lease does not")
	}
	if err := l.Commit(t.Context(), whole, 400_000); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 6)
	if _, err := f.ReadAt(buf, 131_072-3); err != nil || string(buf) != "abcdef" {
		t.Errorf("after commit the file has %q, %v", buf, err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 400_000 {
		t.Errorf("after commit the size is %d, %v", st.Size(), err)
	}
	if err := o.Commit(t.Context(), client.Range{Off: 131_072, End: 135_168}, -1); !errors.Is(err, syscall.EACCES) {
		t.Errorf("commit by a read lease: %v", err)
	}
	if err := l.Commit(t.Context(), client.Range{Off: 0, End: 1 << 20}, -1); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("commit beyond the lease: %v", err)
	}
	if _, err := l.MapRange(t.Context(), client.Range{Off: 0, End: 1 << 20}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("mapping beyond the lease: %v", err)
	}
	mem[0] = 'X'
	if err := errors.Join(m.Close(), m.Close(), om.Close(), l.Release(t.Context()), o.Release(t.Context())); err != nil {
		t.Fatal(err)
	}
	if m.Bytes() != nil {
		t.Error("memory after close")
	}
	if _, err := f.ReadAt(buf[:1], 0); err != nil || buf[0] != 'X' {
		t.Errorf("after release the file has %q, %v", buf[:1], err)
	}
	if n := s.FS.Windows(); n != 0 {
		t.Errorf("%d windows are left", n)
	}
}

// A break comes on the channel and makes the handle readable; parts given back, then
// all, let the change go on.
func TestBreak(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	f := open(t, s.FS.Create("f", make([]byte, 65536)), os.O_RDWR)
	c, other := dial(t, s), dial(t, s)
	l := lease(t, c, f, client.Range{End: 65536}, client.Options{})
	if pollable(t, l.File(), 0) {
		t.Fatal("handle is readable before a break")
	}
	changed := make(chan error, 1)
	go func() {
		changed <- other.Punch(t.Context(), f, client.Range{Off: 8192, End: 32768}, client.ChangeOptions{})
	}()
	if !pollable(t, l.File(), 20_000) {
		t.Fatal("handle is not readable")
	}
	ev := <-l.Events()
	if ev.Kind != client.BreakAsked || ev.Range != (client.Range{Off: 8192, End: 32768}) || time.Until(ev.Deadline) < time.Minute {
		t.Errorf("event %+v", ev)
	}
	if err := l.Return(t.Context(), client.Range{Off: 8192, End: 16384}); err != nil {
		t.Fatal(err)
	}
	info, err := l.Info(t.Context())
	if err != nil || len(info.Pieces) != 2 || info.Pieces[0].End != 8192 || info.Seq <= l.Granted().Seq {
		t.Errorf("after the first part: %+v, %v", info, err)
	}
	select {
	case err := <-changed:
		t.Fatalf("change went on with half of it: %v", err)
	default:
	}
	if err := l.Return(t.Context(), client.Range{Off: 16384, End: 32768}); err != nil {
		t.Fatal(err)
	}
	if err := <-changed; err != nil {
		t.Fatal(err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-l.Events(); ok {
		t.Error("event after release")
	}
}

func pollable(t *testing.T, f *os.File, ms int) bool {
	t.Helper()
	conn, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if ctl := conn.Control(func(fd uintptr) {
		for {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, ms)
			if !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	}); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	return n > 0
}

// A lease that is not given back is cut at the deadline; its holder is told, and then
// that this was the end.
func TestCut(t *testing.T) {
	s := localtest.Start(t, localtest.Options{BreakTime: 50 * time.Millisecond})
	f := open(t, s.FS.Create("f", make([]byte, 8192)), os.O_RDWR)
	c, other := dial(t, s), dial(t, s)
	whole := client.Range{End: 8192}
	l, read := lease(t, c, f, whole, client.Options{Access: client.Write}), lease(t, c, f, whole, client.Options{})
	if err := other.Truncate(t.Context(), f, 0, client.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	var kinds []client.EventKind
	for ev := range l.Events() { // until it is closed
		kinds = append(kinds, ev.Kind)
	}
	if len(kinds) < 2 || kinds[0] != client.BreakAsked || kinds[len(kinds)-1] != client.BreakRevoked {
		t.Errorf("events %v", kinds)
	}
	var last client.EventKind
	ev, err := read.ReadEvent()
	for ; err == nil; ev, err = read.ReadEvent() {
		last = ev.Kind
	}
	if last != client.BreakRevoked || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after event %v: %v", last, err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Errorf("release of a revoked lease: %v", err)
	}
	if err := read.Close(); err != nil {
		t.Errorf("close of a revoked lease: %v", err)
	}
}

// A context that is done ends a wait; what was granted too late is given back.
func TestCancel(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	f := open(t, s.FS.Create("f", make([]byte, 8192)), os.O_RDWR)
	c, other := dial(t, s), dial(t, s)
	block := client.Range{End: 4096}
	l := lease(t, c, f, block, client.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := other.Lease(ctx, f, block, client.Options{Mode: client.Exclusive})
		asked <- err
	}()
	<-l.Events()
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Await(t, "nothing is held", func() bool { return len(leases(s)) == 0 })
	_, err := other.Lease(t.Context(), f, block, client.Options{Mode: client.Exclusive})
	if err != nil {
		t.Errorf("after the cancelled one: %v", err)
	}
	if _, err := c.Lease(t.Context(), f, block, client.Options{NoWait: true}); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("no wait: %v", err)
	}
	if _, err := c.Lease(ctx, f, block, client.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("context that is done: %v", err)
	}
}

// Pins hold a lease, its context owns it after its handle is closed, and the errors
// say what is wrong.
func TestPins(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	f := open(t, s.FS.Create("f", make([]byte, 65536)), os.O_RDWR)
	c, other := dial(t, s), dial(t, s)
	l := lease(t, c, f, client.Range{End: 8192}, client.Options{Access: client.Write})
	x, err := c.Register(t.Context(), client.Memory, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Pin(t.Context(), l, client.Range{Off: 4096, End: 12288}, client.Read); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("pin beyond the lease: %v", err)
	}
	p, err := x.Pin(t.Context(), l, client.Range{End: 4096}, client.Write)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(t.Context()); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("release of a pinned lease: %v", err)
	}
	raw, err := other.Would(t.Context(), f, client.Truncate, client.Range{End: client.Inf}, client.OnHoldDefault)
	var would struct {
		Errno    syscall.Errno
		Class    string
		Blockers []struct{ Pid int32 }
	}
	if err := errors.Join(err, json.Unmarshal(raw, &would)); err != nil {
		t.Fatal(err)
	}
	if would.Errno != syscall.EDEADLK || would.Class != "subtractive" || len(would.Blockers) == 0 || would.Blockers[0].Pid != int32(os.Getpid()) {
		t.Errorf("would: %s", raw)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.Await(t, "context owns the lease", func() bool { return len(leases(s)) == 1 && leases(s)[0].Closed })
	// The process would wait for itself, by whichever of its sessions. (Leases count by session: see TestBreak.)
	for what, by := range map[string]*client.Session{"session": c, "other session": other} {
		if err := by.Truncate(t.Context(), f, 0, client.ChangeOptions{}); !errors.Is(err, syscall.EDEADLK) {
			t.Errorf("truncate under the pin of one's own %s: %v", what, err)
		}
	}
	if err := p.Unpin(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Await(t, "lease goes with its last pin", func() bool { return len(leases(s)) == 0 })
	if err := errors.Join(x.Close(), x.Close()); err != nil {
		t.Error(err)
	}
}

func TestModify(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 8192))
	f, readonly := open(t, path, os.O_RDWR), open(t, path, os.O_RDONLY)
	c := dial(t, s)
	block := client.Range{End: 4096}
	l := lease(t, c, f, block, client.Options{})
	info, err := l.Modify(t.Context(), client.Options{Access: client.Write, Mode: client.Exclusive, Unbreakable: true})
	if err != nil || info.Access != client.Write || info.Mode != client.Exclusive || !info.Unbreakable || info.Seq <= l.Granted().Seq {
		t.Errorf("upgrade: %+v, %v", info, err)
	}
	if info, err = l.Modify(t.Context(), client.Options{}); err != nil || info.Access != client.Read || info.Unbreakable {
		t.Errorf("downgrade: %+v, %v", info, err)
	}
	r := lease(t, c, readonly, block, client.Options{})
	for _, o := range []client.Options{{Access: client.Write}, {Unbreakable: true}} {
		if _, err := r.Modify(t.Context(), o); !errors.Is(err, syscall.EACCES) {
			t.Errorf("%+v with a read-only descriptor: %v", o, err)
		}
	}
}

func TestListings(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", make([]byte, 4096))
	f := open(t, path, os.O_RDWR)
	c := dial(t, s)
	const n = 1000 // more than one message holds
	for range n {
		lease(t, c, f, client.Range{End: 4096}, client.Options{})
	}
	var list []struct {
		Path string
		Pid  int
	}
	raw, err := c.List(t.Context(), client.ListLeases, client.Filter{Session: c.Info().Session})
	if err := errors.Join(err, json.Unmarshal(raw, &list)); err != nil {
		t.Fatal(err)
	}
	if len(list) != n || list[n-1].Path != path || list[0].Pid != os.Getpid() || len(raw) < 100_000 {
		t.Errorf("%d leases in %d bytes, the last %+v", len(list), len(raw), list[len(list)-1])
	}
	for _, what := range []client.ListKind{client.ListPins, client.ListContexts, client.ListSessions, client.ListServer} {
		if raw, err := c.List(t.Context(), what, client.Filter{}); err != nil || !json.Valid(raw) {
			t.Errorf("list %d: %s, %v", what, raw, err)
		}
	}
	for name, ask := range map[string]func(context.Context, *os.File) (json.RawMessage, error){"who": c.Who, "stat": c.Stat} {
		if raw, err := ask(t.Context(), f); err != nil || !json.Valid(raw) {
			t.Errorf("%s: %s, %v", name, raw, err)
		}
	}
}

// The stream of events tells what happens, and when it lost some.
func TestSubscribe(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	f := open(t, s.FS.Create("f", make([]byte, 4096)), os.O_RDWR)
	c := dial(t, s)
	sub, err := c.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := lease(t, c, f, client.Range{End: 4096}, client.Options{})
	for {
		raw, dropped, err := sub.Next(t.Context())
		if err != nil || dropped != 0 {
			t.Fatal(raw, dropped, err)
		}
		var ev struct {
			Event string
			Lease uint64
			Path  string
		}
		if err := json.Unmarshal(raw, &ev); err != nil {
			t.Fatal(err)
		}
		if ev.Event == "grant" && ev.Lease == l.ID() && ev.Path == f.Name() {
			break
		}
	}
	// One that is not read delays nobody, and does not end its session.
	for range 20_000 {
		l, err := l.Modify(t.Context(), client.Options{})
		if err != nil {
			t.Fatal(l, err)
		}
	}
	lost := uint64(0)
	for lost == 0 {
		_, dropped, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lost = dropped
	}
	t.Log("lost", lost)
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
}

// When the server goes, everything ends with an error, and nothing hangs.
func TestServerStops(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	f := open(t, s.FS.Create("f", make([]byte, 4096)), os.O_RDWR)
	c, other := dial(t, s), dial(t, s)
	block := client.Range{End: 4096}
	l := lease(t, c, f, block, client.Options{})
	events := l.Events()
	waiting := make(chan error, 1)
	go func() {
		_, err := other.Lease(t.Context(), f, block, client.Options{Mode: client.Exclusive})
		waiting <- err
	}()
	<-events
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err == nil {
		t.Error("lease of a stopped server")
	}
	for ev := range events { // until it is closed
		if ev.Kind == client.BreakAsked {
			t.Errorf("event of a stopped server: %+v", ev)
		}
	}
	<-c.Done()
	if _, err := l.Info(t.Context()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("request to a stopped server: %v", err)
	}
	if _, err := client.Dial(t.Context(), s.Socket); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("dial: %v", err)
	}
}
