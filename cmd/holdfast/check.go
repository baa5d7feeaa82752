package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/server"
	"holdfast/volume"
)

// Exit statuses of check, as fsck(8) has them.
const (
	exitProblems = 4
	exitNotDone  = 8
	exitBadUsage = 16
)

func newCheck() *cobra.Command {
	var cfg server.Config
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [DIR]",
		Short: "Check a volume that is not being served",
		Long: `Check the volume in DIR, which must not be served at the time: both extent maps
against each other, free space, links, sizes, names and superblocks. Nothing is
changed.

The exit status is fsck's: 0 nothing wrong, 4 problems found, 8 the check could
not be done, 16 wrong usage.`,
		Annotations: map[string]string{usageMark: fmt.Sprint(exitBadUsage)},
		Args:        cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				cfg.Dir = args[0]
			}
			out := cmd.OutOrStdout()
			problems := 0
			summary, err := server.Check(cmd.Context(), cfg, func(p volume.Problem) {
				problems++
				if asJSON {
					json.NewEncoder(out).Encode(p)
				} else {
					fmt.Fprintln(out, p)
				}
			})
			if err != nil {
				return &exitError{exitNotDone, err}
			}
			if asJSON {
				json.NewEncoder(out).Encode(summary)
			} else {
				fmt.Fprintln(out, summary)
			}
			if problems > 0 {
				return &exitError{exitProblems, nil}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&cfg.Device, "device", "", "file or block device with the volume's blocks (default DIR/device)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: an object a problem, and one at the end")
	return cmd
}
