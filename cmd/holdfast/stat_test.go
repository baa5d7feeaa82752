package main

import (
	"strings"
	"testing"

	"holdfast/extent"
	"holdfast/fs"
)

// TestStatSaysWindowsHaveNoSums: on a volume with checksums each extent that is in a window is said to have none, and so is what on the
// device has lost its own.
func TestStatSaysWindowsHaveNoSums(t *testing.T) {
	for _, sums := range []bool{true, false} {
		var out strings.Builder
		printStat(&out, fs.FileInfo{
			DataChecksums: sums,
			Extents: []extent.Extent{
				{Off: 0, Len: 4096, Addr: extent.Addr{Seg: extent.Device, Off: 1 << 20}},
				{Off: 4096, Len: 4096, Addr: extent.Addr{Seg: 7}},
			},
		})
		for line := range strings.Lines(out.String()) {
			if window := strings.Contains(line, "window 7"); strings.Contains(line, "no checksums until it comes home") != (window && sums) {
				t.Errorf("checksums %v: %q", sums, line)
			}
		}
	}
	var out strings.Builder
	printStat(&out, fs.FileInfo{DataChecksums: true, Unsummed: []extent.Range{{Off: 8192, End: 12288}}})
	if _, list, _ := strings.Cut(out.String(), "without a checksum until they are written again:\n"); list != "[8192,12288)\n" {
		t.Errorf("%q", out.String())
	}
}
