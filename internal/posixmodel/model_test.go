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
	for seed := range uint64(3) {
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
		for range 3000 {
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

// TestLeaseRules: what no other filesystem can be asked.
func TestLeaseRules(t *testing.T) {
	m := New(Rules{MaxSize: 1 << 53, Blocks: true}, 2, 0o755)
	seq := 0
	do := func(want syscall.Errno, op Op) {
		t.Helper()
		seq++
		op.Seq = seq
		if got := m.Do(op); got.Errno != want {
			t.Errorf("%v: %v, want %v", op, got.Errno, want)
		}
	}
	do(0, Op{Kind: Open, Path: "f", Flags: syscall.O_CREAT | syscall.O_RDWR})
	do(0, Op{Kind: Pwrite, Len: 3 * BlockSize})
	do(0, Op{Kind: Lease, Path: "f", Len: 2 * BlockSize, Lease: 1, LeaseFlags: LeaseUnbreakable})
	do(0, Op{Kind: Ftruncate, Len: 2 * BlockSize}) // the caller's own
	do(0, Op{Proc: 1, Kind: Truncate, Path: "f", Len: 2 * BlockSize})
	do(syscall.ETXTBSY, Op{Proc: 1, Kind: Truncate, Path: "f", Len: 1})
	do(syscall.EBUSY, Op{Proc: 1, Kind: Lease, Path: "f", Len: 1, Lease: 2, LeaseFlags: LeaseExclusive})
	do(0, Op{Kind: LeaseDrop, Lease: 1})
	do(0, Op{Kind: Lease, Path: "f", Len: 9 * BlockSize, Lease: 3, LeaseFlags: LeaseExclusive})
	do(0, Op{Proc: 1, Kind: Open, Path: "f", Flags: syscall.O_RDWR})
	do(0, Op{Proc: 1, Kind: Pwrite, Len: BlockSize}) // over written blocks
	do(syscall.ETXTBSY, Op{Proc: 1, Kind: Pwrite, Off: 5 * BlockSize, Len: 1})
	do(0, Op{Proc: 1, Kind: Truncate, Path: "f", Len: 1}) // breaks it
	if len(m.leases) != 0 {
		t.Errorf("%d leases are left", len(m.leases))
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
