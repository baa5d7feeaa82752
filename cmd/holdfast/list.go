package main

import (
	"os"

	"github.com/spf13/cobra"

	"holdfast/arbiter"
	"holdfast/client"
)

func newLeases() *cobra.Command {
	return newList("leases [FILE]", "List the leases of a server, or of a file", client.ListLeases,
		func(a *asking, cmd *cobra.Command, raw []byte) error {
			return show(a, cmd.OutOrStdout(), raw, printLeases)
		})
}

func newPins() *cobra.Command {
	return newList("pins [FILE]", "List the pins of a server, or of a file: who reaches its blocks through what", client.ListPins,
		func(a *asking, cmd *cobra.Command, raw []byte) error {
			return show(a, cmd.OutOrStdout(), raw, printPins)
		})
}

func newList(use, short string, kind client.ListKind, print func(*asking, *cobra.Command, []byte) error) *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := func(s *client.Session, f client.Filter) error {
				raw, err := s.List(cmd.Context(), kind, f)
				if err != nil {
					return err
				}
				return print(&a, cmd, raw)
			}
			if len(args) == 1 {
				return a.ask(cmd.Context(), args[0], func(s *client.Session, f *os.File) error {
					ino, err := inode(f)
					if err != nil {
						return err
					}
					return list(s, client.Filter{File: ino})
				})
			}
			s, err := a.dial(cmd.Context(), nil)
			if err != nil {
				return err
			}
			defer s.Close()
			return list(s, client.Filter{})
		},
	}
	a.flags(cmd)
	return cmd
}

// who is the answer to WHO.
type who struct {
	OnHold string              `json:"on_hold"`
	By     string              `json:"by"`
	Leases []arbiter.LeaseInfo `json:"leases"`
	Pins   []arbiter.PinInfo   `json:"pins"`
}
