package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"

	"holdfast/fuse"
	"holdfast/local"
)

// check finds what a start would stumble over when the volume is there already, so
// that a start that is refused has made nothing.
func (c *Config) check(ctx context.Context, log *slog.Logger) error {
	if dir := filepath.Dir(c.Socket); dir != c.Dir && !there(dir) {
		return fmt.Errorf("socket %s: there is no directory %s", c.Socket, dir)
	}
	if err := local.Check(c.Socket, c.Group); err != nil {
		return err
	}
	mount := c.mountOptions(log)
	if c.NoMount || fuse.Available(mount.Direct) != nil {
		return nil
	}
	if mount.Own && !there(c.Dir) {
		return nil // nothing can be in the way
	}
	// First, since another's mount may be there, and be dead.
	err := fuse.CheckPath(ctx, mount)
	if errors.Is(err, fuse.ErrBusy) && there(filepath.Join(c.Dir, metaDir)) {
		return nil // the volume is there; if it is what is mounted, its device says so better
	}
	if err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	for _, path := range []string{c.Dir, c.Device, c.Socket} {
		if below(path, c.Mount) {
			return fmt.Errorf("a mount at %s would hide %s: choose another with --mount", c.Mount, path)
		}
	}
	return err
}

// below reports whether path is dir or in it.
func below(path, dir string) bool {
	return strings.HasPrefix(resolve(path)+"/", resolve(dir)+"/")
}

// resolve frees what exists of path from symbolic links.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolve(dir), filepath.Base(path))
	}
	return path
}
