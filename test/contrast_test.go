package test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/internal/pinprobe"
)

// Filesystems whose pages are memory and can be pinned for long.
const (
	tmpfsMagic     = unix.TMPFS_MAGIC
	hugetlbfsMagic = unix.HUGETLBFS_MAGIC
)

// TestContrast: the kernel refuses to pin the pages of a file of an ordinary disk for long, with EFAULT, and accepts those of
// a file of Holdfast on the same disk. README.md shows this.
func TestContrast(t *testing.T) {
	t.Parallel()
	eachMechanism(t, func(t *testing.T, m mechanism) {
		t.Run("a file of the host's filesystem", func(t *testing.T) {
			dir := t.TempDir()
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			if st.Type == tmpfsMagic || st.Type == hugetlbfsMagic {
				t.Skip("needs a temporary directory on a disk, not in memory")
			}
			err := pinHostFile(t, m, filepath.Join(dir, "file"))
			t.Logf("%s: %v", m.name, err)
			wantErrno(t, "registration", err, syscall.EFAULT)
		})
		t.Run("a file of Holdfast", func(t *testing.T) {
			v := serve(t)
			a := newActor(t)
			a.do("Open", Do{Path: v.write(t, "file", pattern(7, heldSize))})
			a.do("Lease", Do{Len: heldSize, Lease: client.Options{Access: client.Write}})
			a.do("Map", Do{})
			a.do(m.deed, Do{})
		})
	})
}

// pinHostFile registers a mapping of a file with the mechanism.
func pinHostFile(t *testing.T, m mechanism, path string) error {
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	_, err = f.Write(pattern(7, heldSize))
	must(t, err)
	mem, err := unix.Mmap(int(f.Fd()), 0, heldSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mem)
	if m.hasRing {
		r, err := pinprobe.NewRing(mem)
		if err != nil {
			return err
		}
		return errors.Join(errors.New("accepted"), r.Close())
	}
	u, err := pinprobe.NewUmem(mem)
	if err != nil {
		return err
	}
	return errors.Join(errors.New("accepted"), u.Close())
}
