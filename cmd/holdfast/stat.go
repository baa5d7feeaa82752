package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/client"
	"holdfast/extent"
	"holdfast/fs"
)

func newStat() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "stat FILE",
		Short: "Show where a file's bytes lie, and who holds them",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), args[0], func(s *client.Session, f *os.File) error {
				raw, err := s.Stat(cmd.Context(), f)
				if err != nil {
					return err
				}
				return show(&a, cmd.OutOrStdout(), raw, printStat)
			})
		},
	}
	a.flags(cmd)
	return cmd
}

func printStat(w io.Writer, i fs.FileInfo) {
	fmt.Fprintf(w, "%s: inode %d, %d bytes, %d allocated, %d links, changed %s\n",
		i.Path, i.Attr.Ino, i.Attr.Size, i.Attr.Blocks*512, i.Attr.Nlink, time.Unix(0, i.Attr.Ctime).Format(time.DateTime))
	if len(i.Extents) > 0 {
		fmt.Fprintln(w)
		rows := make([][]string, len(i.Extents))
		for n, e := range i.Extents {
			state := e.State.String()
			if i.DataChecksums && e.Addr.Seg != extent.Device {
				state += ", no checksums until it comes home"
			}
			if e.Shared {
				state += ", shared"
			}
			rows[n] = []string{e.Range().String(), address(e.Addr), state}
		}
		table(w, []string{"BYTES", "AT", "STATE"}, rows)
	}
	if len(i.Unsummed) > 0 {
		fmt.Fprintln(w, "\nwithout a checksum until they are written again:")
		for _, r := range i.Unsummed {
			fmt.Fprintln(w, r)
		}
	}
	if len(i.Leases) > 0 {
		fmt.Fprintln(w)
		printLeases(w, i.Leases)
	}
	if len(i.Pins) > 0 {
		fmt.Fprintln(w)
		printPins(w, i.Pins)
	}
}

func address(a extent.Addr) string {
	if a.Seg == extent.Device {
		return fmt.Sprintf("device %d", a.Off)
	}
	return fmt.Sprintf("window %d: %d", a.Seg, a.Off)
}
