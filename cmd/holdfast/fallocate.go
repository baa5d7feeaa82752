package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/client"
)

// reshapings are the changes that fallocate asks for.
var reshapings = map[string]client.ChangeKind{
	"allocate": client.AllocateRange, "punch": client.Punch, "zero": client.ZeroRange,
	"collapse": client.Collapse, "insert": client.Insert, "unshare": client.Unshare,
}

func newFallocate() *cobra.Command {
	var (
		a asking
		o client.ChangeOptions
		r byteRange
	)
	cmd := &cobra.Command{
		Use:   "fallocate " + strings.Join(slices.Sorted(maps.Keys(reshapings)), "|") + " FILE",
		Short: "Alter the blocks of a range of a file",
		Long: `Alter the blocks of a range of a file as fallocate(1) does, also in the ways that
the kernel does not pass on to a mount: collapse takes whole blocks out of the file,
insert puts a hole in, unshare gives the file blocks of its own where it shares them.
Where holders are in the way it waits for as long as a break can take.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, ok := reshapings[args[0]]
			if !ok {
				return fmt.Errorf("%q is none of %s", args[0], strings.Join(slices.Sorted(maps.Keys(reshapings)), ", "))
			}
			file, err := open(args[1], os.O_RDWR)
			if err != nil {
				return err
			}
			defer file.Close()
			s, err := a.dial(cmd.Context(), file)
			if err != nil {
				return err
			}
			defer s.Close()
			return s.Fallocate(cmd.Context(), file, kind, client.Range(r), o)
		},
	}
	cmd.Flags().Var(&r, "range", "OFFSET+LENGTH")
	_ = cmd.MarkFlagRequired("range") // it is there
	cmd.Flags().DurationVar(&o.Wait, "wait", 0, "how long to wait for holders (default as long as a break can take)")
	cmd.Flags().StringVar(&a.socket, "socket", "", "socket of the server (default $"+socketEnv+", or found by the file)")
	return cmd
}
