package layout

import "syscall"

// change is OpBreak.
func (m *Machine) change(in *Input) {
	if in.Class == None || in.Class == Size {
		m.emit(Effect{Kind: Proceed, File: in.File, Range: in.Range, Class: in.Class, Session: in.Session})
		return
	}
	r, ok := checkRange(in.Range)
	errno, reason := syscall.Errno(0), ""
	switch {
	case in.Class > Moving || in.OnHold > Defer:
		errno, reason = syscall.EINVAL, "no such class or policy"
	case !ok:
		errno, reason = syscall.EINVAL, "the range is empty"
	}
	if errno != 0 {
		m.emit(Effect{Kind: Refused, Errno: errno, Reason: reason, File: in.File, Range: in.Range, Class: in.Class, Session: in.Session})
		return
	}
	q := m.newRequest()
	q.kind, q.file, q.session, q.r = changing, m.file(in.File), in.Session, r
	q.class, q.onHold = in.Class, in.OnHold
	f := q.file
	before := len(m.out)
	if in.DropOwn && in.Class == Subtractive {
		m.dropOwn(q, in.NoWait)
		q.file = m.file(in.File) // it may have been forgotten with its last pin
		f = q.file
	}
	dropped := len(m.out)
	m.submit(q, in.NoWait)
	m.drop(f)
	if dropped > before { // the answer comes first
		answer := m.out[dropped]
		copy(m.out[before+1:], m.out[before:dropped])
		m.out[before] = answer
	}
}

// done is OpDone.
func (m *Machine) done(in *Input) {
	f := m.files.get(uint64(in.File))
	if f == nil {
		return
	}
	for q := f.head; q != nil; q = q.next {
		if q.kind == changing && q.id == uint64(in.Change) && q.state == applying {
			m.unlink(q)
			m.advance(f)
			m.drop(f)
			return
		}
	}
}
