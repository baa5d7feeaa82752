package fs_test

import (
	"fmt"
	"testing"

	"holdfast/internal/crashtest"
	"holdfast/internal/sim"
)

// TestFaults lets each read, write and flush of short workloads fail in turn.
func TestFaults(t *testing.T) {
	for _, wl := range crashtest.Workloads() {
		for _, on := range []crashtest.Fault{
			{Device: true, Kind: sim.Read}, {Device: true, Kind: sim.Write}, {Device: true, Kind: sim.Flush},
			{Kind: sim.Read}, {Kind: sim.Write}, {Kind: sim.Flush}, {Kind: sim.Naming},
		} {
			t.Run(fmt.Sprintf("%s/%v/device=%v", wl.Name, on.Kind, on.Device), func(t *testing.T) {
				t.Parallel()
				f := on
				step := 1
				if testing.Short() {
					step = 20
				}
				for more := true; more; f.N += step {
					var err error
					if more, err = f.Try(t, wl, crashtest.Options{}); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}
