package test

import (
	"syscall"
	"testing"

	"holdfast/client"
)

// TestScenario14GrantOverZombiePins: data file and lease handle of a holder are closed and only its pin is left. Nobody gets to have the range
// for himself, whatever he asks; who shares it may.
func TestScenario14GrantOverZombiePins(t *testing.T) {
	t.Parallel()
	v := serve(t, "--mount-wait", scenarioMountWait.String())
	eachMechanism(t, func(t *testing.T, m mechanism) {
		h := holdFile(t, v, m, "zombie-"+m.name)
		h.pass()
		h.a.kill()
		h.b.do("Open", Do{Path: h.path})
		for _, o := range []client.Options{
			{Access: client.Write, Mode: client.Exclusive},
			{Access: client.Write, Mode: client.Exclusive, Unbreakable: true},
			{Access: client.Read, Mode: client.Exclusive, NoWait: true},
		} {
			_, err := h.b.try("Lease", Do{Len: heldSize, Lease: o})
			wantErrno(t, "exclusive lease over a pin", err, syscall.EBUSY)
		}
		h.b.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}})
		h.letGo(t)
		h.b.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write, Mode: client.Exclusive, Unbreakable: true}})
	})
}
