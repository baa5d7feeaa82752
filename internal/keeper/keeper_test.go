package keeper

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines collects output, and calls at for each line.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	at  func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(string(p)) {
		l.at(strings.TrimSpace(line))
	}
	return l.buf.Write(p)
}

func keep(t *testing.T, script string, at func(cancel func(), line string)) (string, error) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lines{at: func(line string) { at(cancel, line) }}
	err := Run(ctx, Config{
		Command: []string{"/bin/sh", "-c", script}, Ready: "ready", Out: out, Err: os.Stderr, Log: slog.New(slog.DiscardHandler),
	})
	return out.buf.String(), err
}

// A server that crashes is started again, and ends when the keeper is told to.
func TestKeeps(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	script := `trap 'exit 0' TERM; echo >> ` + count + `; echo "ready $(wc -l < ` + count + `)"; [ $(wc -l < ` + count + `) -lt 3 ] && kill -9 $$; while :; do sleep 0.01; done`
	out, err := keep(t, script, func(cancel func(), line string) {
		if line == "ready 3" {
			cancel()
		}
	})
	if err != nil || strings.Count(out, "ready") != 3 {
		t.Errorf("%v\n%s", err, out)
	}
}

// One that never serves is not, nor one that ends in order.
func TestKeepsNot(t *testing.T) {
	no := func(func(), string) {}
	if out, err := keep(t, "echo no volume here; exit 1", no); err == nil || strings.Count(out, "no volume") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := keep(t, "echo ready; exit 0", no); err != nil || strings.Count(out, "ready") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}
