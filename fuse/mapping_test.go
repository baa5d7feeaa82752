package fuse_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMappingUnderALease: a mapping through the mount can be made and stored to under another's write lease, since nobody asks the server;
// what is stored there does not reach the file, and whoever has it written back is told.
func TestMappingUnderALease(t *testing.T) {
	s, _, release := held(t, "unbreakable", time.Second)
	f, err := os.OpenFile(s.Mount+"/file", os.O_RDWR, 0)
	must(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	m[0] = 'x'
	wantErrno(t, unix.Msync(m, unix.MS_SYNC), syscall.EIO)
	must(t, unix.Munmap(m))
	f.Close()
	if got, err := os.ReadFile(s.Mount + "/file"); err != nil || got[0] != 0 {
		t.Errorf("the file begins with %q, %v", got[:1], err)
	}
	release()
}
