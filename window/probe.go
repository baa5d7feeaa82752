package window

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"holdfast/extent"
	"holdfast/internal/pinprobe"
)

// Probe tries whether this kernel lets a process pin the pages of a window for
// long, with io_uring and, where that is not to be had, with AF_XDP. An error
// that is errors.ErrUnsupported says that neither could be tried here; any other
// that the kernel refused the memory.
func Probe() error {
	w, err := New(0, "probe", extent.BlockSize)
	if err != nil {
		return err
	}
	defer w.Detach()
	f, err := w.Open(true)
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, extent.BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map a window: %w", err)
	}
	defer unix.Munmap(mem)
	ring, err := pinprobe.NewRing(mem)
	if err == nil {
		return ring.Close()
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	umem, xerr := pinprobe.NewUmem(mem)
	if xerr == nil {
		return umem.Close()
	}
	return errors.Join(err, xerr)
}
