package test

import (
	"bytes"
	"syscall"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/client"
)

// TestScenario20TwoUnaware: two programs that know nothing of each other have a file pinned, each by a device of its own, and see each other's
// DMA. A change is refused; one that an administrator forces takes the file from both.
func TestScenario20TwoUnaware(t *testing.T) {
	t.Parallel()
	viaRing.need(t)
	v := serve(t, "--break-time", "400ms", "--mount-wait", scenarioMountWait.String())
	path := v.write(t, "shared", pattern(3, heldSize))
	var both []*actor
	for range 2 {
		a := newActor(t)
		a.do("Open", Do{Path: path})
		a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}})
		a.do("Map", Do{})
		a.do("Ring", Do{})
		a.do("Register", Do{Name: "ctx", Kind: client.IOUring})
		a.do("Pin", Do{Name: "ctx", Len: heldSize})
		both = append(both, a)
	}
	for i, a := range both {
		dma := bytes.Repeat([]byte{byte('x' + i)}, blockSize)
		a.do("RingIn", Do{Off: int64(i) * blockSize, Data: dma})
		if got := both[1-i].do("RingOut", Do{Len: heldSize}).Data; !bytes.Equal(got[i*blockSize:][:blockSize], dma) {
			t.Errorf("program %d does not see what the device of the other has written", 1-i)
		}
	}
	admin := newActor(t)
	_, err := admin.try("ChangeTruncate", Do{Path: path})
	wantErrno(t, "truncate", err, syscall.ETXTBSY)
	begin := time.Now()
	admin.do("ChangeTruncate", Do{Path: path, Change: client.ChangeOptions{OnHold: client.OnHoldRevoke}})
	if took := time.Since(begin); took < 400*time.Millisecond {
		t.Errorf("the holders had %v", took)
	}
	if p := askJSON[[]arbiter.PinInfo](t, v, "pins", path); len(p) != 0 {
		t.Errorf("pins after the forced change: %+v", p)
	}
	full := bytes.Repeat([]byte("another's "), heldSize/10)
	other := v.write(t, "other", full)
	for _, a := range both {
		a.do("RingIn", Do{Data: bytes.Repeat([]byte("late dma "), heldSize/9)})
	}
	wantContent(t, other, full)
	wantContent(t, path, nil)
}
