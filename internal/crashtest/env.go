package crashtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
)

// Env names the environment variables that say which crashes are tried. CrashVar
// holds one, as a failed test prints it. SeedVar and RunsVar are the first seed and
// the number of random workloads.
const (
	CrashVar = "HOLDFAST_CRASH"
	SeedVar  = "HOLDFAST_CRASH_SEED"
	RunsVar  = "HOLDFAST_CRASH_RUNS"
)

// Run records a workload and tries crashes: the one that the environment says, or
// those of pick. A failure says how to have it again.
func Run(t *testing.T, wl Workload, o Options, pick func(*Recording) (int, error)) {
	t.Helper()
	r := Record(t, wl, o)
	if s := os.Getenv(CrashVar); s != "" {
		c, err := ParseCrash(s)
		if err == nil {
			err = r.Try(context.Background(), r.Disk.Cursor(), c)
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
	n, err := pick(r)
	if err != nil {
		t.Errorf("%v\nhave it again with %s set to what stands behind \"crash\", and -run '^%s$'", err, CrashVar, t.Name())
	}
	t.Logf("%d crashes at positions %d to %d", n, r.First, r.Last)
}

// Seeds returns the seeds of random workloads: runs of them, from first on, unless
// the environment says otherwise.
func Seeds(t *testing.T, first, runs uint64) []uint64 {
	t.Helper()
	for name, v := range map[string]*uint64{SeedVar: &first, RunsVar: &runs} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatal(fmt.Errorf("%s: %w", name, err))
			}
			*v = n
		}
	}
	var out []uint64
	for i := range runs {
		out = append(out, first+i)
	}
	return out
}
