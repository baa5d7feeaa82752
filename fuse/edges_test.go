package fuse_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/internal/testserver"
)

// TestMappedPagesBehindEnd: pages of a mapping that were stored to before the API cut the file
// do not let it grow again.
func TestMappedPagesBehindEnd(t *testing.T) {
	s := testserver.Mounted(t)
	f, err := os.Create(s.Mount + "/file")
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 64<<10))
	must(t, err)
	session, err := client.ForFile(t.Context(), f)
	must(t, err)
	defer session.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	for k := range m {
		m[k] = 'o'
	}
	must(t, session.Truncate(t.Context(), f, 100, client.ChangeOptions{}))
	unix.Msync(m, unix.MS_SYNC)
	must(t, f.Sync())
	if st := stat(t, f.Name()); st.Size != 100 {
		t.Errorf("size %d after write-back of pages behind the end, want 100", st.Size)
	}
}
