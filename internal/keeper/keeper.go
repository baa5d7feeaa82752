// Package keeper keeps a server running: it starts it, and starts it again when it has
// crashed, until it is told to end. Holders go on with the next one by themselves.
//
// It must not know what the server does; it only sees when it serves and how it ends.
// It holds no lock. Its goroutines end before Run returns.
package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"syscall"
	"time"
)

// Config says what to keep.
type Config struct {
	// Command is the server with its arguments.
	Command []string
	// Ready is what a line of its output begins with once it serves. One that ends before
	// is not started again: the next would fare no better.
	Ready string
	// Out and Err take its output. Log gets what an operator should know.
	Out, Err io.Writer
	Log      *slog.Logger
	// StopTime bounds its end once ctx is done. Zero: a minute.
	StopTime time.Duration
}

const (
	firstPause = 50 * time.Millisecond // before a server that crashed soon is started again
	longPause  = 30 * time.Second
	stable     = time.Minute // who lived so long did not crash soon
)

// Run keeps the server running until ctx is done or it ends in order. The error is that of
// a server that cannot be kept.
func Run(ctx context.Context, cfg Config) error {
	if cfg.StopTime == 0 {
		cfg.StopTime = time.Minute
	}
	for pause := firstPause; ; {
		begin := time.Now()
		served, err := cfg.once(ctx)
		if err == nil || ctx.Err() != nil || !served {
			return err
		}
		if time.Since(begin) > stable {
			pause = firstPause
		}
		cfg.Log.Error("the server has crashed and is started again: who has memory of files goes on with the next", "err", err, "in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		pause = min(2*pause, longPause)
	}
}

// once runs one server to its end, and reports whether it has served.
func (cfg *Config) once(ctx context.Context) (served bool, err error) {
	out := &watched{w: cfg.Out, text: []byte(cfg.Ready)}
	cmd := exec.CommandContext(ctx, cfg.Command[0], cfg.Command[1:]...)
	cmd.Stdout, cmd.Stderr = out, cfg.Err
	// The signals of a terminal are for the keeper, who passes them on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = cfg.StopTime
	err = cmd.Run()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // it ended in order, as it was told to
	}
	if err != nil {
		err = fmt.Errorf("server: %w", err)
	}
	return out.seen, err
}

// watched passes on what is written, and sees whether a line begins with text. Lines are
// written whole.
type watched struct {
	w    io.Writer
	text []byte
	seen bool // read when nobody writes any more
}

// Write implements io.Writer.
func (o *watched) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		o.seen = o.seen || bytes.HasPrefix(line, o.text)
	}
	return o.w.Write(p)
}
