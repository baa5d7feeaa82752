package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/client"
	"holdfast/internal/mountinfo"
	"holdfast/server"
)

// socketEnv names the socket where --socket does not.
const socketEnv = "HOLDFAST_SOCKET"

// asking are the flags of the subcommands that ask a running server.
type asking struct {
	socket string
	json   bool
}

func (a *asking) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.socket, "socket", "", "socket of the server (default $"+socketEnv+", or found by the file or the mount)")
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON; a range whose length is null reaches to infinity")
}

// dial connects to the server: of file if it is not nil.
func (a *asking) dial(ctx context.Context, file *os.File) (*client.Session, error) {
	path, err := a.find(file)
	if err != nil {
		return nil, err
	}
	s, err := client.Dial(ctx, path)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return nil, fmt.Errorf("no server answers at %s; start one with: holdfast serve", path)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s may not be used by you: ask for membership of the group it belongs to", path)
	}
	return s, err
}

func (a *asking) find(file *os.File) (string, error) {
	if a.socket != "" {
		return a.socket, nil
	}
	if s := os.Getenv(socketEnv); s != "" {
		return s, nil
	}
	if file != nil {
		s, err := client.SocketOf(file)
		if errors.Is(err, syscall.ENODATA) || errors.Is(err, syscall.EOPNOTSUPP) {
			if st, err := file.Stat(); err == nil && !st.Mode().IsRegular() && !st.IsDir() {
				return "", fmt.Errorf("%s is no regular file and no directory, so the kernel hides whose it is: name the server's socket with --socket", file.Name())
			}
			return "", fmt.Errorf("%s is not on a mount of Holdfast", file.Name())
		}
		if err != nil {
			return "", err
		}
		return s, nil
	}
	mounts, err := mountinfo.Holdfast()
	if err != nil {
		return "", err
	}
	switch len(mounts) {
	case 0:
		return defaultSocket()
	case 1:
		return socketOfMount(mounts[0].Path)
	}
	paths := make([]string, len(mounts))
	for i, m := range mounts {
		paths[i] = m.Path
	}
	return "", fmt.Errorf("there are several mounts (%s): name a socket with --socket or $%s", strings.Join(paths, ", "), socketEnv)
}

// defaultSocket is for a server that could not mount.
func defaultSocket() (string, error) {
	dir, err := server.DefaultDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "socket")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no server found: start one with 'holdfast serve', or name its socket with --socket or $%s", socketEnv)
	}
	return path, nil
}

func socketOfMount(path string) (string, error) {
	d, err := os.Open(path)
	if errors.Is(err, syscall.ENOTCONN) {
		return "", fmt.Errorf("the server of %s is dead; 'holdfast serve' with the same directory recovers it", path)
	}
	if err != nil {
		return "", err
	}
	defer d.Close()
	return client.SocketOf(d)
}

// open opens a file to ask about it.
func open(path string, flags int) (*os.File, error) {
	// Without O_NONBLOCK the open of a fifo would wait for a writer.
	f, err := os.OpenFile(path, flags|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENOTCONN) {
		err = fmt.Errorf("%w: the server of this mount is dead; 'holdfast serve' with the same directory recovers it", err)
	}
	return f, err
}

// regular returns an error unless f is a file that leases are on.
func regular(f *os.File) error {
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: nobody can hold its blocks", f.Name())
	}
	return err
}

// ask connects for the file at path, opened for reading, and calls f.
func (a *asking) ask(ctx context.Context, path string, f func(*client.Session, *os.File) error) error {
	file, err := open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer file.Close()
	s, err := a.dial(ctx, file)
	if err != nil {
		return err
	}
	defer s.Close()
	return f(s, file)
}

// show prints an answer of the server: as it is with --json, else as text by
// what it holds.
func show[T any](a *asking, w io.Writer, raw json.RawMessage, text func(io.Writer, T)) error {
	if a.json {
		_, err := fmt.Fprintf(w, "%s\n", raw)
		return err
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("the answer of the server is not understood; are both of one version? %w", err)
	}
	text(w, v)
	return nil
}
