package test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"holdfast/arbiter"
	"holdfast/client"
)

// TestScenario03Strict: A passes the handle of its context to B, who has no lease, and dies. B may keep it, and do nothing with
// it, until he has a lease of his own that covers the pin.
func TestScenario03Strict(t *testing.T) {
	t.Parallel()
	v := serveScenario(t)
	path := v.write(t, "file", pattern(3, heldSize))
	events := v.events(t)
	a, b := newPair(t)
	a.do("Open", Do{Path: path})
	lease := uint64(a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write, Unbreakable: true}}).N)
	context := int(a.do("Register", Do{Name: "ctx", Kind: client.Memory}).N)
	a.do("Pin", Do{Name: "ctx", Off: blockSize, Len: blockSize})
	a.do("SendHandle", Do{Name: "ctx"})
	b.do("Open", Do{Path: path})
	b.do("ReceiveHandle", Do{Name: "ctx"})
	claim := func() error {
		_, err := b.try("Claim", Do{Name: "ctx", Count: context})
		return err
	}
	wantErrno(t, "claim without a lease", claim(), syscall.EPERM)
	if err := claim(); err == nil || !strings.Contains(err.Error(), "[4096,8192)") {
		t.Errorf("the refusal does not name the range: %v", err)
	}
	a.do("CloseLease", Do{})
	a.kill()
	events.wait("end of the session", func(e arbiter.Event) bool {
		return e.Kind == arbiter.EventSessionEnd && int(e.PID) == a.pid()
	})
	listed := func() arbiter.PinInfo {
		t.Helper()
		pins := askJSON[[]arbiter.PinInfo](t, v, "pins", path)
		if len(pins) != 1 {
			t.Fatalf("pins: %+v", pins)
		}
		return pins[0]
	}
	if p := listed(); !p.Unattended {
		t.Errorf("nobody speaks for it: %+v", p)
	}
	wantErrno(t, "claim without a lease, of a dead session's", claim(), syscall.EPERM)
	wantErrno(t, "truncate", os.Truncate(path, 0), syscall.ETXTBSY)

	b.do("Lease", Do{Len: 2 * blockSize, Lease: client.Options{Access: client.Write}})
	if err := claim(); err != nil {
		t.Fatalf("claim with a lease: %v", err)
	}
	events.waitLease(arbiter.EventRelease, lease)
	if p := listed(); p.Unattended || int(p.PID) != b.pid() || !strings.Contains(v.ask(t, "who", path), fmt.Sprint(b.pid())) {
		t.Errorf("B speaks for it: %+v", p)
	}
	wantErrno(t, "truncate", os.Truncate(path, 0), syscall.ETXTBSY)
	_, err := b.try("Truncate", Do{Path: path})
	wantErrno(t, "truncate by B", err, syscall.EDEADLK)
	if n := b.do("UnpinAll", Do{Name: "ctx"}).N; n != 1 {
		t.Errorf("B had %d pins", n)
	}
	b.do("CloseLease", Do{})
	must(t, os.Truncate(path, 0))
}

// TestScenario03Share: under on_pass = share B holds the lease whose handle A has passed to it, and is named when A is dead.
func TestScenario03Share(t *testing.T) {
	t.Parallel()
	v := serveScenario(t, "--on-pass", "share")
	path := v.write(t, "file", pattern(3, heldSize))
	a, b := newPair(t)
	a.do("Open", Do{Path: path})
	lease := int(a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write, Unbreakable: true}}).N)
	context := int(a.do("Register", Do{Name: "ctx", Kind: client.Memory}).N)
	a.do("Pin", Do{Name: "ctx", Len: blockSize})
	for _, name := range []string{"", "ctx"} {
		a.do("SendHandle", Do{Name: name})
		b.do("ReceiveHandle", Do{Name: name})
	}
	b.do("OpenReadOnly", Do{Path: path})
	_, err := b.try("Share", Do{Count: lease})
	wantErrno(t, "a write lease with a descriptor for reading", err, syscall.EACCES)
	b.do("CloseSession", Do{})
	b.do("Open", Do{Path: path})
	b.do("Share", Do{Count: lease})
	text := v.ask(t, "leases")
	for _, p := range []*actor{a, b} {
		if !strings.Contains(text, fmt.Sprint(p.pid())) {
			t.Errorf("pid %d is not listed:\n%s", p.pid(), text)
		}
	}
	b.do("CloseCopy", Do{})
	a.kill()
	eventually(t, "B alone holds it", func() bool {
		ls := askJSON[[]arbiter.LeaseInfo](t, v, "leases", path)
		return len(ls) == 1 && int(ls[0].PID) == b.pid() && len(ls[0].Holders) == 0 && !ls[0].Unattended
	})
	wantErrno(t, "truncate", os.Truncate(path, 0), syscall.ETXTBSY)
	if who := v.ask(t, "who", path); !strings.Contains(who, fmt.Sprint(b.pid())) {
		t.Errorf("holdfast who does not name B:\n%s", who)
	}
	b.do("Claim", Do{Name: "ctx", Count: context}) // the lease it holds covers the pin
	b.do("UnpinAll", Do{Name: "ctx"})
	b.do("CloseLease", Do{})
	must(t, os.Truncate(path, 0))
}
