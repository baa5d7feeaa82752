package posixmodel

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// TestHost holds the model against the filesystem of this machine's temporary files: what the
// model says is what Linux does.
func TestHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const procs = 3
	for seed := range uint64(6) {
		dir := t.TempDir()
		umask := syscall.Umask(0o022)
		defer syscall.Umask(umask)
		m := New(Rules{MaxSize: 1 << 43, Zero: true, Umask: 0o022}, procs, 0o755)
		var real []*Process
		for range procs {
			p := NewProcess(dir)
			defer p.Close()
			real = append(real, p)
		}
		g := NewGen(m, seed, false)
		for range 8000 {
			step(t, m, real, g.Next(g.IntN(procs)))
		}
		m.Restart()
		for _, p := range real {
			p.Close()
		}
		for _, op := range g.VerifyOps(0) {
			step(t, m, real, op)
		}
	}
}

func step(t *testing.T, m *Model, real []*Process, op Op) {
	t.Helper()
	now := m.Begin()
	want := m.Do(op)
	now.From = time.Now()
	got := real[op.Proc].Do(op)
	now.To = time.Now()
	if err := want.Check(got); err != nil {
		t.Fatal(err)
	}
}
