package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/client"
)

func newSeize() *cobra.Command {
	return newTake("seize LEASE", "Take a lease from its holder", `Take the lease with this number, as holdfast leases shows it, from its holder at
once: also one that is unbreakable or pinned. What was committed stays; windows
are detached, and what reaches blocks otherwise is cut by its own means. It
returns when that is done.

It takes the owner of the file, root, or the user that the server runs as.`, "lease", (*client.Session).Seize)
}

func newExpire() *cobra.Command {
	return newTake("expire SESSION", "End a session and take all that it holds", `End the session with this number, as holdfast leases shows it, whether its process
lives or not, and seize all its leases.

It takes root, or the user that the server runs as.`, "session", (*client.Session).Expire)
}

func newTake(use, short, long, what string, take func(*client.Session, context.Context, uint64) error) *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Long:  long,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || id == 0 {
				return &exitError{exitUsage, fmt.Errorf("%q is no number of a %s", args[0], what)}
			}
			s, err := a.dial(cmd.Context(), nil)
			if err != nil {
				return err
			}
			defer s.Close()
			return take(s, cmd.Context(), id)
		},
	}
	a.flags(cmd)
	return cmd
}
