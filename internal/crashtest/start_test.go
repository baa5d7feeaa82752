package crashtest

import (
	"testing"

	"holdfast/internal/sim"
)

// TestFaultsOfStart crashes within workloads that leave something to be finished, and lets each read, write and flush of the next start
// fail in turn.
func TestFaultsOfStart(t *testing.T) {
	cuts := 2
	if testing.Short() {
		cuts = 1
	}
	leaves := map[string]bool{"truncate-many": true, "unlink-many": true, "unlinked-open": true, "window": true, "grow": true}
	for _, wl := range Workloads() {
		if !leaves[wl.Name] {
			continue
		}
		t.Run(wl.Name, func(t *testing.T) {
			t.Parallel()
			r := Record(t, wl, Options{})
			at, hits := r.Disk.Cursor(), 0
			for k := range cuts {
				c := Crash{Cut: r.First + (r.Last-r.First)*(k+1)/cuts, Left: sim.All, Again: -1}
				for _, f := range faults() {
					for more := true; more; f.N++ {
						var err error
						if more, err = f.TryStart(t.Context(), r, at, c); err != nil {
							t.Fatal(err)
						}
						if more {
							hits++
						}
					}
				}
			}
			if hits < 10*cuts {
				t.Errorf("only %d faults", hits)
			}
		})
	}
}

func faults() []Fault {
	return []Fault{
		{Device: true, Kind: sim.Read}, {Device: true, Kind: sim.Write}, {Device: true, Kind: sim.Flush},
		{Kind: sim.Read}, {Kind: sim.Write}, {Kind: sim.Flush}, {Kind: sim.Naming},
	}
}
