package layout

import (
	"fmt"
	"slices"
	"syscall"

	"holdfast/extent"
)

func errnoName(e Effect) string {
	names := map[syscall.Errno]string{
		syscall.EAGAIN: "EAGAIN", syscall.EBUSY: "EBUSY", syscall.EDEADLK: "EDEADLK", syscall.EINVAL: "EINVAL", syscall.ENOENT: "ENOENT",
		syscall.EOPNOTSUPP: "EOPNOTSUPP", syscall.EACCES: "EACCES", syscall.EPERM: "EPERM", syscall.EEXIST: "EEXIST", syscall.ESRCH: "ESRCH", syscall.ETXTBSY: "ETXTBSY",
	}
	if n := names[e.Errno]; n != "" {
		return n
	}
	return e.Errno.Error()
}

// CheckInvariants checks what the contract says must hold after every step, and that the indexes agree with the tables.
func CheckInvariants(m *Machine) error {
	pieces := map[extent.Ino]int{}
	pins := map[extent.Ino]int{}
	for id, l := range leasesOf(m) {
		if l.id != id || len(l.pieces()) == 0 {
			return fmt.Errorf("lease %d is an empty shell", id)
		}
		pieces[l.file.ino] += len(l.pieces())
		last := int64(-1)
		for _, p := range l.pieces() {
			if p.Empty() || p.Off < last {
				return fmt.Errorf("lease %d: pieces %v", id, l.pieces())
			}
			last = p.End
		}
		// What is detached and reached by nobody does not stay.
		if r := l.unreached(); !r.Empty() {
			return fmt.Errorf("lease %d keeps %v, which is cut", id, r)
		}
		n := 0
		for p := l.slowPins(); p != nil; p = p.nextOfLease {
			n++
		}
		if n != l.pinned() {
			return fmt.Errorf("lease %d has %d pins, counts %d", id, n, l.pinned())
		}
		if l.closed && n == 0 && l.hasLive() {
			return fmt.Errorf("lease %d is closed and unpinned, and still held", id)
		}
	}
	for id, p := range m.pins {
		if p.lease == nil {
			if len(p.parts) > 0 || p.parts == nil || p.was == (orphaned{}) {
				return fmt.Errorf("pin %d has no lease, and is %+v", id, p)
			}
			continue
		}
		p.each(func(extent.Range) { pins[p.lease.file.ino]++ })
		// 1: every pin is covered by the ranges of live leases.  2: a lease with pins does not disappear.
		if m.leases.get(uint64(p.lease.id)) != p.lease {
			return fmt.Errorf("invariant 2: the lease of pin %d has gone", id)
		}
		var err error
		p.each(func(r extent.Range) {
			if err == nil {
				err = checkCover(p, r)
			}
		})
		if err != nil || p.parts != nil && len(p.parts) == 0 {
			return fmt.Errorf("pin %d, parts %v: %w", id, p.parts, err)
		}
		if p.access == Write && p.lease.access == Read {
			return fmt.Errorf("invariant 1: pin %d writes under a lease to read", id)
		}
	}
	err := checkSessions(m)
	m.files.each(func(f *file) {
		if err == nil {
			err = checkIndex(m, f, pieces[f.ino], pins[f.ino])
		}
	})
	return err
}

// checkCover checks invariant 1: a pin is covered by its lease. What of that was taken away is still the lease's until the pin is cut.
func checkCover(p *pin, r extent.Range) error {
	pos := r.Off
	for _, q := range p.lease.from(r.Off) {
		if q.Off > pos || q.state == unmapping {
			break
		}
		pos = q.End
		if pos >= r.End {
			break
		}
	}
	switch {
	case pos < r.End:
		return fmt.Errorf("invariant 1: pin %d on %v is not covered by %v", p.id, r, p.lease.pieces())
	case p.cut != nil && (p.cut.idx < 0 || p.context.can&ByWindow != 0):
		return fmt.Errorf("pin %d under %v is being cut: %+v", p.id, p.lease.pieces(), p.cut)
	case p.cut == nil && p.lease.touches(r, fencing):
		return fmt.Errorf("pin %d under %v is not being cut", p.id, p.lease.pieces())
	}
	return nil
}

func (l *lease) touches(r extent.Range, s pieceState) bool {
	for _, p := range l.from(r.Off) {
		if p.Off < r.End && p.state == s {
			return true
		}
	}
	return false
}

func checkIndex(m *Machine, f *file, pieces, pins int) error {
	if f.leases.n != pieces || f.pins.n != pins {
		return fmt.Errorf("file %d: index has %d pieces and %d pins, tables %d and %d", f.ino, f.leases.n, f.pins.n, pieces, pins)
	}
	if f.leases.n+f.pins.n == 0 && f.head == nil {
		return fmt.Errorf("file %d is empty and kept", f.ino)
	}
	for _, t := range []error{checkTree(&f.leases), checkTree(&f.pins), checkFile(m, f)} {
		if t != nil {
			return fmt.Errorf("file %d: %w", f.ino, t)
		}
	}
	return nil
}

func (l *lease) slowPins() *pin {
	if l.slow == nil {
		return nil
	}
	return l.slow.pins
}

func (l *lease) hasLive() bool {
	for _, p := range l.pieces() {
		if p.state == live {
			return true
		}
	}
	return false
}

func checkFile(m *Machine, f *file) error {
	var ls []*lease
	m.leases.each(func(l *lease) {
		if l.file == f {
			ls = append(ls, l)
		}
	})
	for i, a := range ls { // exclusive means that no one else holds a lease on the range
		for _, b := range ls[i+1:] {
			if a.slot() == b.slot() && !a.shared() || a.mode == Shared && b.mode == Shared {
				continue
			}
			for _, p := range a.pieces() {
				if b.overlaps(p.Range) {
					return fmt.Errorf("leases %d and %d conflict on %v", a.id, b.id, p)
				}
			}
		}
	}
	broken := 0
	for q := f.head; q != nil; q = q.next {
		n := 0
		for b := q.brks; b != nil; b = b.nextOfRequest {
			n++
			// 7: a lease that ran out of time stays until its cut has completed.
			if m.leases.get(uint64(b.lease.id)) != b.lease || !m.inWay(b.lease, q) {
				return fmt.Errorf("invariant 7: request %d waits for lease %d, which is not in its way", q.id, b.lease.id)
			}
			if b.idx < 0 && m.alive(b.lease, q) {
				return fmt.Errorf("request %d waits for lease %d without a deadline", q.id, b.lease.id)
			}
		}
		if n > 0 {
			broken++
		}
		if n != q.open || q.state == breaking && n == 0 || q.state == waiting && n != 0 {
			return fmt.Errorf("request %d in state %d has %d breaks, counts %d", q.id, q.state, n, q.open)
		}
		if err := checkApplying(m, q, ls); err != nil {
			return err
		}
		// What waits has something to wait for: nothing was left standing.
		if q.state == waiting {
			if v := m.judge(q); v.kind == clearWay || v.kind == refused || v.kind == conflict {
				return fmt.Errorf("request %d waits, but is judged %+v", q.id, v)
			}
		}
	}
	if broken != f.breaking || broken > m.cfg.MaxBreaks {
		return fmt.Errorf("%d requests break leases, counted %d, at most %d may", broken, f.breaking, m.cfg.MaxBreaks)
	}
	return nil
}

// checkApplying checks invariant 5: from break to the end of the change, no conflicting grant happens.
func checkApplying(m *Machine, q *request, ls []*lease) error {
	if q.kind != changing || q.state != applying {
		return nil
	}
	own := m.slot(q.session)
	for _, l := range ls {
		switch {
		case !l.overlaps(q.r), own != 0 && l.slot() == own && l.pinned() == 0:
			continue
		case q.class == Additive && l.mode == Exclusive && l.slot() != own:
			return fmt.Errorf("invariant 5: exclusive lease %d beside change %d", l.id, q.id)
		case q.class != Additive && (own == 0 || l.slot() != own):
			return fmt.Errorf("invariant 5: lease %d beside change %d", l.id, q.id)
		}
	}
	for _, p := range m.pins {
		if p.lease == nil || q.class == Additive || p.lease.file != q.file {
			continue
		}
		beside := false
		p.each(func(r extent.Range) { beside = beside || r.Overlaps(q.r) })
		if beside {
			return fmt.Errorf("invariant 5: pin %d beside change %d", p.id, q.id)
		}
	}
	return nil
}

func leasesOf(m *Machine) map[LeaseID]*lease {
	ls := map[LeaseID]*lease{}
	m.leases.each(func(l *lease) { ls[l.id] = l })
	return ls
}

// checkSessions checks what sessions count, the leases they hold together, and who shares an owner.
func checkSessions(m *Machine) error {
	type counts struct{ leases, contexts, pins, joined int }
	want := map[*session]counts{}
	count := func(s *session, leases, contexts, pins, joined int) {
		c := want[s]
		want[s] = counts{c.leases + leases, c.contexts + contexts, c.pins + pins, c.joined + joined}
	}
	m.leases.each(func(l *lease) {
		if !l.shared() {
			count(l.session, 1, 0, 0, 0)
			return
		}
		for _, s := range l.slow.holders {
			count(s, 1, 0, 0, 1)
		}
	})
	for _, c := range m.contexts {
		count(c.session, 0, 1, 0, 0)
	}
	for _, p := range m.pins {
		if p.lease != nil {
			count(p.context.session, 0, 0, 1, 0)
		}
	}
	var err error
	owners := map[OwnerID]int{}
	m.sessions.each(func(s *session) {
		if got := (counts{s.leases, s.contexts, s.pins, len(s.joined)}); got != want[s] {
			err = fmt.Errorf("session %d counts %+v, has %+v", s.id, got, want[s])
		}
		if s.owner != 0 {
			owners[s.owner]++
			if !slices.Contains(m.owners[s.owner], s) {
				err = fmt.Errorf("session %d is not its owner's", s.id)
			}
		}
	})
	for id, ss := range m.owners {
		if len(ss) != owners[id] || len(ss) == 0 {
			err = fmt.Errorf("owner %d has %d sessions, not %d", id, len(ss), owners[id])
		}
	}
	return err
}
