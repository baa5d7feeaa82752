package test

import (
	"syscall"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/client"
)

// leased is a file on which an actor has a breakable lease and a mapping.
func leased(t *testing.T, v *volume, a *actor, name string) (path string, lease uint64) {
	t.Helper()
	path = v.write(t, name, pattern(3, heldSize))
	a.do("Open", Do{Path: path})
	lease = uint64(a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}}).N)
	a.do("Map", Do{})
	a.do("Store", Do{Off: 10, Data: []byte("by the holder")})
	return path, lease
}

// leasedContent is what the file has then.
func leasedContent() []byte {
	b := pattern(3, heldSize)
	copy(b[10:], "by the holder")
	return b
}

// TestBreak: a breakable lease is a promise to be told.
func TestBreak(t *testing.T) {
	t.Parallel()
	const mountWait, breakTime = 500 * time.Millisecond, 20 * time.Second
	patient := serve(t, "--mount-wait", mountWait.String(), "--break-time", breakTime.String())
	const half = heldSize / 2
	wantAsked := func(t *testing.T, e client.Event, from int64) {
		t.Helper()
		left := time.Until(e.Deadline)
		if e.Kind != client.BreakAsked || e.Range.Off != from || left <= 0 || left > breakTime {
			t.Errorf("told %+v, want to be asked for [%d,∞) until within %v", e, from, breakTime)
		}
	}
	t.Run("through the library", func(t *testing.T) {
		t.Parallel()
		a, b := newActor(t), newActor(t)
		path, _ := leased(t, patient, a, "library")
		change := b.begin("ChangeTruncate", Do{Path: path, Len: blockSize})
		wantAsked(t, a.do("AwaitPoll", Do{}).Event, blockSize)
		a.do("Return", Do{Off: half, Len: half})
		// It is still in the way with its other half: this answer comes from after the return.
		if would := run(t, patient.bin, "would", "truncate", path); would.status != 0 || change.ended() {
			t.Errorf("truncate did not wait for the rest: %s%s", would.out, would.err)
		}
		wantContent(t, path, leasedContent())
		a.do("Return", Do{Len: half})
		if _, err := change.wait(); err != nil {
			t.Errorf("truncate: %v", err)
		}
		wantContent(t, path, leasedContent()[:blockSize])
	})
	t.Run("through the mount", func(t *testing.T) {
		t.Parallel()
		a, b := newActor(t), newActor(t)
		path, lease := leased(t, patient, a, "mount")
		events := patient.events(t)
		a.do("AskSIGIO", Do{})
		begin := time.Now()
		_, err := b.try("Truncate", Do{Path: path, Len: blockSize})
		wantErrno(t, "truncate while the holder thinks about it", err, syscall.EAGAIN)
		if took := time.Since(begin); took < mountWait || took > mountWait+patience/4 {
			t.Errorf("truncate waited %v, want mount_wait, %v", took, mountWait)
		}
		wantAsked(t, a.do("AwaitSIGIO", Do{}).Event, blockSize)
		wantContent(t, path, leasedContent())
		a.do("Return", Do{Off: half, Len: half})
		a.do("Return", Do{Len: half})
		events.waitLease(arbiter.EventRelease, lease)
		if _, err := b.try("Truncate", Do{Path: path, Len: blockSize}); err != nil {
			t.Errorf("truncate again: %v", err)
		}
		wantContent(t, path, leasedContent()[:blockSize])
	})
	t.Run("a dead holder delays nobody", func(t *testing.T) {
		t.Parallel()
		a, b := newPair(t)
		path, _ := leased(t, patient, a, "dead")
		events := patient.events(t)
		// The copy of the handle keeps the lease in the lists; nobody answers for it.
		a.do("SendHandle", Do{})
		b.do("ReceiveHandle", Do{})
		a.kill()
		events.wait("end of the session", func(e arbiter.Event) bool {
			return e.Kind == arbiter.EventSessionEnd && int(e.PID) == a.pid()
		})
		begin := time.Now()
		if _, err := b.try("ChangeTruncate", Do{Path: path, Len: blockSize}); err != nil {
			t.Errorf("truncate: %v", err)
		}
		if took := time.Since(begin); took > breakTime/2 {
			t.Errorf("truncate took %v: it waited for a dead process", took)
		}
		wantContent(t, path, leasedContent()[:blockSize])
	})
	t.Run("a holder that does nothing delays it to the break time", func(t *testing.T) {
		t.Parallel()
		const short = 2 * time.Second
		v := serve(t, "--break-time", short.String())
		a, b := newActor(t), newActor(t)
		path, lease := leased(t, v, a, "idle")
		events := v.events(t)
		begin := time.Now()
		if _, err := b.try("ChangeTruncate", Do{Path: path, Len: blockSize}); err != nil {
			t.Errorf("truncate: %v", err)
		}
		// Two noisy cores: late is allowed, early is not.
		if took := time.Since(begin); took < short || took > short+patience/4 {
			t.Errorf("truncate took %v, want the break time, %v", took, short)
		}
		events.waitLease(arbiter.EventTimeout, lease)
		events.waitLease(arbiter.EventRevoke, lease)
		told := []client.EventKind{}
		for len(told) < 3 {
			e := a.do("ReadEvent", Do{}).Event
			told = append(told, e.Kind)
			if e.Kind == client.BreakRevoked {
				break
			}
		}
		if told[0] != client.BreakAsked || told[len(told)-1] != client.BreakRevoked {
			t.Errorf("the holder was told %v", told)
		}
		wantContent(t, path, leasedContent()[:blockSize])
		if _, err := a.try("Map", Do{}); err == nil {
			t.Error("the holder mapped a lease that was revoked")
		}
	})
}
