package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/client"
	"holdfast/internal/clonetree"
)

func newClone() *cobra.Command {
	return &cobra.Command{
		Use:   "clone SRC DST",
		Short: "Copy a file by sharing its blocks",
		Long: `Make DST, which must not exist, a copy of the file SRC that shares its blocks: it
takes no space until one of the two is written to. Mode, owner, times, extended
attributes and holes are kept. What holders of leases have mapped or pinned in SRC
is copied. DST is there when it is whole and durable.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := oneMount(args[0], args[1]); err != nil {
				return err
			}
			return clonetree.File(args[0], args[1])
		},
	}
}

func newSnapshot() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot DIR DST",
		Short: "Copy a tree by sharing its files' blocks",
		Long: `Make DST, which must not exist, a copy of the directory DIR in which each file is a
clone, as by 'cp -a --reflink=always DIR DST': attributes, extended attributes,
symbolic links, hard links within DIR and sparse files are kept. DST may lie in DIR
and is not part of itself. It is there when it is whole and durable.

Each file is as it was at one moment (up to 4 GiB of it); files that are written to
meanwhile need not be of the same moment. For that, let no one write.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneMount(args[0], args[1]); err != nil {
				return err
			}
			return clonetree.Tree(cmd.Context().Err, args[0], args[1])
		},
	}
}

// oneMount makes sure that src, and dst when it is made, are on one mount of Holdfast:
// elsewhere everything would be copied.
func oneMount(src, dst string) error {
	file, err := open(src, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := client.SocketOf(file); err != nil {
		return fmt.Errorf("%s is not on a mount of Holdfast (%w)", src, err)
	}
	dir, err := os.Stat(filepath.Dir(filepath.Clean(dst)))
	if err != nil {
		return err
	}
	here, err := file.Stat()
	if err != nil {
		return err
	}
	a, ok1 := here.Sys().(*syscall.Stat_t)
	b, ok2 := dir.Sys().(*syscall.Stat_t)
	if !ok1 || !ok2 {
		return errors.ErrUnsupported
	}
	if a.Dev != b.Dev {
		return fmt.Errorf("%s and %s are not on one mount: %w", src, dst, syscall.EXDEV)
	}
	return nil
}
