package group

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestOneRunForAllWhoWait: who comes while a run is under way shares the next,
// and nobody is served by a run that began before he came.
func TestOneRunForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var runs atomic.Int32
		gate := make(chan struct{})
		fn := func() error {
			runs.Add(1)
			<-gate
			return nil
		}
		done := make(chan struct{}, 101)
		call := func() {
			if err := g.Do(fn); err != nil {
				t.Error(err)
			}
			done <- struct{}{}
		}
		go call()
		synctest.Wait()
		for range 100 {
			go call()
		}
		synctest.Wait()
		if n := runs.Load(); n != 1 {
			t.Fatalf("%d runs at once", n)
		}
		gate <- struct{}{}
		synctest.Wait()
		if len(done) != 1 {
			t.Fatalf("%d callers were served by a run that began before they came", len(done)-1)
		}
		close(gate)
		synctest.Wait()
		if n := runs.Load(); n != 2 || len(done) != 101 {
			t.Fatalf("%d runs, %d callers served", n, len(done))
		}
	})
}

func TestErrorIsForAll(t *testing.T) {
	var g Group
	want := errors.New("no")
	if err := g.Do(func() error { return want }); err != want {
		t.Fatal(err)
	}
	if err := g.Do(func() error { return nil }); err != nil {
		t.Fatal("an error stays:", err)
	}
}
