package arbiter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/layout"
)

func (w *world) pinned(s layout.SessionID, c layout.ContextID, l layout.LeaseID, r extent.Range) layout.PinID {
	w.t.Helper()
	p, err := w.Pin(w.t.Context(), s, c, l, r, layout.Read)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}

// TestListings: each list has what the filter asks for and nothing else, with sums over all shards.
func TestListings(t *testing.T) {
	w := newWorld(t, Config{})
	one, two, idle := w.open(100), w.open(200), w.open(200)
	c1, c2, empty := w.context(one), w.context(two), w.context(two)
	l5 := w.lease(one, blocks(0, 4), newHolder())
	l6 := w.lease(one, blocks(0, 4), newHolder(), onFile(6))
	other := w.lease(two, blocks(4, 8), newHolder())
	p1, p2, p3 := w.pinned(one, c1, l5, blocks(0, 1)), w.pinned(one, c1, l5, blocks(1, 2)), w.pinned(one, c1, l6, blocks(0, 1))
	p4 := w.pinned(two, c2, other, blocks(4, 5))
	for _, c := range []struct {
		what                             string
		f                                Filter
		sessions, contexts, leases, pins string
	}{
		{"all", Filter{}, ids(one, two, idle), ids(c1, c2, empty), ids(l5, l6, other), ids(p1, p2, p3, p4)},
		{"a file", Filter{File: 6}, ids(one), ids(c1), ids(l6), ids(p3)},
		{"a file of both", Filter{File: 5}, ids(one, two), ids(c1, c2), ids(l5, other), ids(p1, p2, p4)},
		{"a file of nobody", Filter{File: 7}, "[]", "[]", "[]", "[]"},
		{"a session", Filter{Session: two}, ids(two), ids(c2, empty), ids(other), ids(p4)},
		{"a process", Filter{PID: 200}, ids(two, idle), ids(c2, empty), ids(other), ids(p4)},
		{"a session of another process", Filter{PID: 100, Session: two}, "[]", "[]", "[]", "[]"},
		{"a file of a session", Filter{File: 5, Session: one}, ids(one), ids(c1), ids(l5), ids(p1, p2)},
	} {
		var ss []layout.SessionID
		for _, s := range w.Sessions(c.f) {
			ss = append(ss, s.ID)
		}
		var cs []layout.ContextID
		for _, x := range w.Contexts(c.f) {
			cs = append(cs, x.ID)
		}
		var ls []layout.LeaseID
		for _, l := range w.Leases(c.f) {
			ls = append(ls, l.ID)
		}
		var ps []layout.PinID
		for _, p := range w.Pins(c.f) {
			ps = append(ps, p.ID)
		}
		same(t, c.what+", sessions", sorted(ss...), c.sessions)
		same(t, c.what+", contexts", sorted(cs...), c.contexts)
		same(t, c.what+", leases", sorted(ls...), c.leases)
		same(t, c.what+", pins", sorted(ps...), c.pins)
	}
	s := w.Sessions(Filter{Session: one})[0]
	same(t, "sums", fmt.Sprint(s.Leases, s.Contexts, s.Pins), "2 1 3")
	s = w.Sessions(Filter{Session: two})[0]
	same(t, "sums", fmt.Sprint(s.Leases, s.Contexts, s.Pins), "1 2 1")
	same(t, "pins of a context", w.Contexts(Filter{File: 5, Session: one})[0].Pins, 2)
}

// ids and sorted are how the lists are compared; they come in order of names, which ascend within a shard only.
func ids[T ~uint64](list ...T) string { return sorted(list...) }

func sorted[T ~uint64](list ...T) string {
	seen := map[T]bool{} // fmt sorts the keys of maps
	for _, id := range list {
		seen[id] = true
	}
	if len(seen) == 0 {
		return "[]"
	}
	return fmt.Sprint(len(list), seen)
}

// TestChangeSpeaksForWhoHolds: of several sessions of a process, a change of it is that one's which holds most of the file.
func TestChangeSpeaksForWhoHolds(t *testing.T) {
	w := newWorld(t, Config{})
	sessions := []layout.SessionID{w.open(100), w.open(100), w.open(100)}
	holder := sessions[1]
	w.pinned(holder, w.context(holder), w.lease(holder, blocks(0, 4), newHolder()), blocks(0, 1))
	w.lease(sessions[0], blocks(0, 4), newHolder())
	w.lease(sessions[2], blocks(0, 4), newHolder())
	same(t, "who holds", w.own(100, 5), holder)
	same(t, "who holds nothing", w.own(100, 6), sessions[0])
	_, err := w.Break(t.Context(), Caller{PID: 100}, 5, blocks(0, 1), layout.Subtractive)
	if !errors.Is(err, syscall.EDEADLK) {
		t.Errorf("a change of what the process has pinned: %v", err)
	}
}

// TestFailureToDetachIsTold: to who returns a range, and to who closes the context that alone kept the lease.
func TestFailureToDetachIsTold(t *testing.T) {
	w := newWorld(t, Config{})
	s := w.open(100)
	c := w.context(s)
	for _, mapped := range []bool{false, true} {
		l := w.lease(s, blocks(0, 4), newHolder())
		if mapped {
			if err := w.Mapped(l); err != nil {
				t.Fatal(err)
			}
		}
		w.pinned(s, c, l, blocks(0, 1))
		w.storage.unmap = func() error { return syscall.EIO }
		if err := w.Return(t.Context(), s, l, blocks(2, 4)); errors.Is(err, syscall.EIO) != mapped || (err != nil) != mapped {
			t.Errorf("return, mapped %v: %v", mapped, err)
		}
		if err := w.CloseLease(t.Context(), l); err != nil {
			t.Errorf("close, mapped %v: %v", mapped, err)
		}
		if err := w.CloseContext(t.Context(), c); errors.Is(err, syscall.EIO) != mapped || (err != nil) != mapped {
			t.Errorf("close of the context, mapped %v: %v", mapped, err)
		}
		c = w.context(s)
	}
}

// TestSubscriptionsAreApart: the end of one is not that of another.
func TestSubscriptionsAreApart(t *testing.T) {
	w := newWorld(t, Config{})
	first, second := w.Subscribe(10), w.Subscribe(10)
	first.Close()
	s := w.open(100)
	w.lease(s, blocks(0, 4), newHolder())
	for ev := range second.C {
		if ev.Session == s {
			break
		}
	}
	second.Close()
}

// TestLimitNames: what a configuration may say, and what it may not.
func TestLimitNames(t *testing.T) {
	for l := range numLimits {
		u := UserLimit{User: 1000, Limit: l}
		text, _ := u.MarshalText()
		var back UserLimit
		if err := back.UnmarshalText(text); err != nil || back != u {
			t.Errorf("%s: %+v %v", text, back, err)
		}
		same(t, l.String()+" in bytes", l.Bytes(), strings.Contains(limitUnits[l], "bytes"))
	}
	same(t, "no limit", numLimits.String(), fmt.Sprintf("invalid(%d)", numLimits))
	for _, bad := range []string{"", "leases", "leases@", "leases@x", "leases@-1", "nothing@1"} {
		var u UserLimit
		if err := u.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is %+v", bad, u)
		}
	}
}

// TestRangeForPrograms: a range without an end has no length.
func TestRangeForPrograms(t *testing.T) {
	for _, r := range []Range{{Offset: 4096}, {Offset: 4096, Length: 8192}} {
		text, err := json.Marshal(r)
		var back Range
		if err != nil || json.Unmarshal(text, &back) != nil || back != r {
			t.Errorf("%s: %+v %v", text, back, err)
		}
	}
	var r Range
	if err := json.Unmarshal([]byte(`{"offset":"x"}`), &r); err == nil {
		t.Errorf("%+v", r)
	}
}
