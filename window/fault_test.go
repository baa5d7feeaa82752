package window

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of <linux/userfaultfd.h> that it takes to handle missing pages.
const (
	uffdAPI             = 0xc018aa3f
	uffdRegister        = 0xc020aa00
	uffdRegisterMissing = 1
)

// registerFaults makes every fault of a missing page in mem wait for fd's reader.
func registerFaults(fd int, mem []byte) error {
	api := struct{ api, features, ioctls uint64 }{api: 0xaa}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uffdAPI, uintptr(unsafe.Pointer(&api))); errno != 0 {
		return os.NewSyscallError("UFFDIO_API", errno)
	}
	reg := struct{ start, len, mode, ioctls uint64 }{
		start: uint64(uintptr(unsafe.Pointer(&mem[0]))), len: uint64(len(mem)), mode: uffdRegisterMissing,
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uffdRegister, uintptr(unsafe.Pointer(&reg))); errno != 0 {
		return os.NewSyscallError("UFFDIO_REGISTER", errno)
	}
	return nil
}
