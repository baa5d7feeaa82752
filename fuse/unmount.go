package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/mountinfo"
)

const (
	// unmountGrace is how long Unmount lets users of the mount finish.
	unmountGrace = 2 * time.Second
	// unmountRetry is the pause between two tries: the kernel has no event for
	// "not busy any more".
	unmountRetry = 20 * time.Millisecond
	// staleTimeout bounds the question whether a mount is still served.
	staleTimeout = 3 * time.Second
)

// Unmount takes the mount away. While files are in use it tries again for a
// while; then it takes the mount out of the way of new users, writes back what
// mappings hold, and ends the connection: whoever still uses it gets ENOTCONN.
// Where the connection cannot be ended, its requests are answered with ENOTCONN
// until this process ends. It returns when the last request has been answered
// that saw the filesystem.
func (m *Mount) Unmount(ctx context.Context) error {
	detached, err := m.unmount(ctx)
	if err == nil {
		if m.opts.Own {
			unix.Rmdir(m.path) // fails if something is there, which stays
		}
		err = m.drain(ctx, detached)
	}
	if err == nil && m.inval.server != nil {
		m.inval.close()
		m.prune.close()
		m.inval.server = nil
	}
	return err
}

// drain waits for the requests that still run.
func (m *Mount) drain(ctx context.Context, detached bool) (err error) {
	if detached {
		err = m.raw.close(ctx)
	} else {
		select {
		case <-m.done:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: requests still run: %w", m.path, err)
	}
	return nil
}

// unmount takes the mount out of the list of mounts. detached says that it lives
// on for those who use it.
func (m *Mount) unmount(ctx context.Context) (detached bool, err error) {
	give := time.NewTimer(unmountGrace)
	defer give.Stop()
	retry := time.NewTicker(unmountRetry)
	defer retry.Stop()
	for {
		err := unmountOnce(m.path, m.opts.Direct, false)
		if err == nil || m.gone() {
			return false, nil
		}
		select {
		case <-m.done: // someone else was faster
			return false, nil
		case <-retry.C:
		case <-give.C:
			m.opts.Log.Warn("the mount is still in use; its users will get ENOTCONN", "mount", m.path, "reason", err)
			return m.abort()
		case <-ctx.Done():
			detached, err = m.abort()
			return detached, errors.Join(ctx.Err(), err)
		}
	}
}

// abort detaches the mount and ends its connection. detached says that it could
// not be ended: an ordinary user needs the control filesystem for that, and it is
// not everywhere.
func (m *Mount) abort() (detached bool, err error) {
	m.flushMappings()
	if m.opts.Direct {
		// MNT_FORCE ends the connection, MNT_DETACH makes the rest succeed.
		return false, ignoreGone(unix.Unmount(m.path, unix.MNT_FORCE|unix.MNT_DETACH))
	}
	if err := unmountOnce(m.path, false, true); err != nil && !m.gone() {
		return false, err
	}
	ctl := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(m.dev))
	if err := os.WriteFile(ctl, []byte("1"), 0); err != nil {
		m.opts.Log.Info("the mount was detached; its connection ends with the server", "mount", m.path, "reason", err)
		return true, nil
	}
	return false, nil
}

// flushMappings makes the kernel write back dirty pages of memory mappings, with
// a time limit: the requests come to this server.
func (m *Mount) flushMappings() {
	ctx, cancel := context.WithTimeout(context.Background(), unmountGrace)
	defer cancel()
	flushed := make(chan error, 1)
	go func() { flushed <- m.writeBack(ctx) }()
	select {
	case err := <-flushed:
		if err != nil {
			m.opts.Log.Warn("memory mappings may not be written back", "mount", m.path, "err", err)
		}
	case <-m.done:
	case <-ctx.Done():
	}
}

// writeBack starts the write-back with syncfs(2). For FUSE that does not wait
// for the server, so writeBack asks rounds of questions: an answer comes after
// the server has taken all that was queued before the question. Two rounds
// without a page are the end; one alone may come before a page is counted.
func (m *Mount) writeBack(ctx context.Context) error {
	fd, err := unix.Open(m.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return err
	}
	for quiet := 0; quiet < 2; quiet++ {
		before := m.raw.pages.Load()
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil {
			return err
		}
		if m.raw.pages.Load() != before || m.raw.writing.Load() > 0 {
			quiet = -1
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// gone reports whether the mount has left the list of mounts.
func (m *Mount) gone() bool {
	at, ok, err := mountinfo.At(m.path)
	return err == nil && (!ok || at.Dev != m.dev && m.dev != 0)
}

func unmountOnce(path string, direct, lazy bool) error {
	if direct {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		return ignoreGone(unix.Unmount(path, flags|unix.UMOUNT_NOFOLLOW))
	}
	bin, err := fusermount()
	if err != nil {
		return err
	}
	args := []string{"-u", "--", path}
	if lazy {
		args = []string{"-u", "-z", "--", path}
	}
	var out bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fusermount3 -u %s: %w: %s", path, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// ignoreGone makes nothing of EINVAL, which means "not mounted".
func ignoreGone(err error) error {
	if errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}

func fusermount() (string, error) {
	if p, err := exec.LookPath("fusermount3"); err == nil {
		return p, nil
	}
	return exec.LookPath("/bin/fusermount3")
}

// RecoverStale takes away a mount of Holdfast at path whose server is dead. It
// returns ErrBusy if the server is alive, or if the mount is of another kind and
// on top of nothing of ours.
func RecoverStale(ctx context.Context, path string, log *slog.Logger) error {
	// A server that was killed twice leaves two mounts, one over the other.
	for {
		at, ok, err := mountinfo.At(path)
		if err != nil || !ok {
			return err
		}
		if at.FSType != mountinfo.FSType {
			return fmt.Errorf("%w: %s is a mount of type %s from %s; choose another with --mount", ErrBusy, path, at.FSType, at.Source)
		}
		if err := dead(ctx, path); err != nil {
			return fmt.Errorf("%w: a server for %s has %s mounted (%w); stop it, or choose another mount point with --mount", ErrBusy, at.Source, path, err)
		}
		log.Info("recovering a mount left by a server that was killed", "mount", path, "volume", at.Source)
		if err := unmountOnce(path, os.Geteuid() == 0, true); err != nil {
			return fmt.Errorf("recover the stale mount at %s: %w", path, err)
		}
	}
}

// dead returns nil if the server of the mount at path is gone. The question is
// asked in a goroutine of its own, for a server that was stopped never answers.
func dead(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, staleTimeout)
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(path, &st)
	}()
	select {
	case err := <-answer:
		if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) {
			return nil
		}
		if err == nil {
			err = errors.New("it answers")
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("it does not answer: %w", ctx.Err())
	}
}

func stack() string { return string(debug.Stack()) }
