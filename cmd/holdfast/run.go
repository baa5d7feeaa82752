package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/client"
)

// Exit statuses of run that are not those of its command; as timeout(1) and
// env(1) have them.
const (
	exitRun         = 125 // the lease could not be had
	exitNotRunnable = 126
	exitNotFound    = 127
	exitSignal      = 128 // plus the number of the signal that ended the command
)

func newRun() *cobra.Command {
	var (
		a           asking
		read, write bool
		exclusive   bool
		opts        client.Options
	)
	r := byteRange{End: client.Inf}
	cmd := &cobra.Command{
		Use:   "run [flags] FILE -- COMMAND [ARG]...",
		Short: "Hold a lease while a command runs, as flock does for locks",
		Long: `Take a lease on FILE, run COMMAND, and give the lease back when it ends. Without
--write the lease is for reading. That the lease is wanted back is said on
standard error; it is held all the same until COMMAND ends or the break time is
over.

The exit status is that of COMMAND; 128+N if signal N ended it; 125 if the lease
could not be had; 126 or 127 if COMMAND could not be run or found.`,
		Annotations: map[string]string{usageMark: fmt.Sprint(exitRun)},
		Args:        cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			command := args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			if len(command) == 0 {
				return &exitError{exitRun, errors.New("no command: holdfast run FILE -- COMMAND")}
			}
			if read && write {
				return &exitError{exitRun, errors.New("--read and --write exclude each other; a write lease may read too")}
			}
			flags := os.O_RDONLY
			if write {
				opts.Access = client.Write
			}
			if write || opts.Unbreakable { // which takes a descriptor that may write
				flags = os.O_RDWR
			}
			if exclusive {
				opts.Mode = client.Exclusive
			}
			lease, done, err := a.lease(cmd.Context(), args[0], flags, client.Range(r), opts)
			if err != nil {
				return &exitError{exitRun, err}
			}
			defer done()
			go tellBreaks(cmd, args[0], lease)
			return runCommand(cmd, command)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows FILE is the command's
	f.BoolVar(&read, "read", false, "a lease for reading (the default)")
	f.BoolVar(&write, "write", false, "a lease for reading and writing")
	f.BoolVar(&exclusive, "exclusive", false, "nobody else may hold a lease on the range")
	f.BoolVar(&opts.Unbreakable, "unbreakable", false, "changes fail instead of asking for the lease; for the owner of the file or root, with write access")
	f.BoolVar(&opts.NoWait, "no-wait", false, "fail if the lease cannot be had at once")
	f.Var(&r, "range", "the part of the file, for example 0+4096 or 1M+ (default all)")
	a.flags(cmd)
	f.MarkHidden("json")
	return cmd
}

// lease takes a lease; done gives it back.
func (a *asking) lease(ctx context.Context, path string, flags int, r client.Range, opts client.Options) (l *client.Lease, done func(), err error) {
	f, err := open(path, flags)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() // the lease does not need it
	if err := regular(f); err != nil {
		return nil, nil, err
	}
	s, err := a.dial(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	l, err = s.Lease(ctx, f, r, opts)
	if err != nil {
		s.Close()
		err = fmt.Errorf("no lease on %s: %w", path, err)
		if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EDEADLK) {
			err = fmt.Errorf("%w; see who holds the file with: holdfast who %s", err, path)
		}
		return nil, nil, err
	}
	return l, func() {
		l.Release(context.WithoutCancel(ctx))
		s.Close()
	}, nil
}

// tellBreaks prints what happens to the lease until it ends.
func tellBreaks(cmd *cobra.Command, path string, l *client.Lease) {
	for e := range l.Events() {
		until := ""
		if !e.Deadline.IsZero() {
			until = ", until " + e.Deadline.Format(time.TimeOnly)
		}
		switch e.Kind {
		case client.BreakAsked:
			fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: %s %v is wanted back%s\n", path, e.Range, until)
		case client.BreakCutting:
			fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: %s %v is being taken away\n", path, e.Range)
		case client.BreakRevoked:
			fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: %s %v is gone\n", path, e.Range)
		}
	}
}

// runCommand runs the command and returns its exit status as an *exitError.
// Signals that would end this program are passed on, so that it outlives the
// command and gives the lease back.
func runCommand(cmd *cobra.Command, args []string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
	defer signal.Stop(signals)
	c := exec.Command(args[0], args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := c.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return &exitError{exitNotFound, err}
		}
		return &exitError{exitNotRunnable, err}
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		select {
		case sig := <-signals:
			// A terminal sends SIGINT and SIGQUIT to the command itself.
			if sig == syscall.SIGTERM || sig == syscall.SIGHUP {
				c.Process.Signal(sig)
			}
		case err := <-ended:
			return exitOf(err)
		}
	}
}

func exitOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &exitError{exitSignal + int(ws.Signal()), nil}
	}
	return &exitError{exit.ExitCode(), nil}
}
