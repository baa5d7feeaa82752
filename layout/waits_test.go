package layout

import (
	"syscall"
	"testing"
)

// TestWaits: a session may wait for several at a time, by several requests; a circle is found whichever of them closes it.
func TestWaits(t *testing.T) {
	w := NewWaits()
	same(t, "2 waits for 3", w.set(21, 2, []SessionID{3}), true)
	same(t, "2 waits for 4", w.set(22, 2, []SessionID{4}), true)
	same(t, "2 waits for 5", w.set(23, 2, []SessionID{5}), true)
	w.drop(22)
	for id := SessionID(3); id <= 5; id++ {
		same(t, "who waits for 2", w.set(10, id, []SessionID{2}), id == 4)
	}
	// 3 leads to 2 by two ways, of which the second is seen already; what comes after that counts, too.
	w = NewWaits()
	w.set(30, 3, []SessionID{2})
	w.set(60, 6, []SessionID{1})
	same(t, "a circle behind what is seen", w.set(11, 1, []SessionID{2, 3, 2, 6}), false)
	w.drop(60)
	same(t, "no circle any more", w.set(11, 1, []SessionID{2, 3, 2, 6}), true)
}

// TestNames: every value has its name, and no other name is one.
func TestNames(t *testing.T) {
	for c := None; c <= Moving; c++ {
		var back Class
		if err := back.UnmarshalText([]byte(c.String())); err != nil || back != c {
			t.Errorf("%v: %v, %v", c, back, err)
		}
	}
	same(t, "a class that is none", (Moving + 1).String(), "invalid(5)")
	var c Class
	if err := c.UnmarshalText([]byte("invalid(5)")); err == nil || err.(interface{ Unwrap() error }).Unwrap() != syscall.EINVAL {
		t.Errorf("unmarshal: %v", err)
	}
}
