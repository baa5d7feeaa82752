package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/client"
)

func newGrow() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "grow DIR SIZE",
		Short: "Make a volume larger while it is being served",
		Long: `Make the volume in DIR, or mounted there, SIZE bytes long, for example 20G. A
file under it is made longer; a block device must have grown before. The new
space is there at once, and files in use are not disturbed. A volume is never
made smaller.

It takes root, or the user that the server runs as.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var size byteSize
			if err := size.Set(args[1]); err != nil {
				return &exitError{exitUsage, err}
			}
			s, err := a.dialVolume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer s.Close()
			got, err := s.Grow(cmd.Context(), int64(size))
			if err != nil {
				return explainGrow(err)
			}
			if a.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]int64{"size": got})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has %d bytes\n", args[0], got)
			return err
		},
	}
	a.flags(cmd)
	return cmd
}

// dialVolume connects to the server of the volume in dir, or mounted there.
func (a *asking) dialVolume(ctx context.Context, dir string) (*client.Session, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	b := *a
	if b.socket == "" {
		b.socket, err = client.SocketOf(d)
		if errors.Is(err, syscall.ENODATA) || errors.Is(err, syscall.EOPNOTSUPP) {
			b.socket, err = filepath.Join(dir, "socket"), nil
		}
	}
	if err != nil {
		return nil, err
	}
	return b.dial(ctx, nil)
}

// explainGrow adds what to do next.
func explainGrow(err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w; ask root, or the user that the server runs as", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w; make room on the host or enlarge the block device first", err)
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%w; a volume cannot be made smaller: copy its files to a new one", err)
	}
	return err
}
