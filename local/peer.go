package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
)

// A peer is the process at the other end of a connection, by the kernel's word.
type peer struct {
	pid   int32
	uid   uint32
	gid   uint32
	pidfd int
}

// peerOf returns the process that connected fd. The caller closes its pidfd.
func peerOf(fd int) (peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Pid == 0 {
		return peer{}, fmt.Errorf("peer is in a pid namespace that this server cannot see: %w", syscall.EPERM)
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, syscall.ENOPROTOOPT) {
		// Before Linux 6.5. The number may have been given away since the process
		// connected, which is why later kernels have the option.
		pidfd, err = unix.PidfdOpen(int(cred.Pid), 0)
	}
	if err != nil {
		return peer{}, fmt.Errorf("process %d: %w", cred.Pid, err)
	}
	return peer{pid: cred.Pid, uid: cred.Uid, gid: cred.Gid, pidfd: pidfd}, nil
}

// alive reports whether the process of a pidfd lives. While it does, nobody else
// has its number.
func alive(pidfd int) bool {
	p := [1]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p[:], 0)
		if !errors.Is(err, syscall.EINTR) {
			return err == nil && n == 0
		}
	}
}

// look is alive, and says in the same system call whether the socket has nothing to
// receive, not even its end.
func look(pidfd, sock int) (lives, quiet bool) {
	p := [2]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(sock), Events: unix.POLLIN | unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(p[:], 0)
		if !errors.Is(err, syscall.EINTR) {
			return err == nil && p[0].Revents == 0, err == nil && p[1].Revents == 0
		}
	}
}

// pidOf returns the number of a pidfd's process, as this process sees it.
func pidOf(pidfd int) (int32, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return 0, err
	}
	pid, err := numberAfter(info, "Pid:")
	if err == nil && pid <= 0 {
		err = fmt.Errorf("process is gone or not visible here: %w", syscall.ESRCH)
	}
	return pid, err
}

// parentOf returns the parent of a process.
func parentOf(pid int32) (int32, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return numberAfter(status, "PPid:")
}

func numberAfter(text []byte, key string) (int32, error) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 32)
			return int32(n), err
		}
	}
	return 0, fmt.Errorf("no %s here: %w", key, syscall.EINVAL)
}

// programOf returns the name of a process, for listings.
func programOf(pid int32) string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(comm))
}

// A caller is who sent a message: what the session may, narrowed by the
// credentials of the message.
type caller struct {
	pid   int32
	uid   uint32
	gid   uint32
	admin bool
	// owner is whose files the caller owns: sentinel noOwner if session and
	// message are of different users.
	owner uint32
}

const noOwner = ^uint32(0)

func (s *Server) admin(uid uint32) bool { return uid == 0 || uid == s.uid }

// owns reports whether the caller may do what only the owner of a file may.
func (c caller) owns(uid uint32) bool { return c.admin || c.owner != noOwner && c.owner == uid }

func (s *session) toArbiter(c caller) arbiter.Caller {
	return arbiter.Caller{PID: c.pid, UID: c.uid, GID: c.gid, Session: s.id, Admin: c.admin}
}

// speaker finds out who sent m and whether he may speak on this session.
func (s *session) speaker(m *message) (caller, error) {
	if !m.hasCred {
		return caller{}, fmt.Errorf("message without credentials: %w", syscall.EPERM)
	}
	own := m.cred.Pid == s.peer.pid
	if own {
		// The peer has had its number since it connected, and has it now.
		own, m.quiet = look(s.peer.pidfd, m.sock)
	}
	if !own {
		if err := s.foreign(m); err != nil {
			return caller{}, err
		}
	}
	c := caller{pid: m.cred.Pid, uid: m.cred.Uid, gid: m.cred.Gid, owner: m.cred.Uid}
	c.admin = s.srv.admin(m.cred.Uid) && s.srv.admin(s.peer.uid)
	if m.cred.Uid != s.peer.uid && !s.srv.admin(s.peer.uid) {
		c.owner = noOwner
	}
	return c, nil
}

// foreign checks a message of another process than the session's: it must be an
// admitted one or a descendant.
func (s *session) foreign(m *message) error {
	if !alive(s.peer.pidfd) {
		return fmt.Errorf("the session's process %d is gone: %w", s.peer.pid, syscall.EPERM)
	}
	if m.cred.Pid == 0 || m.pidfd < 0 {
		return fmt.Errorf("process %d does not own session %d of process %d, which was not opened for sharing: %w",
			m.cred.Pid, s.id, s.peer.pid, syscall.EPERM)
	}
	pid, err := pidOf(m.pidfd)
	if err != nil {
		return fmt.Errorf("sender: %w", errors.Join(err, syscall.EPERM))
	}
	if s.isAdmitted(pid) && alive(m.pidfd) {
		return nil
	}
	ok, err := s.descends(pid)
	if err != nil {
		return fmt.Errorf("who process %d descends from is unknown: %w", pid, errors.Join(err, syscall.EPERM))
	}
	// The sender lived through the walk, so it was his line that was walked.
	if !ok || !alive(m.pidfd) || !alive(s.peer.pidfd) {
		return fmt.Errorf("process %d is neither process %d, nor admitted by it, nor its descendant: %w", pid, s.peer.pid, syscall.EPERM)
	}
	return nil
}

// descends walks from pid up to the session's process. Reading /proc of a process
// in execve can hang with it, so this asks with a time limit.
func (s *session) descends(pid int32) (bool, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.srv.cfg.Limits.ProcTime)
	defer cancel()
	type answer struct {
		ok  bool
		err error
	}
	got := make(chan answer, 1)
	s.srv.wg.Go(func() {
		for range 64 {
			parent, err := parentOf(pid)
			switch {
			case err != nil || parent == s.peer.pid:
				got <- answer{err == nil, err}
				return
			case parent <= 1 || ctx.Err() != nil:
				got <- answer{false, ctx.Err()}
				return
			}
			pid = parent
		}
		got <- answer{}
	})
	select {
	case a := <-got:
		return a.ok, a.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
