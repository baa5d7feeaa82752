package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/fs"
)

func newDefrag() *cobra.Command {
	var a asking
	var all, force bool
	cmd := &cobra.Command{
		Use:   "defrag [FILE | --all DIR]",
		Short: "Bring the blocks of a file together while it is in use",
		Long: `Bring the blocks of FILE together, or with --all those of all files below DIR, which
is on a mount. What somebody holds is left where it is, and said so; with --force,
which takes root or the user that the server runs as, he is asked for it, and cut
off in the end.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			one := func(path string) error { return a.defrag(cmd.Context(), path, force, cmd.OutOrStdout()) }
			if !all {
				return one(args[0])
			}
			var errs []error
			err := filepath.WalkDir(args[0], func(path string, d iofs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					err = one(path)
				}
				if err != nil && cmd.Context().Err() == nil {
					errs = append(errs, err)
					err = nil
				}
				return err
			})
			return errors.Join(append(errs, err)...)
		},
	}
	a.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all files below a directory")
	cmd.Flags().BoolVar(&force, "force", false, "move what is held, too: its holders are asked, and cut off in the end")
	return cmd
}

func (a *asking) defrag(ctx context.Context, path string, force bool, out io.Writer) error {
	f, err := open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := regular(f); err != nil {
		return err
	}
	s, err := a.dial(ctx, f)
	if err != nil {
		return err
	}
	defer s.Close()
	raw, err := s.Defrag(ctx, f, force)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return show(a, out, raw, func(w io.Writer, m fs.Moved) { printMoved(w, path, m) })
}

func printMoved(w io.Writer, path string, m fs.Moved) {
	fmt.Fprintf(w, "%s: moved %d bytes\n", path, m.Bytes)
	for _, s := range m.Skipped {
		fmt.Fprintf(w, "  stays: %v of %s: %s\n", s.Range, file(s.Path, uint64(s.File)), s.Reason)
		if len(s.Blockers) > 0 {
			printBlockers(w, s.Blockers)
		}
	}
}

func newEvacuate() *cobra.Command {
	var a asking
	var size byteSize
	var force bool
	cmd := &cobra.Command{
		Use:   "evacuate DIR --size SIZE",
		Short: "Make a volume smaller while it is being served",
		Long: `Move away what lies behind SIZE bytes on the device of the volume in DIR, or mounted
there, and make the volume that long. If somebody holds some of it the volume keeps
its size, and he is named; with --force he is asked for it, and cut off in the end.
The device keeps its length, and may be cut to SIZE then.

It takes root, or the user that the server runs as.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.dialVolume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer s.Close()
			raw, err := s.Evacuate(cmd.Context(), int64(size), force)
			if err != nil {
				return explainEvacuate(err)
			}
			return show(&a, cmd.OutOrStdout(), raw, func(w io.Writer, m fs.Moved) {
				fmt.Fprintf(w, "%s has %d bytes; %d were moved\n", args[0], int64(size), m.Bytes)
			})
		},
	}
	a.flags(cmd)
	cmd.Flags().Var(&size, "size", "bytes that the volume shall have, for example 20G")
	cmd.Flags().BoolVar(&force, "force", false, "move what is held, too: its holders are asked, and cut off in the end")
	if err := cmd.MarkFlagRequired("size"); err != nil {
		return nil
	}
	return cmd
}

// explainEvacuate adds what to do next.
func explainEvacuate(err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w; ask root, or the user that the server runs as", err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w; what lies behind does not fit before: remove files first", err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w; 'holdfast who FILE' says who holds it", err)
	}
	return err
}
