package arbiter_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/arbiter"
	"holdfast/internal/remote"
	"holdfast/layout"
)

// TestCutFailedIsLogged: each failure of a step is in the log, with what failed.
func TestCutFailedIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFar(t, arbiter.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, arbiter.Capabilities{Fence: true})
		no := remote.Answer{Err: remote.ErrUnreachable}
		f.host.Script(layout.Fence, no, no, remote.Answer{})
		if _, err := f.truncate(11 * time.Second); err == nil {
			t.Error("truncate beside a fence that fails")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		f.Close()
		if n := strings.Count(log.String(), "fence: "+remote.ErrUnreachable.Error()); n != 2 {
			t.Errorf("%d lines tell of two failures:\n%s", n, log.String())
		}
	})
}
