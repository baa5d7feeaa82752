package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/arbiter"
	"holdfast/client"
	"holdfast/extent"
	"holdfast/layout"
)

// Exit statuses of would, as cmp(1) and grep(1) have them.
const (
	exitRefused = 1
	exitUnknown = 2
)

// would is the answer to WOULD.
type would struct {
	Errno    int               `json:"errno"`
	Error    string            `json:"error"`
	Class    string            `json:"class"`
	OnHold   string            `json:"on_hold"`
	By       string            `json:"by"`
	Blockers []arbiter.Blocker `json:"blockers"`
}

func newWould() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "would CHANGE FILE",
		Short: "Foresee what a change of a file would meet, without doing it",
		Long: `Foresee what a change of a file would meet, without doing it. The exit status is
0 if the change would be done, also where holders of breakable leases are asked
first, 1 if it would be refused, and 2 if that could not be found out.

The answer is for somebody who holds nothing of the file: what one holds oneself
is not in the way, or, if it is pins, makes a change fail with EDEADLK.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &exitError{exitUsage, fmt.Errorf("say which change: truncate, punch, write or allocate\nTry '%s --help'", cmd.CommandPath())}
		},
	}
	cmd.AddCommand(
		newWouldTruncate(),
		newWouldRange("punch", "Foresee fallocate --punch-hole", client.Punch),
		newWouldRange("zero", "Foresee fallocate --zero-range", client.ZeroRange),
		newWouldRange("collapse", "Foresee fallocate --collapse-range", client.Collapse),
		newWouldRange("insert", "Foresee fallocate --insert-range", client.Insert),
		newWouldRange("write", "Foresee a write", client.WriteInto),
		newWouldRange("allocate", "Foresee fallocate", client.AllocateRange),
	)
	return cmd
}

func newWouldTruncate() *cobra.Command {
	var a asking
	var size byteSize
	cmd := &cobra.Command{
		Use:   "truncate FILE",
		Short: "Foresee truncate",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.would(cmd, args[0], client.Truncate, client.Range{Off: int64(size), End: client.Inf})
		},
	}
	cmd.Flags().VarP(&size, "size", "s", "size to truncate to (default 0)")
	a.flags(cmd)
	return cmd
}

func newWouldRange(name, short string, kind client.ChangeKind) *cobra.Command {
	var a asking
	var r byteRange
	cmd := &cobra.Command{
		Use:   name + " FILE",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.would(cmd, args[0], kind, client.Range(r))
		},
	}
	cmd.Flags().Var(&r, "range", "the part of the file, for example 0+4096 or 1M+ (default all of it, at least its first block)")
	a.flags(cmd)
	return cmd
}

func (a *asking) would(cmd *cobra.Command, path string, kind client.ChangeKind, r client.Range) error {
	refused := false
	err := a.ask(cmd.Context(), path, func(s *client.Session, f *os.File) error {
		if err := regular(f); err != nil {
			return err
		}
		if r.Empty() { // none was named
			st, err := f.Stat()
			if err != nil {
				return err
			}
			r = client.Range{End: max(st.Size(), extent.BlockSize)}
		}
		raw, err := s.Would(cmd.Context(), f, kind, r, client.OnHoldDefault)
		if err != nil {
			return err
		}
		var answer would
		if err := json.Unmarshal(raw, &answer); err != nil {
			return err
		}
		refused = answer.Errno != 0
		return show(a, cmd.OutOrStdout(), raw, printWould)
	})
	switch {
	case err != nil:
		return &exitError{exitUnknown, err}
	case refused:
		return &exitError{exitRefused, nil}
	}
	return nil
}

func printWould(w io.Writer, a would) {
	switch {
	case a.Errno != 0:
		fmt.Fprintf(w, "refused: %s (%s change). In its way:\n", a.Error, a.Class)
	case len(a.Blockers) > 0:
		fmt.Fprintf(w, "done after these give back (%s change):\n", a.Class)
	case a.Class == layout.None.String():
		fmt.Fprintln(w, "done at once: it does not change where the file's bytes lie")
		return
	default:
		fmt.Fprintf(w, "done at once: nobody is in the way (%s change)\n", a.Class)
		return
	}
	printBlockers(w, a.Blockers)
	fmt.Fprintf(w, "on_hold=%s, as the %s says\n", a.OnHold, a.By)
}
