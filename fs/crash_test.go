package fs_test

import (
	"slices"
	"testing"

	"holdfast/internal/crashtest"
)

// TestCrash lets the power fail at each position of short workloads, in short runs at some.
func TestCrash(t *testing.T) {
	for _, wl := range crashtest.Workloads() {
		for name, o := range variants() {
			t.Run(wl.Name+name, func(t *testing.T) {
				t.Parallel()
				crashtest.Run(t, wl, o, func(r *crashtest.Recording) (int, error) {
					if testing.Short() {
						return r.Sample(1, 40)
					}
					return r.Exhaust(6)
				})
			})
		}
	}
}

// variants are the kinds of volumes that the power fails on.
func variants() map[string]crashtest.Options {
	return map[string]crashtest.Options{"": {}, "-checksums": {DataChecksums: true}}
}

// TestCrashRandom lets the power fail at some positions of long random workloads.
func TestCrashRandom(t *testing.T) {
	runs, ops, crashes := uint64(6), 300, 60
	if testing.Short() {
		runs = 2
	}
	for _, seed := range crashtest.Seeds(t, 1, runs) {
		wl := crashtest.Random(seed, ops)
		t.Run(wl.Name, func(t *testing.T) {
			t.Parallel()
			crashtest.Run(t, wl, crashtest.Options{}, func(r *crashtest.Recording) (int, error) { return r.Sample(seed, crashes) })
		})
		t.Run(wl.Name+"-checksums", func(t *testing.T) {
			t.Parallel()
			o := crashtest.Options{DataChecksums: true}
			crashtest.Run(t, wl, o, func(r *crashtest.Recording) (int, error) { return r.Sample(seed, crashes) })
		})
	}
}

// TestCrashTurningLogs is TestCrashRandom with a store that turns its log and
// merges its tables all the time. It does so by itself, so a position is not always
// the same moment.
func TestCrashTurningLogs(t *testing.T) {
	o := crashtest.Options{MemTableSize: 16 << 10}
	for _, seed := range crashtest.Seeds(t, 1, 2) {
		wl := crashtest.Random(seed, 600)
		t.Run(wl.Name, func(t *testing.T) {
			t.Parallel()
			crashtest.Run(t, wl, o, func(r *crashtest.Recording) (int, error) { return r.Sample(seed, 80) })
		})
	}
}

// TestCrashRepeats: a workload leaves the same log each time, so that a crash can
// be had again.
func TestCrashRepeats(t *testing.T) {
	for _, wl := range append(crashtest.Workloads(), crashtest.Random(1, 100)) {
		t.Run(wl.Name, func(t *testing.T) {
			t.Parallel()
			for name, o := range variants() {
				a, b := crashtest.Record(t, wl, o), crashtest.Record(t, wl, o)
				if !slices.Equal(a.Disk.Shape()[:a.Last], b.Disk.Shape()[:b.Last]) {
					t.Errorf("two recordings%s differ", name)
				}
			}
		})
	}
}
