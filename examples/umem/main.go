// Command umem makes the pages of a file the packet memory (umem) of an AF_XDP
// socket: first as Linux has it, by mapping the file, then under an unbreakable lease
// of Holdfast, and a pin. It holds them until its input ends.
//
//	umem FILE
//
// It needs CAP_NET_RAW, and works on the first 4 MiB of FILE, which it makes that
// long if need be.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"unsafe"

	"holdfast/client"

	"golang.org/x/sys/unix"
)

const length = 4 << 20

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: umem FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "umem:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return err
	} else if st.Size() < length {
		if err := f.Truncate(length); err != nil {
			return err
		}
	}
	if mem, err := unix.Mmap(int(f.Fd()), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		fmt.Println("the file mapped:      ", err)
	} else {
		xsk, err := umem(mem)
		if xsk == nil {
			return err
		}
		fmt.Println("the file mapped:      ", outcome(err))
		xsk.Close()
		unix.Munmap(mem)
	}
	return lease(f)
}

// lease does it with Holdfast, and holds on.
func lease(f *os.File) error {
	ctx := context.Background()
	s, err := client.ForFile(ctx, f)
	if err != nil {
		return err
	}
	defer s.Close()
	r := client.Range{Off: 0, End: length}
	l, err := s.Lease(ctx, f, r, client.Options{Access: client.Write, Prepare: true, Unbreakable: true})
	if err != nil {
		return err
	}
	m, err := l.Map(ctx)
	if err != nil {
		return err
	}
	xsk, err := umem(m.Bytes())
	if xsk == nil {
		return err
	}
	defer xsk.Close()
	fmt.Println("the lease's window:   ", outcome(err))
	if err != nil {
		return err
	}
	c, err := s.Register(ctx, client.XDP, xsk)
	if err != nil {
		return err
	}
	if _, err := c.Pin(ctx, l, r, client.Write); err != nil {
		return err
	}
	fmt.Println("pinned through:       ", c.Name())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// umem makes an AF_XDP socket whose packet memory is mem.
func umem(mem []byte) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("an AF_XDP socket (it needs CAP_NET_RAW): %w", err)
	}
	xsk := os.NewFile(uintptr(fd), "AF_XDP socket")
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))),
		Len:  uint64(len(mem)),
		Size: 4096, // of a frame
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	if errno != 0 {
		return xsk, errno
	}
	return xsk, nil
}

func outcome(err error) string {
	if err != nil {
		return "refused: " + err.Error()
	}
	return "accepted as umem"
}
