package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/server"
	"holdfast/volume"
)

// Exit statuses of check, as fsck(8) has them; the first two add up.
const (
	exitCorrected = 1
	exitProblems  = 4
	exitNotDone   = 8
	exitBadUsage  = 16
)

func newCheck() *cobra.Command {
	var c checking
	repair := false
	cmd := &cobra.Command{
		Use:   "check [DIR]",
		Short: "Check a volume that is not being served, and repair it",
		Long: `Check the volume in DIR, which must not be served at the time: both extent maps
against each other, free space, links, sizes, names and superblocks. Nothing is
changed.

With --data, all content is read, too, and compared with its checksums, if the
volume has them; what is damaged is told by file and place.

With --repair, problems are corrected where that loses nothing that could still
be used, and each correction is printed: what other records tell is written
anew, names that lead nowhere are removed, and what has no name gets one in
/lost+found. What is left is printed after it, with "left:". Copy the device and
the metadata first if you can.

The exit status is fsck's: 0 nothing wrong, 1 all problems corrected, 4 problems
found and not corrected, 5 some corrected and some left, 8 the check could not be
done, 16 wrong usage.`,
		Annotations: map[string]string{usageMark: fmt.Sprint(exitBadUsage)},
		Args:        cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				c.cfg.Dir = args[0]
			}
			c.out = cmd.OutOrStdout()
			status, err := c.run(cmd.Context(), repair)
			if err != nil {
				return &exitError{exitNotDone, err}
			}
			if status != 0 {
				return &exitError{status, nil}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.cfg.Device, "device", "", "file or block device with the volume's blocks (default DIR/device)")
	f.BoolVar(&c.json, "json", false, "print JSON: an object a problem or repair, and one at the end")
	f.BoolVar(&c.data, "data", false, "read all content, too, and compare it with its checksums")
	f.BoolVar(&repair, "repair", false, "correct what can be corrected safely, and say so")
	return cmd
}

// checking is a check that is being done.
type checking struct {
	cfg  server.Config
	data bool
	json bool
	out  io.Writer
}

// print prints a part of the result: for people with a label, if it has one.
func (c *checking) print(label string, v any) {
	if c.json {
		json.NewEncoder(c.out).Encode(v)
		return
	}
	fmt.Fprintf(c.out, "%s%v\n", label, v)
}

// run returns the exit status.
func (c *checking) run(ctx context.Context, repair bool) (status int, err error) {
	mendable := true
	summary, err := server.Check(ctx, c.cfg, c.data, func(p volume.Problem) {
		// Which of the two is the right one, no repair can know.
		mendable = mendable && p.Kind != volume.BadSuperblock
		c.print("", p)
	})
	if err != nil {
		return 0, err
	}
	if repair && mendable && summary.Problems > 0 {
		err := server.Repair(ctx, c.cfg, func(r volume.Repair) {
			status = exitCorrected
			c.print("repaired: ", r)
		})
		if err != nil {
			return 0, err
		}
		if summary, err = server.Check(ctx, c.cfg, c.data, func(p volume.Problem) { c.print("left: ", leftProblem{p, true}) }); err != nil {
			return 0, err
		}
	}
	c.print("", summary)
	if summary.Problems > 0 {
		status |= exitProblems
	}
	return status, nil
}

// leftProblem is a problem that a repair has left.
type leftProblem struct {
	volume.Problem
	Left bool `json:"left"`
}
