package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Check returns what New would refuse of a socket's path and group, for who wants
// to know before there is anything to serve.
func Check(path, group string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case st.Mode()&fs.ModeSocket == 0:
		return notSocket(path)
	}
	if group == "" {
		return nil
	}
	if _, err := groupID(group); err != nil {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	return nil
}

func checkPath(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("socket path %s has %d bytes, the kernel takes %d: %w", path, len(path), maxPath, syscall.ENAMETOOLONG)
	}
	return nil
}

func notSocket(path string) error {
	return fmt.Errorf("%s is there and is no socket: %w", path, syscall.EEXIST)
}
