package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/testserver"
)

// TestBlockDevice: a block device is used whole, and what is written is there after a restart.
func TestBlockDevice(t *testing.T) {
	t.Parallel()
	testserver.NeedRoot(t)
	const size = 96 << 20
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, size))
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Skip("no loop device can be had: ", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { mustRun(t, "losetup", "--detach", loop) })
	v := serve(t, "--size", "0", "--device", loop) // no size of its own
	if free := v.free(t); free < size*9/10 || free > size {
		t.Errorf("a volume on a device of %d bytes has %d free", size, free)
	}
	content := pattern(3, heldSize)
	path := v.write(t, "file", content)
	v.stop(t)
	if r := run(t, v.bin, "check", "--device", loop, v.dir); r.status != 0 {
		t.Errorf("holdfast check: exit status %d\n%s%s", r.status, r.out, r.err)
	}
	v.start(t)
	wantContent(t, path, content)
}
