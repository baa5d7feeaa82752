package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/local"
	"holdfast/local/localtest"
)

// execHelper takes an unbreakable lease, and becomes another program when it is told to. If it is to, it says before that the handle is
// to stay open.
func execHelper(args []string) error {
	ctx := context.Background()
	s, err := client.Dial(ctx, args[0])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l, err := s.Lease(ctx, f, client.Range{End: 8192}, client.Options{Access: client.Write, Unbreakable: true})
	if err != nil {
		return err
	}
	c, err := s.Register(ctx, client.Memory, nil)
	if err != nil {
		return err
	}
	if args[2] == "kept" {
		for _, h := range []*os.File{l.File(), c.File()} {
			if err := inherit(h); err != nil {
				return err
			}
		}
	}
	cat, err := exec.LookPath("cat")
	if err != nil {
		return err
	}
	fmt.Println("holding")
	if _, err := localtest.Line(bufio.NewReader(os.Stdin)); err != nil {
		return err
	}
	return syscall.Exec(cat, []string{"cat"}, nil)
}

func inherit(h *os.File) error {
	conn, err := h.SyscallConn()
	if err != nil {
		return err
	}
	ctl := conn.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_SETFD, 0) })
	return errors.Join(ctl, err)
}

// Handles end when their process becomes another program, unless it asked them to stay open; then they live, unattended, as long as
// that program.
func TestHandlesOverExec(t *testing.T) {
	for _, kind := range []string{"closed", "kept"} {
		t.Run(kind, func(t *testing.T) {
			s := localtest.Start(t, localtest.Options{})
			p := localtest.Helper(t, "exec", nil, s.Socket, s.FS.Create("f", make([]byte, 8192)), kind)
			p.Want("holding")
			p.Say("exec")
			if kind == "kept" {
				s.Await(t, "the lease is unattended", func() bool { l := leases(s); return len(l) == 1 && l[0].Unattended })
				p.Say("the program that it is now")
				p.Want("the program") // is there, with the handles
				if st := s.Stats(); st.Handles != 2 {
					t.Errorf("%+v, want two handles", st)
				}
				p.Kill()
			}
			s.Await(t, "nothing is left", func() bool { return len(leases(s)) == 0 && s.Stats() == local.Stats{} })
		})
	}
}
