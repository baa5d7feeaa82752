package test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/internal/posixmodel"
)

// modelProcess is the side of a model's process that is real: its system calls, and
// its leases.
type modelProcess struct {
	*posixmodel.Process
	deeds   *Deeds
	session *client.Session
	mu      sync.Mutex // protects leases
	leases  map[int]*modelLease
	done    sync.WaitGroup // for those that answer breaks
}

// modelLease is a lease, its file and maybe its memory.
type modelLease struct {
	lease *client.Lease
	file  *os.File
	mem   *client.Mapping
	once  sync.Once
	err   error // of release
}

// release gives all of it back, once.
func (l *modelLease) release(p *Deeds) error {
	l.once.Do(func() {
		if l.mem != nil {
			l.err = l.mem.Close()
		}
		l.err = errors.Join(l.err, l.lease.Release(p.ctx), l.file.Close())
	})
	return l.err
}

// ModelRoot begins to do operations of a model below the directory Path; what was before ends.
func (p *Deeds) ModelRoot(d Do, _ *Done) error {
	syscall.Umask(modelUmask)
	err := p.ModelEnd(d, nil)
	p.model = &modelProcess{Process: posixmodel.NewProcess(d.Path), deeds: p, leases: map[int]*modelLease{}}
	return err
}

// ModelEnd gives back leases and closes everything.
func (p *Deeds) ModelEnd(Do, *Done) (err error) {
	m := p.model
	if m == nil {
		return nil
	}
	p.model = nil
	m.Process.Close()
	for _, l := range m.leases {
		err = errors.Join(err, l.release(p))
	}
	if m.session != nil {
		m.session.Close()
	}
	m.done.Wait()
	return errorText(err)
}

// ModelDo does operations of a model, one after the other.
func (p *Deeds) ModelDo(ops []posixmodel.Op, results *[]posixmodel.Result) error {
	for _, op := range ops {
		*results = append(*results, p.model.do(op))
	}
	return nil
}

func (m *modelProcess) do(op posixmodel.Op) posixmodel.Result {
	var r posixmodel.Result
	var err error
	switch op.Kind {
	case posixmodel.Lease:
		err = m.take(op)
	case posixmodel.LeaseDrop:
		err = m.held(op).release(m.deeds)
	case posixmodel.LeaseLoad:
		r.N, r.Sum = op.Len, posixmodel.Sum(m.part(op))
	case posixmodel.LeaseStore:
		copy(m.part(op), posixmodel.Data(op.Seq, op.Len))
	case posixmodel.LeaseCommit:
		l := m.held(op).lease
		err = l.Commit(m.deeds.ctx, l.Granted().Range, -1)
	case posixmodel.APITruncate, posixmodel.APIPunch, posixmodel.APIReshape:
		err = m.change(op)
	default:
		return m.Do(op)
	}
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return posixmodel.Result{Errno: syscall.EPROTO, Text: err.Error()}
	}
	r.Errno = errno
	return r
}

func (m *modelProcess) held(op posixmodel.Op) *modelLease {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leases[op.Lease]
}

// part returns the mapped memory of [Off, Off+Len).
func (m *modelProcess) part(op posixmodel.Op) []byte {
	l := m.held(op)
	from := op.Off - l.mem.Range().Off
	return l.mem.Bytes()[from : from+op.Len]
}

// open opens the file of an operation and sees to the session.
func (m *modelProcess) open(op posixmodel.Op) (*os.File, error) {
	path, err := m.Path(op, op.Path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil && m.session == nil {
		m.session, err = client.ForFile(m.deeds.ctx, f)
	}
	return f, err
}

func (m *modelProcess) change(op posixmodel.Op) error {
	f, err := m.open(op)
	if err != nil {
		return err
	}
	defer f.Close()
	r := client.Range{Off: op.Off, End: op.Off + op.Len}
	switch op.Kind {
	case posixmodel.APITruncate:
		return m.session.Truncate(m.deeds.ctx, f, op.Len, client.ChangeOptions{})
	case posixmodel.APIPunch:
		return m.session.Punch(m.deeds.ctx, f, r, client.ChangeOptions{})
	}
	kind := map[int]client.ChangeKind{unix.FALLOC_FL_COLLAPSE_RANGE: client.Collapse, unix.FALLOC_FL_INSERT_RANGE: client.Insert,
		unix.FALLOC_FL_UNSHARE_RANGE: client.Unshare}[op.Flags]
	return m.session.Fallocate(m.deeds.ctx, f, kind, r, client.ChangeOptions{})
}

func (m *modelProcess) take(op posixmodel.Op) error {
	f, err := m.open(op)
	if err != nil {
		return err
	}
	o := client.Options{Access: client.Read, Mode: client.Shared, Unbreakable: op.LeaseFlags&posixmodel.LeaseUnbreakable != 0}
	if op.LeaseFlags&posixmodel.LeaseWrite != 0 {
		o.Access = client.Write
	}
	if op.LeaseFlags&posixmodel.LeaseExclusive != 0 {
		o.Mode = client.Exclusive
	}
	l := &modelLease{file: f}
	if l.lease, err = m.session.Lease(m.deeds.ctx, f, client.Range{Off: op.Off, End: op.Off + op.Len}, o); err != nil {
		return errors.Join(err, f.Close())
	}
	if op.LeaseFlags&posixmodel.LeaseMap != 0 {
		if l.mem, err = l.lease.Map(m.deeds.ctx); err != nil {
			return errors.Join(fmt.Errorf("map: %w", err), l.release(m.deeds))
		}
	}
	m.mu.Lock()
	m.leases[op.Lease] = l
	m.mu.Unlock()
	m.done.Go(func() { // who is asked gives back all
		for range l.lease.Events() {
			l.release(m.deeds)
		}
	})
	return nil
}
