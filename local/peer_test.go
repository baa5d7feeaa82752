package local

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The process of a session is asked after for each message: its number may be another's
// once it is dead. The same look sees whether there is more to receive.
func TestSpeakerLives(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("no cat here:", err)
	}
	pid := int32(cmd.Process.Pid)
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	s := &session{srv: &Server{}, peer: peer{pid: pid, pidfd: pidfd}}
	speak := func(sock int) (quiet bool, err error) {
		m := message{hasCred: true, cred: unix.Ucred{Pid: pid}, pidfd: -1, sock: sock}
		_, err = s.speaker(&m)
		return m.quiet, err
	}
	for _, c := range []struct {
		what   string
		before func() error
		quiet  bool
	}{
		{"nothing there", func() error { return nil }, true},
		{"an empty message", func() error { return unix.Send(fds[1], nil, 0) }, false},
		{"the end", func() error {
			_, err := unix.Read(fds[0], make([]byte, 1))
			return errors.Join(err, unix.Close(fds[1]))
		}, false},
	} {
		if err := c.before(); err != nil {
			t.Fatal(err)
		}
		if quiet, err := speak(fds[0]); err != nil || quiet != c.quiet {
			t.Errorf("%s: quiet %v, %v", c.what, quiet, err)
		}
	}
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if _, err := speak(fds[0]); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a dead process speaks: %v", err)
	}
}

// Administrators are root and the user whom the server runs as.
func TestAdministrators(t *testing.T) {
	s := &Server{uid: 1000}
	for uid, want := range map[uint32]bool{0: true, 1000: true, 1001: false} {
		ses := &session{srv: s, peer: peer{pid: int32(os.Getpid()), uid: uid}}
		var err error
		if ses.peer.pidfd, err = unix.PidfdOpen(os.Getpid(), 0); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(ses.peer.pidfd)
		m := message{hasCred: true, cred: unix.Ucred{Pid: int32(os.Getpid()), Uid: uid}, pidfd: -1, sock: ses.peer.pidfd}
		if c, err := ses.speaker(&m); err != nil || c.admin != want {
			t.Errorf("user %d of a server of user 1000: administrator %v, %v", uid, c.admin, err)
		}
	}
}
