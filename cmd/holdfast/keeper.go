package main

import (
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/internal/keeper"
)

// keep runs this same command without --keeper, and again whenever it crashes.
func keep(cmd *cobra.Command, args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	isKeeper := func(a string) bool { return a == "--keeper" || a == "--keeper=true" }
	return keeper.Run(cmd.Context(), keeper.Config{
		Command: append([]string{exe}, slices.DeleteFunc(slices.Clone(args), isKeeper)...), Ready: "socket at ",
		Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(), Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
	})
}
