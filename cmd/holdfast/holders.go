package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/client"
)

// holder is a process as LIST describes it.
type holder struct {
	PID         int32  `json:"pid"`
	Program     string `json:"program"`
	Descriptors []struct {
		FD    int      `json:"fd"`
		Name  string   `json:"name"`
		Files []string `json:"files"`
	} `json:"descriptors"`
}

func newHolders() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "holders [PID]",
		Short: "List by process which descriptors hold which files",
		Long: `List by process which of its descriptors hold which files: copies of handles of
leases and contexts, and of the sockets and devices that contexts stand for. The
kernel is asked, not the programs. What no process has is elsewhere: on its way in
a message, or where the server may not look.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			only := int64(-1)
			if len(args) == 1 {
				var err error
				if only, err = strconv.ParseInt(args[0], 10, 32); err != nil || only <= 0 {
					return fmt.Errorf("%q is no process number", args[0])
				}
			}
			s, err := a.dial(cmd.Context(), nil)
			if err != nil {
				return err
			}
			defer s.Close()
			raw, err := s.List(cmd.Context(), client.ListHolders, client.Filter{})
			if err != nil {
				return err
			}
			return show(&a, cmd.OutOrStdout(), raw, func(w io.Writer, list []holder) { printHolders(w, list, int32(only)) })
		},
	}
	a.flags(cmd)
	return cmd
}

// printHolders prints all processes, or one in the form that was proposed for /proc/PID/file_pins.
func printHolders(w io.Writer, list []holder, only int32) {
	if only >= 0 {
		list = slices.DeleteFunc(list, func(h holder) bool { return h.PID != only })
	} else if len(list) == 0 {
		fmt.Fprintln(w, "no holders")
	}
	for i, h := range list {
		if only < 0 {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if h.PID == 0 {
				fmt.Fprintln(w, "elsewhere")
			} else {
				fmt.Fprintln(w, process(h.PID, h.Program))
			}
		}
		for _, d := range h.Descriptors {
			if d.FD < 0 {
				fmt.Fprintf(w, "-: %s\n", d.Name)
			} else {
				fmt.Fprintf(w, "%d: %s\n", d.FD, d.Name)
			}
			for _, f := range d.Files {
				fmt.Fprintf(w, "\t%s\n", f)
			}
		}
	}
}
