package layout

import (
	"syscall"
	"testing"
	"time"

	"holdfast/extent"
)

// blocks is the range of n blocks from the given one on.
func blocks(from, n int64) extent.Range {
	return extent.Range{Off: from * extent.BlockSize, End: (from + n) * extent.BlockSize}
}

// scene returns a machine with sessions 1 to 4 and a file with, from its start, a pinned lease for writing of session 1, an exclusive
// one of session 2, one for reading of session 3, and 4 blocks that nobody has. Each is of 4 blocks, and lease n is session n's.
func scene(t *testing.T) *Machine {
	t.Helper()
	m := New(Config{})
	for s := SessionID(1); s <= 4; s++ {
		m.Step(0, &Input{Op: OpOpenSession, Session: s})
	}
	for _, in := range []Input{
		{Op: OpAcquire, Session: 1, File: file1, Range: blocks(0, 4), Access: Write},
		{Op: OpAcquire, Session: 2, File: file1, Range: blocks(4, 4), Mode: Exclusive},
		{Op: OpAcquire, Session: 3, File: file1, Range: blocks(8, 4)},
		{Op: OpRegister, Session: 1, Context: 1},
		{Op: OpPin, Session: 1, Context: 1, Lease: 1, Range: blocks(0, 2), Access: Write},
	} {
		mustStep(t, m, in)
	}
	return m
}

// mustStep takes an input that must not be denied.
func mustStep(t *testing.T, m *Machine, in Input) []Effect {
	t.Helper()
	es := m.Step(m.now, &in)
	if len(es) > 0 && (es[0].Kind == Denied || es[0].Kind == Refused) {
		t.Fatalf("%+v: %s", in, renderEffects(es))
	}
	if err := CheckInvariants(m); err != nil {
		t.Fatalf("%+v: %v", in, err)
	}
	return es
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}

func TestQueriesOfChanges(t *testing.T) {
	m := scene(t)
	nobody := extent.Range{Off: 5, End: 5}
	for _, c := range []struct {
		what  string
		file  extent.Ino
		r     extent.Range
		class Class
		want  bool
	}{
		{"no change", file1, blocks(0, 1), None, true},
		{"an extension", file1, blocks(0, 1), Size, true},
		{"another file", 2, blocks(0, 1), Subtractive, true},
		{"no range", file1, nobody, Subtractive, true},
		{"a hole filled under a shared lease", file1, blocks(0, 4), Additive, true},
		{"a hole filled under an exclusive lease", file1, blocks(7, 2), Additive, false},
		{"blocks under a lease", file1, blocks(11, 1), Subtractive, false},
		{"blocks nobody has", file1, blocks(12, 4), Subtractive, true},
		{"blocks nobody has, moved", file1, blocks(12, 4), Moving, true},
	} {
		same(t, c.what, m.Clear(c.file, c.r, c.class), c.want)
	}
	mustStep(t, m, Input{Op: OpBreak, Session: 4, File: file1, Range: blocks(12, 1), Class: Subtractive, OnHold: Fail})
	same(t, "beside a change", m.Clear(file1, blocks(13, 1), Subtractive), true)
	same(t, "under a change", m.Clear(file1, blocks(12, 2), Subtractive), false)
	same(t, "a hole filled under a change", m.Clear(file1, blocks(12, 2), Additive), true)

	for _, c := range []struct {
		what   string
		file   extent.Ino
		r      extent.Range
		except SessionID
		want   bool
	}{
		{"a lease to write", file1, blocks(3, 1), 4, true},
		{"a lease to write, of nobody in particular", file1, blocks(3, 1), 0, true},
		{"one's own", file1, blocks(3, 1), 1, false},
		{"a lease to read", file1, blocks(8, 4), 4, false},
		{"one of both", file1, blocks(0, 12), 4, true},
		{"no range", file1, nobody, 4, false},
		{"another file", 2, blocks(0, 12), 4, false},
	} {
		same(t, c.what, m.WriteLeased(c.file, c.r, c.except), c.want)
	}
}

// TestWouldAndBlockers: those of whom a change is told are all in its way, the worst first, and no more than asked for.
func TestWouldAndBlockers(t *testing.T) {
	m := scene(t)
	nobody := extent.Range{Off: 5, End: 5}
	for _, c := range []struct {
		what  string
		file  extent.Ino
		r     extent.Range
		class Class
		errno syscall.Errno
		wait  bool
		n     int
	}{
		{"no change", file1, blocks(0, 12), None, 0, false, 0},
		{"an extension", file1, blocks(0, 12), Size, 0, false, 0},
		{"another file", 2, blocks(0, 12), Subtractive, 0, false, 0},
		{"no range", file1, nobody, Subtractive, 0, false, 0},
		{"a pin and three leases", file1, blocks(0, 12), Subtractive, syscall.ETXTBSY, false, 4},
		{"two leases", file1, blocks(4, 8), Subtractive, 0, true, 2},
		{"an exclusive lease", file1, blocks(0, 12), Additive, syscall.ETXTBSY, false, 1},
	} {
		errno, wait := m.Would(c.file, c.r, c.class, Fail, 4)
		same(t, c.what, errno, c.errno)
		same(t, c.what, wait, c.wait)
		bs := m.Blockers(c.file, c.r, c.class, 4, 0)
		same(t, c.what, len(bs), c.n)
		for limit := 1; limit <= c.n; limit++ {
			same(t, c.what, renderBlockers(m.Blockers(c.file, c.r, c.class, 4, limit)), renderBlockers(bs[:limit]))
		}
	}
	mustStep(t, m, Input{Op: OpBreak, Session: 4, File: file1, Range: blocks(12, 1), Class: Subtractive, OnHold: Fail}) // is applied
	mustStep(t, m, Input{Op: OpBreak, Session: 4, File: file1, Range: blocks(0, 1), Class: Subtractive, OnHold: Wait})  // waits
	same(t, "beside a change that waits", len(m.Blockers(file1, blocks(12, 4), Subtractive, 4, 0)), 0)
	bs := m.Blockers(file1, blocks(0, 1), Subtractive, 4, 0)
	same(t, "behind a change that waits", len(bs), 3)
	same(t, "behind a change that waits", bs[2].Reason, reasonBehind)
}

func TestQueriesOfSessions(t *testing.T) {
	m := scene(t)
	for id, want := range map[SessionID]int{0: 0, 1: 2, 2: 1, 4: 0, 9: 0} {
		same(t, "weight", m.Weight(file1, id), want)
		same(t, "weight in another file", m.Weight(2, id), 0)
	}
	type use struct{ leases, contexts, pins int }
	for id, want := range map[SessionID]use{1: {1, 1, 1}, 2: {1, 0, 0}, 4: {}, 9: {}} {
		var got use
		got.leases, got.contexts, got.pins = m.Use(id)
		same(t, "use", got, want)
	}
	for lease, want := range map[LeaseID]extent.Ino{1: file1, 2: 0, 99: 0} {
		ino, ok := m.PinnedBy(lease)
		same(t, "pinned lease", ino, want)
		same(t, "pinned lease", ok, want != 0)
	}
	for _, c := range []struct {
		by   []SessionID
		want bool
	}{{nil, true}, {[]SessionID{}, false}, {[]SessionID{2, 9, 0}, false}, {[]SessionID{2, 1}, true}} {
		same(t, "pinned file", m.Pinned(file1, c.by), c.want)
		same(t, "another file", m.Pinned(2, c.by), false)
	}
	mustStep(t, m, Input{Op: OpAcquire, Session: 4, File: 2, Range: blocks(0, 1)})
	mustStep(t, m, Input{Op: OpRegister, Session: 4, Context: 4})
	mustStep(t, m, Input{Op: OpPin, Session: 4, Context: 4, Lease: 5, Range: blocks(0, 1)})
	same(t, "leases of a file", len(m.Leases(2)), 1)
	same(t, "leases of another file", len(m.Leases(file1)), 3)
	same(t, "pins of a file", len(m.Pins(2)), 1)
	same(t, "pins of no file", len(m.Pins(3)), 0)
	_, ok := m.Lease(99)
	same(t, "a lease that is not", ok, false)
	l, ok := m.Lease(5)
	same(t, "a lease", ok && l.File == 2, true)

	mustStep(t, m, Input{Op: OpCloseContext, Context: 4})
	mustStep(t, m, Input{Op: OpUnpin, Pin: 4})
	same(t, "pinned file", m.Pinned(file1, nil), false)
	same(t, "pinned file", m.Pinned(file1, []SessionID{1}), false)
}

func TestClaimable(t *testing.T) {
	m := scene(t)
	for _, c := range []struct {
		context ContextID
		by      SessionID
		want    syscall.Errno
	}{{1, 1, 0}, {1, 9, 0}, {9, 1, 0}, {1, 2, syscall.EPERM}} {
		same(t, "claim", m.Claimable(c.context, c.by).Errno, c.want)
	}
	mustStep(t, m, Input{Op: OpAcquire, Session: 4, File: file1, Range: blocks(0, 2), Access: Write})
	same(t, "claim with a lease", m.Claimable(1, 4), Effect{})
}

// TestMalformed: what no caller may send is denied, and alters nothing.
func TestMalformed(t *testing.T) {
	m := scene(t)
	before := renderLeases(m.Leases(0)) + renderPins(m.Pins(0))
	for _, c := range []struct {
		what string
		in   Input
		want syscall.Errno
	}{
		{"no such op", Input{Op: 200}, syscall.EINVAL},
		{"acquire nothing", Input{Op: OpAcquire, Session: 4, File: file1}, syscall.EINVAL},
		{"acquire before the file", Input{Op: OpAcquire, Session: 4, File: file1, Range: extent.Range{Off: -1, End: 4096}}, syscall.EINVAL},
		{"acquire, access", Input{Op: OpAcquire, Session: 4, File: file1, Range: blocks(12, 1), Access: 2}, syscall.EINVAL},
		{"acquire, mode", Input{Op: OpAcquire, Session: 4, File: file1, Range: blocks(12, 1), Mode: 2}, syscall.EINVAL},
		{"acquire for nobody", Input{Op: OpAcquire, Session: 9, File: file1, Range: blocks(12, 1)}, syscall.ESRCH},
		{"modify, access", Input{Op: OpModify, Session: 1, Lease: 1, Access: 2}, syscall.EINVAL},
		{"modify, mode", Input{Op: OpModify, Session: 1, Lease: 1, Access: Write, Mode: 2}, syscall.EINVAL},
		{"modify to less than the pins", Input{Op: OpModify, Session: 1, Lease: 1}, syscall.EBUSY},
		{"modify nothing", Input{Op: OpModify, Session: 1, Lease: 99}, syscall.ENOENT},
		{"modify another's", Input{Op: OpModify, Session: 2, Lease: 1}, syscall.EPERM},
		{"return nothing", Input{Op: OpReturn, Session: 1, Lease: 1}, syscall.EINVAL},
		{"return what is pinned", Input{Op: OpReturn, Session: 1, Lease: 1, Range: blocks(1, 1)}, syscall.EBUSY},
		{"close nothing", Input{Op: OpCloseLease, Lease: 99}, syscall.ENOENT},
		{"close another's", Input{Op: OpCloseLease, Session: 2, Lease: 1}, syscall.ENOENT},
		{"close, blocking", Input{Op: OpCloseLease, Session: 1, Lease: 1, OnClose: Block}, syscall.EINVAL},
		{"close, how?", Input{Op: OpCloseLease, Session: 1, Lease: 1, OnClose: 3}, syscall.EINVAL},
		{"map nothing", Input{Op: OpMapped, Lease: 99}, syscall.ENOENT},
		{"detach nothing", Input{Op: OpUnmapped, Lease: 99}, syscall.ENOENT},
		{"fail to detach nothing", Input{Op: OpCutFailed, Lease: 99}, syscall.ENOENT},
		{"seize nothing", Input{Op: OpSeize, Lease: 99}, syscall.ENOENT},
		{"a session without a name", Input{Op: OpOpenSession}, syscall.EINVAL},
		{"a session twice", Input{Op: OpOpenSession, Session: 1}, syscall.EINVAL},
		{"end nobody", Input{Op: OpEndSession, Session: 9}, syscall.ESRCH},
		{"a context without a name", Input{Op: OpRegister, Session: 1}, syscall.EINVAL},
		{"a context twice", Input{Op: OpRegister, Session: 1, Context: 1}, syscall.EINVAL},
		{"a context of nobody", Input{Op: OpRegister, Session: 9, Context: 9}, syscall.ESRCH},
		{"close no context", Input{Op: OpCloseContext, Context: 9}, syscall.ENOENT},
		{"pin nothing", Input{Op: OpPin, Session: 1, Context: 1, Lease: 1}, syscall.EINVAL},
		{"pin, access", Input{Op: OpPin, Session: 1, Context: 1, Lease: 1, Range: blocks(2, 1), Access: 2}, syscall.EINVAL},
		{"pin by no context", Input{Op: OpPin, Session: 1, Context: 9, Lease: 1, Range: blocks(2, 1)}, syscall.ENOENT},
		{"pin by another's", Input{Op: OpPin, Session: 2, Context: 1, Lease: 2, Range: blocks(4, 1)}, syscall.EPERM},
		{"pin beyond the lease", Input{Op: OpPin, Session: 1, Context: 1, Lease: 1, Range: blocks(3, 2)}, syscall.EINVAL},
		{"unpin nothing", Input{Op: OpUnpin, Session: 1, Pin: 99}, syscall.ENOENT},
		{"unpin another's", Input{Op: OpUnpin, Session: 2, Pin: 4}, syscall.EPERM},
		{"claim no context", Input{Op: OpClaim, Session: 1, Context: 9}, syscall.ENOENT},
		{"claim for nobody", Input{Op: OpClaim, Session: 9, Context: 1}, syscall.ESRCH},
		{"share nothing", Input{Op: OpShare, Session: 2, Lease: 99, OnPass: Share}, syscall.ENOENT},
		{"share with nobody", Input{Op: OpShare, Session: 9, Lease: 1, OnPass: Share}, syscall.ESRCH},
		{"share with oneself", Input{Op: OpShare, Session: 1, Lease: 1, OnPass: Share}, syscall.EEXIST},
		{"change, class", Input{Op: OpBreak, File: file1, Range: blocks(12, 1), Class: Moving + 1, OnHold: Fail}, syscall.EINVAL},
		{"change, policy", Input{Op: OpBreak, File: file1, Range: blocks(12, 1), Class: Subtractive, OnHold: Defer + 1}, syscall.EINVAL},
		{"change nothing", Input{Op: OpBreak, File: file1, Class: Subtractive, OnHold: Fail}, syscall.EINVAL},
		{"restore nothing", Input{Op: OpRestore, Session: 1, File: file1, Lease: 50}, syscall.EINVAL},
		{"restore, access", Input{Op: OpRestore, Session: 1, File: file1, Lease: 50, Range: blocks(12, 1), Access: 2}, syscall.EINVAL},
		{"restore, mode", Input{Op: OpRestore, Session: 1, File: file1, Lease: 50, Range: blocks(12, 1), Mode: 2}, syscall.EINVAL},
		{"restore without a name", Input{Op: OpRestore, Session: 1, File: file1, Range: blocks(12, 1)}, syscall.EINVAL},
		{"restore for nobody", Input{Op: OpRestore, Session: 9, File: file1, Lease: 50, Range: blocks(12, 1)}, syscall.ESRCH},
		{"restore another's", Input{Op: OpRestore, Session: 2, File: file1, Lease: 1, Range: blocks(12, 1)}, syscall.EEXIST},
		{"resume nobody", Input{Op: OpResume, Session: 9}, syscall.ESRCH},
	} {
		es := m.Step(0, &c.in)
		if len(es) != 1 || es[0].Kind != Denied && es[0].Kind != Refused || es[0].Errno != c.want {
			t.Errorf("%s: %s", c.what, renderEffects(es))
		}
		if err := CheckInvariants(m); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if now := renderLeases(m.Leases(0)) + renderPins(m.Pins(0)); now != before {
			t.Fatalf("%s:\n%s", c.what, now)
		}
	}
}

// TestUnsetFieldsHaveDefaults: what Config leaves out is 45 s for a break, twice that with progress, and 10 s for a step of a cut.
func TestUnsetFieldsHaveDefaults(t *testing.T) {
	m := New(Config{})
	_, ok := m.NextDeadline()
	same(t, "deadline of nothing", ok, false)
	mustStep(t, m, Input{Op: OpOpenSession, Session: 1})
	mustStep(t, m, Input{Op: OpRegister, Session: 1, Context: 1, Can: CanFence})
	mustStep(t, m, Input{Op: OpAcquire, Session: 1, File: file1, Range: blocks(0, 4)})
	mustStep(t, m, Input{Op: OpPin, Session: 1, Context: 1, Lease: 1, Range: blocks(0, 1)})
	mustStep(t, m, Input{Op: OpBreak, File: file1, Range: blocks(0, 4), Class: Subtractive, OnHold: Revoke})
	deadline := func(want time.Duration) {
		t.Helper()
		at, ok := m.NextDeadline()
		same(t, "deadline", time.Duration(at), want)
		same(t, "deadline", ok, true)
	}
	deadline(45 * time.Second)
	for _, c := range []struct {
		now, want time.Duration
		back      int64
	}{{40 * time.Second, 85 * time.Second, 1}, {60 * time.Second, 90 * time.Second, 2}} {
		m.now = Instant(c.now)
		mustStep(t, m, Input{Op: OpReturn, Session: 1, Lease: 1, Range: blocks(c.back, 1)})
		deadline(c.want)
	}
	m.now = Instant(90 * time.Second)
	mustStep(t, m, Input{Op: OpTick})
	mustStep(t, m, Input{Op: OpCutDone, Lease: 1, Range: blocks(0, 4)})
	deadline(100 * time.Second)
}

// TestResumeGivesTheTag: of the lease that is named, and of no other.
func TestResumeGivesTheTag(t *testing.T) {
	m := scene(t)
	tagged := func(lease LeaseID) any {
		return mustStep(t, m, Input{Op: OpModify, Session: 1, Lease: lease, Access: Write})[0].Tag
	}
	mustStep(t, m, Input{Op: OpResume, Session: 1, Tag: "old"})
	same(t, "tag", tagged(1), nil)
	mustStep(t, m, Input{Op: OpResume, Session: 1, Lease: 1, Tag: "new"})
	same(t, "tag", tagged(1), any("new"))
	es := m.Step(0, &Input{Op: OpResume, Session: 1, Lease: 2, Tag: "another's"})
	same(t, "another's lease", es[0].Errno, syscall.EPERM)
}
