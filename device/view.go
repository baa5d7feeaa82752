package device

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Viewer is a Device whose bytes the kernel can take from where the host caches
// them, without a copy of ours between.
type Viewer interface {
	// View returns the bytes [off, off+n), or nil if the host does not have them
	// cached or cannot show them; then ReadAt reads them. They are for system calls
	// that read memory, and for nothing else: if the medium fails such a call gets
	// EFAULT, where this process would get a signal. They show each write at once,
	// and are valid until Close.
	View(off, n int64) []byte
}

var _ Viewer = (*File)(nil)

// mapView maps the device to be viewed. Where it cannot be mapped there are no views,
// or none of what it has grown by. It needs growMu, or to be alone.
func (d *File) mapView() {
	size := d.Size()
	if size != int64(int(size)) {
		return
	}
	m, err := unix.Mmap(int(d.f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return
	}
	if old := d.view.Swap(&m); old != nil {
		d.old = append(d.old, *old)
	}
}

func (d *File) unmapView() error {
	d.growMu.Lock()
	defer d.growMu.Unlock()
	all := d.old
	if m := d.view.Swap(nil); m != nil {
		all = append(all, *m)
	}
	var errs []error
	for _, m := range all {
		errs = append(errs, unix.Munmap(m))
	}
	d.old = nil
	return errors.Join(errs...)
}

// View implements Viewer. What is not cached is left to ReadAt, because the host
// reads ahead for it: faults of a mapping would wait for every part.
func (d *File) View(off, n int64) []byte {
	m := d.view.Load()
	if m == nil || off < 0 || n <= 0 || off > int64(len(*m))-n || !cached(*m, off, off+n) {
		return nil
	}
	return (*m)[off : off+n : off+n]
}

// cached reports whether the host has all pages of m[off:end] in memory.
func cached(m []byte, off, end int64) bool {
	var resident [256]byte
	page := int64(os.Getpagesize())
	for off -= off % page; off < end; {
		n := min((end-off+page-1)/page, int64(len(resident)))
		_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[off])), uintptr(n*page), uintptr(unsafe.Pointer(&resident)))
		if e != 0 {
			return false
		}
		for _, r := range resident[:n] {
			if r&1 == 0 {
				return false
			}
		}
		off += n * page
	}
	return true
}
