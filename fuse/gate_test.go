package fuse

import (
	"reflect"
	"runtime"
	"syscall"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// TestShut: behind a shut gate no request of any kind reaches the filesystem,
// which is nil here.
func TestShut(t *testing.T) {
	g := &gated{rawFS: &rawFS{RawFileSystem: gofuse.NewDefaultRawFileSystem()}}
	if err := g.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	requests := reflect.TypeFor[gofuse.RawFileSystem]()
	refused := 0
	for i := range requests.NumMethod() {
		m := requests.Method(i)
		args := make([]reflect.Value, m.Type.NumIn())
		for n := range args {
			args[n] = reflect.Zero(m.Type.In(n))
			if in := m.Type.In(n); in.Kind() == reflect.Pointer {
				args[n] = reflect.New(in.Elem())
			}
		}
		t.Run(m.Name, func(t *testing.T) { // a request that gets through panics
			for _, out := range reflect.ValueOf(g).MethodByName(m.Name).Call(args) {
				if st, ok := out.Interface().(gofuse.Status); ok && st == gofuse.Status(syscall.ENOTCONN) {
					refused++
				} else if ok && st != gofuse.ENOSYS {
					t.Errorf("%v, want ENOTCONN", st)
				}
			}
		})
	}
	if refused < 20 {
		t.Errorf("%d kinds of requests were refused: the test does not see what it should", refused)
	}
}

// TestShutWaits: the gate shuts when the requests behind it are done.
func TestShutWaits(t *testing.T) {
	g := &gated{}
	inside, done, shut := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go g.pass(func() gofuse.Status { close(inside); <-done; return gofuse.OK })
	<-inside
	go func() { shut <- g.close(t.Context()) }()
	for g.mu.TryRLock() { // fails from when the gate waits
		g.mu.RUnlock()
		runtime.Gosched()
	}
	select {
	case <-shut:
		t.Error("shut while a request runs")
	default:
	}
	close(done)
	if err := <-shut; err != nil {
		t.Error(err)
	}
}
