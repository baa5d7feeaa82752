package main

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/client"
)

func newWho() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "who FILE",
		Short: "Say who holds a file, by leases and by pins",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), args[0], func(s *client.Session, f *os.File) error {
				raw, err := s.Who(cmd.Context(), f)
				if err != nil {
					return err
				}
				return show(&a, cmd.OutOrStdout(), raw, func(w io.Writer, h who) { printWho(w, args[0], h) })
			})
		},
	}
	a.flags(cmd)
	return cmd
}

func printWho(w io.Writer, path string, h who) {
	if len(h.Leases) == 0 && len(h.Pins) == 0 {
		fmt.Fprintf(w, "nobody holds %s\n", path)
		return
	}
	printLeases(w, h.Leases)
	if len(h.Pins) > 0 {
		fmt.Fprintln(w)
		printPins(w, h.Pins)
	}
	fmt.Fprintf(w, "\nA change that meets pins or unbreakable leases: on_hold=%s, as the %s says.\n", h.OnHold, h.By)
}

// inode returns the number of an open file.
func inode(f *os.File) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Ino, nil
}
