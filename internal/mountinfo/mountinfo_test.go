package mountinfo

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const text = `22 27 0:21 / /proc rw,nosuid - proc proc rw
90 27 0:55 / /mnt/a\040b\134c rw,relatime shared:1 master:2 - fuse.holdfast /var/lib/hold\011fast rw,user_id=0
91 27 259:300000 / /x\ rw - ext4 /dev/root rw
`
	got, err := parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{Path: "/proc", Dev: unix.Mkdev(0, 21), FSType: "proc", Source: "proc"},
		{Path: `/mnt/a b\c`, Dev: unix.Mkdev(0, 55), FSType: FSType, Source: "/var/lib/hold\tfast"},
		{Path: `/x\`, Dev: unix.Mkdev(259, 300000), FSType: "ext4", Source: "/dev/root"},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d mounts, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("mount %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestParseOddLines(t *testing.T) {
	for _, line := range []string{"x", "1 2 3 4 5 6", "1 2 a:b / /x rw - t s", "1 2 3 / /x rw - t s", "1 2 3:4 / - t s", "1 2 3:4 / /x rw - t"} {
		if m, err := parseLine(line); err == nil {
			t.Errorf("parseLine(%q) = %+v, want an error", line, m)
		}
	}
}

// TestRootIsMounted reads the list of the running kernel.
func TestRootIsMounted(t *testing.T) {
	m, ok, err := At("/")
	if err != nil || !ok {
		t.Fatalf("At(/) = %+v, %v, %v; want the root mount", m, ok, err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	if st.Dev != m.Dev {
		t.Logf("st_dev %d differs from mountinfo's %d; btrfs and overlay do that", st.Dev, m.Dev)
	}
	if _, ok, _ := At("/no/such/mount"); ok {
		t.Error("At found a mount where there is none")
	}
}
