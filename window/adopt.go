package window

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/extent"
)

// ID is by what the kernel knows the memory of a window, for as long as anybody has it.
type ID struct {
	Dev, Ino uint64
}

// ID returns what the window's memory is known by.
func (w *Window) ID() ID { return w.id }

func idOf(fd int) (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, os.NewSyscallError("fstat", err)
	}
	return ID{st.Dev, st.Ino}, nil
}

// Adopt makes a window of memory that a former server made and a holder gives back. fd stays
// the caller's. EINVAL: it is not that memory; ESTALE: it was detached.
func Adopt(seg extent.Segment, name string, size int64, id ID, fd int) (*Window, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	got, err := idOf(fd)
	if err != nil {
		return nil, err
	}
	// Only memory has seals, and nothing that the kernel still knows by this number is another.
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if fs.Type != unix.TMPFS_MAGIC || got != id || err != nil || seals&unix.F_SEAL_GROW == 0 {
		return nil, fmt.Errorf("the descriptor is not the memory of window %d: %w", seg, syscall.EINVAL)
	}
	// An open file of our own, whatever flags and access the holder's has.
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open window %d: %w", seg, err)
	}
	w := &Window{seg: seg, size: size, id: id, file: os.NewFile(uintptr(own), "holdfast:"+name)}
	var st unix.Stat_t
	if err := unix.Fstat(own, &st); err != nil || st.Size != size {
		w.file.Close()
		return nil, fmt.Errorf("window %d has %d bytes of %d: %w", seg, st.Size, size, syscall.ESTALE)
	}
	return w, nil
}

// Forget closes the window without taking its pages, which whoever has the memory keeps.
func (w *Window) Forget() error {
	w.mu.Lock()
	f := w.file
	w.file = nil
	w.mu.Unlock()
	if f == nil {
		return nil
	}
	return f.Close()
}
