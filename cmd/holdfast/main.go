// Command holdfast serves a volume and shows who holds what in it.
//
// Each subcommand is a file. None has logic of its own: they parse, call the
// server or the client, and print. What goes to standard output is text for
// people, or JSON with --json; what goes wrong goes to standard error, with what
// to do next.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/client"
)

// Exit statuses that are the same for all subcommands.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// exitError ends the program with a status. Without an error it says nothing.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func execute(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The second signal ends the program at once.
	context.AfterFunc(ctx, stop)

	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{exitFailure, err}
		if !ran(cmd) {
			exit.status = usageStatus(cmd)
			err = fmt.Errorf("%w\nTry '%s --help'", err, cmd.CommandPath())
		}
	}
	if exit.err != nil {
		fmt.Fprintf(errOut, "holdfast: %s\n", forPeople(err))
	}
	return exit.status
}

// forPeople is the text of err without the names of the wire.
func forPeople(err error) string {
	text := err.Error()
	var answer *client.Error
	if errors.As(err, &answer) {
		text = strings.Replace(text, answer.Error(), answer.Text, 1)
	}
	return text
}

// ranMark is set on a command whose arguments were right.
const ranMark = "ran"

func ran(c *cobra.Command) bool { return c.Annotations[ranMark] != "" }

// usageMark names the exit status of a command for wrong arguments.
const usageMark = "usage-status"

func usageStatus(c *cobra.Command) int {
	status := exitUsage
	fmt.Sscan(c.Annotations[usageMark], &status)
	return status
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "A filesystem that knows every user of its blocks",
		Long: `Holdfast is a filesystem that knows every user of its blocks. Programs, network
cards and remote hosts reach a file's blocks directly under leases; truncate,
punch and their like ask, wait or are refused, and never pull a block from under
a device.

Start with:  holdfast serve`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			if cmd.Annotations == nil {
				cmd.Annotations = map[string]string{}
			}
			cmd.Annotations[ranMark] = "yes"
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServe(), newCheck(), newVersion(), newRun(), newLeases(), newPins(), newOrphans(), newHolders(), newWho(), newWould(), newEvents(), newLimits(), newStat(),
		newGrow(), newEvacuate(), newDefrag(), newScrub(), newClone(), newSnapshot(), newFallocate(), newSeize(), newExpire())
	return root
}
