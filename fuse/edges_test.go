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

// TestMappedPagesMove: what was stored through a mapping, and that no one has synced, is
// moved and punched by the API with all else, and does not come back where it was.
func TestMappedPagesMove(t *testing.T) {
	const block = 4096
	s := testserver.Mounted(t)
	f, err := os.Create(s.Mount + "/file")
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 4*block))
	must(t, err)
	session, err := client.ForFile(t.Context(), f)
	must(t, err)
	defer session.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 4*block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	store := func() {
		for k := range m {
			m[k] = byte('a' + k/block)
		}
	}
	blocks := func() (out string) {
		data, err := os.ReadFile(f.Name())
		must(t, err)
		for k := 0; k < len(data); k += block {
			if data[k] != data[k+block-1] {
				t.Errorf("block %d is of two kinds", k/block)
			}
			out += string(data[k])
		}
		return out
	}
	store()
	must(t, session.Fallocate(t.Context(), f, client.Collapse, client.Range{Off: block, End: 2 * block}, client.ChangeOptions{}))
	if got := blocks(); got != "acd" {
		t.Errorf("%q after a collapse, want acd", got)
	}
	must(t, session.Fallocate(t.Context(), f, client.Insert, client.Range{Off: 0, End: block}, client.ChangeOptions{}))
	if got := blocks(); got != "\x00acd" {
		t.Errorf("%q after an insertion, want \\0acd", got)
	}
	store()
	must(t, session.Punch(t.Context(), f, client.Range{Off: block, End: 3 * block}, client.ChangeOptions{}))
	must(t, f.Sync())
	if got := blocks(); got != "a\x00\x00d" {
		t.Errorf("%q after a punch, want a\\0\\0d", got)
	}
}
