package local_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/local"
	"holdfast/local/localtest"
)

func config(t *testing.T, path string) local.Config {
	t.Helper()
	arb := arbiter.New(arbiter.Config{})
	t.Cleanup(arb.Close)
	return local.Config{Arbiter: arb, Path: path}
}

// The socket file of a server that was killed is replaced.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	p := localtest.Helper(t, "listen", nil, path)
	p.Want("listening")
	if _, err := local.New(config(t, path)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("socket of a live server: %v", err)
	}
	p.Kill()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err) // it left its file, or this test shows nothing
	}
	s, err := local.New(config(t, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is left behind: %v", err)
	}
}

func listenHelper(args []string) error {
	arb := arbiter.New(arbiter.Config{})
	defer arb.Close()
	if _, err := local.New(local.Config{Arbiter: arb, Path: args[0]}); err != nil {
		return err
	}
	if _, err := os.Stdout.WriteString("listening\n"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin) // until it is killed
	return err
}

func TestSocketFile(t *testing.T) {
	dir := t.TempDir()
	t.Run("no socket", func(t *testing.T) {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := local.New(config(t, path)); !errors.Is(err, syscall.EEXIST) {
			t.Errorf("a file in the way: %v", err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
			t.Errorf("file is now %q, %v", b, err)
		}
	})
	t.Run("too long", func(t *testing.T) {
		if _, err := local.New(config(t, filepath.Join(dir, strings.Repeat("x", 200)))); !errors.Is(err, syscall.ENAMETOOLONG) {
			t.Errorf("long path: %v", err)
		}
	})
	t.Run("permissions", func(t *testing.T) {
		for _, c := range []struct {
			group string
			mode  os.FileMode
			want  os.FileMode
		}{{"", 0, 0o666}, {"0", 0, 0o660}, {"", 0o600, 0o600}} {
			if c.group != "" && os.Getuid() != 0 {
				continue // only root gives files to any group
			}
			cfg := config(t, filepath.Join(dir, "socket"))
			cfg.Group, cfg.Mode = c.group, c.mode
			s, err := local.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(cfg.Path)
			if err != nil || st.Mode().Perm() != c.want {
				t.Errorf("group %q, mode %v: %v, %v", c.group, c.mode, st.Mode(), err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("replaced", func(t *testing.T) {
		// A server whose file was replaced does not remove its successor's.
		cfg := config(t, filepath.Join(dir, "other"))
		s, err := local.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(cfg.Path); err != nil {
			t.Fatal(err)
		}
		next, err := local.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(cfg.Path); err != nil {
			t.Errorf("successor's socket is gone: %v", err)
		}
		if err := next.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// After a server has ended, nothing of it is left: no descriptor, no goroutine
// (TestMain), no file.
func TestStop(t *testing.T) {
	before := openFDs(t)
	s := localtest.Start(t, localtest.Options{})
	fd, err := unix.Open(s.FS.Create("f", make([]byte, 8192)), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := hello(t, s.Socket, 0)
	h, _ := r.lease(s, fd)
	silent := connect(t, s.Socket)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*raw{r, h, silent} {
		c.ended()
		c.f.Close()
	}
	unix.Close(fd)
	s.Arbiter.Close()
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
	if _, err := os.Lstat(s.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is left: %v", err)
	}
}
