package localtest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/local"
)

// Server is a running server.
type Server struct {
	*local.Server
	Arbiter *arbiter.Arbiter
	FS      *FS
	Socket  string
	stop    context.CancelFunc
	served  chan error
}

// Options change what Start starts.
type Options struct {
	Limits    local.Limits
	BreakTime time.Duration // default 1 h: nothing is cut that a test does not cut
	Clock     arbiter.Clock // of tickets
	OnPass    layout.OnPass
}

// Start starts a server that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.BreakTime == 0 {
		o.BreakTime = time.Hour
	}
	arb := arbiter.New(arbiter.Config{BreakTime: o.BreakTime})
	t.Cleanup(arb.Close)
	fs := newFS(t, arb)
	// Not t.TempDir: a socket's path is short.
	dir, err := os.MkdirTemp("", "holdfast")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{dir, fs.dir, filepath.Dir(fs.dir)} {
		if err := os.Chmod(d, 0o777); err != nil { // also for helpers of another user
			t.Fatal(err)
		}
	}
	s := &Server{Arbiter: arb, FS: fs, Socket: filepath.Join(dir, "socket"), served: make(chan error, 1)}
	s.Server, err = local.New(local.Config{
		Arbiter: arb, FS: fs, Identity: fs.Identity, Path: s.Socket, Limits: o.Limits, BreakTime: o.BreakTime, Clock: o.Clock,
		OnPass: func(extent.Ino) layout.OnPass { return o.OnPass },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.served <- s.Serve(ctx) }()
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Stop stops the server and waits until it has ended.
func (s *Server) Stop() error {
	s.stop()
	err, ok := <-s.served
	if ok {
		close(s.served)
	}
	return err
}

// Await waits until cond holds: looks after each event of the arbiter, and now and
// then for what makes no event.
func (s *Server) Await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	sub := s.Arbiter.Subscribe(1024)
	defer sub.Close()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-sub.C:
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s; leases %s", what, s.dump())
		}
	}
}

func (s *Server) dump() string {
	b, err := json.Marshal(s.Arbiter.Leases(arbiter.Filter{}))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
