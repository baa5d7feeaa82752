package main

import (
	"fmt"
	"io"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/client"
	"holdfast/local"
)

func newOrphans() *cobra.Command {
	return newList("orphans [FILE]", "List the blocks that files have given up and somebody still reaches, of a server or a file", client.ListOrphans,
		func(a *asking, cmd *cobra.Command, raw []byte) error {
			return show(a, cmd.OutOrStdout(), raw, printOrphans)
		})
}

func printOrphans(w io.Writer, orphans []local.Orphan) {
	if len(orphans) == 0 {
		fmt.Fprintln(w, "no orphans")
		return
	}
	rows := make([][]string, len(orphans))
	for i, o := range orphans {
		was := "-"
		if o.File != 0 {
			was = file(o.Path, uint64(o.File))
		}
		state := "held"
		if o.Unclaimed {
			state = "unclaimed"
		}
		rows[i] = []string{fmt.Sprint(o.Address), fmt.Sprint(o.Length), userName(o.UID), was, state}
	}
	table(w, []string{"ADDRESS", "LENGTH", "USER", "FILE", "STATE"}, rows)
}

// userName is the name of a user, or his number.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
