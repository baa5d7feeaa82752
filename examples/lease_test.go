package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/client"
	"holdfast/local/localtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func python(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here: lease.py is not tested")
	}
	return path
}

func start(t *testing.T, s *localtest.Server, file string) (say io.Writer, hear func(prefix string)) {
	t.Helper()
	cmd := exec.Command(python(t), "lease.py", file, s.Socket)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	return in, func(prefix string) {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), prefix) {
			t.Fatalf("lease.py says %q, want %q", lines.Text(), prefix)
		}
	}
}

// The program takes a lease, writes through memory, and lets go when a truncate
// wants the range, which then goes on.
func TestLeasePy(t *testing.T) {
	s := localtest.Start(t, localtest.Options{})
	path := s.FS.Create("f", bytes.Repeat([]byte("0123456789abcdef"), 5*localtest.Granule/2/16))
	in, hear := start(t, s, path)
	hear("lease ")
	hear("mapped 163840 bytes in 3 pieces: b'0123456789abcdef'")
	if _, err := io.WriteString(in, "stamp\n"); err != nil {
		t.Fatal(err)
	}
	hear("committed")
	if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte("stamp56789")) {
		t.Fatalf("file begins with %q, %v", b[:min(len(b), 16)], err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.Truncate(ctx, f, 100, client.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	hear("break 1: 0+infinity")
	hear("released")
	if st, err := f.Stat(); err != nil || st.Size() != 100 {
		t.Errorf("after truncate: %v, %v", st.Size(), err)
	}
}

func TestLeasePySize(t *testing.T) {
	b, err := os.ReadFile("lease.py")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte("\n")); n > 80 {
		t.Errorf("lease.py has %d lines; an example of the protocol fits 80", n)
	}
}
