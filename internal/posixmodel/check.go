package posixmodel

import (
	"fmt"
	"syscall"
	"time"
)

// slack is how much older than the operation a time may be: the kernel's own are of its last tick.
const slack = 20 * time.Millisecond

// Want is what the real side must answer.
type Want struct {
	Result
	Files []int // what it concerns, by the model's own numbers

	m     *Model
	op    Op
	n     *node // of Stat, as it was then
	nID   *node
	loose bool // nothing but success is determined
}

// expect notes the state of n.
func (w *Want) expect(n *node) {
	copied := *n
	copied.blocksOff = n.opens > 0 || n.undetermined() || len(n.leases) > 0
	w.n, w.nID = &copied, n
}

// Check compares.
func (w *Want) Check(got Result) error {
	if w.loose {
		if got.Errno == syscall.ENXIO {
			return nil // no data, maybe
		}
		got.N = 0
	}
	if got.Errno != w.Errno || got.N != w.N || got.Sum != w.Sum || got.Text != w.Text {
		return fmt.Errorf("%v: got %v, want %v", w.op, got, w.Result)
	}
	if w.Stat == nil {
		return nil
	}
	if err := w.checkStat(got.Stat); err != nil {
		return fmt.Errorf("%v: %w: got %v, want %v", w.op, err, got, w.Result)
	}
	return nil
}

func (w *Want) checkStat(got *Attr) error {
	want, n := w.Stat, w.n
	switch {
	case got == nil:
		return fmt.Errorf("no attributes")
	case got.Mode != want.Mode || got.UID != want.UID || got.GID != want.GID:
		return fmt.Errorf("mode %#o, owner %d:%d; want %#o, %d:%d", got.Mode, got.UID, got.GID, want.Mode, want.UID, want.GID)
	case got.Size != want.Size && !n.dir():
		return fmt.Errorf("size %d, want %d", got.Size, want.Size)
	case got.Nlink != want.Nlink && (!n.dir() || w.m.rules.Blocks):
		return fmt.Errorf("%d links, want %d", got.Nlink, want.Nlink)
	case n.regular() && w.m.rules.Blocks && !n.blocksOff && got.Blocks512 != want.Blocks512:
		return fmt.Errorf("%d blocks, want %d", got.Blocks512, want.Blocks512)
	}
	if err := w.checkIno(got.Ino); err != nil || !w.m.rules.Times {
		return err
	}
	for _, t := range []struct {
		name string
		want stamp
		got  int64
	}{{"atime", n.atime, got.Atime}, {"mtime", n.mtime, got.Mtime}, {"ctime", n.ctime, got.Ctime}} {
		if err := t.want.check(t.got); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

// checkIno: a file keeps its number, and no other file ever has it.
func (w *Want) checkIno(ino uint64) error {
	n := w.nID
	if other := w.m.inos[ino]; w.m.rules.Blocks && other != nil && other != n {
		return fmt.Errorf("inode %d is file %d of the model and was file %d", ino, n.id, other.id)
	}
	if n.ino != 0 && n.ino != ino {
		return fmt.Errorf("file %d of the model is inode %d and was %d", n.id, ino, n.ino)
	}
	n.ino = ino
	w.m.inos[ino] = n
	return nil
}

func (s stamp) check(got int64) error {
	switch t := time.Unix(0, got); {
	case !s.known:
	case s.at == nil && got != s.given:
		return fmt.Errorf("%d, want %d", got, s.given)
	case s.at != nil && (t.Before(s.at.From.Add(-slack)) || t.After(s.at.To.Add(slack))):
		return fmt.Errorf("%v is not in %v to %v", t, s.at.From, s.at.To)
	}
	return nil
}
