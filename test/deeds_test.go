package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/client"
	"holdfast/internal/pinprobe"
)

// Deeds are what an actor can do: a program that reaches one file directly. Each
// method is one step of it, in the words of the contract.
type Deeds struct {
	ctx      context.Context
	file     *os.File
	session  *client.Session
	lease    *client.Lease
	all      []*client.Lease // that it has: an actor may hold several files
	mapping  *client.Mapping
	umem     *pinprobe.Umem
	ring     *pinprobe.Ring
	contexts map[string]*client.Context
	sigio    chan os.Signal
	copies   map[string]*os.File // of handles, from other processes

	inherited []byte // a mapping from another process
	stamps    *stamper
	siege     *siege
	model     *modelProcess
}

func newDeeds() *Deeds {
	return &Deeds{ctx: context.Background(), contexts: map[string]*client.Context{}, copies: map[string]*os.File{}}
}

// Open opens the file and connects to its server.
func (p *Deeds) Open(d Do, _ *Done) error { return p.open(d.Path, os.O_RDWR) }

// OpenReadOnly opens the file for reading and connects to its server.
func (p *Deeds) OpenReadOnly(d Do, _ *Done) error { return p.open(d.Path, os.O_RDONLY) }

func (p *Deeds) open(path string, flags int) (err error) {
	if p.file, err = os.OpenFile(path, flags, 0); err != nil {
		return errorText(err)
	}
	p.session, err = client.ForFile(p.ctx, p.file)
	return errorText(err)
}

// BecomeOrdinary makes the actor a process of a user who owns nothing, for good.
func (p *Deeds) BecomeOrdinary(Do, *Done) error {
	const nobody = 65534
	return errorText(errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)))
}

// Lease takes a lease on [Off, Off+Len); Len 0 means to infinity.
func (p *Deeds) Lease(d Do, done *Done) (err error) {
	p.lease, err = p.session.Lease(p.ctx, p.file, rangeOf(d), d.Lease)
	if err == nil {
		done.N = int64(p.lease.ID())
		p.all = append(p.all, p.lease)
	}
	return errorText(err)
}

func rangeOf(d Do) client.Range {
	if d.Len == 0 {
		return client.Range{Off: d.Off, End: client.Inf}
	}
	return client.Range{Off: d.Off, End: d.Off + d.Len}
}

// Map maps [Off, Off+Len) of the lease; Len 0 means all of it.
func (p *Deeds) Map(d Do, done *Done) (err error) {
	if d.Len == 0 {
		p.mapping, err = p.lease.Map(p.ctx)
	} else {
		p.mapping, err = p.lease.MapRange(p.ctx, rangeOf(d))
	}
	if err == nil {
		done.N = int64(len(p.mapping.Bytes()))
	}
	return errorText(err)
}

// Mem returns what the mapped memory shows.
func (p *Deeds) Mem(d Do, done *Done) error {
	done.Data = append([]byte(nil), p.mapping.Bytes()[d.Off:d.Off+d.Len]...)
	return nil
}

// Store writes into the mapped memory.
func (p *Deeds) Store(d Do, _ *Done) error {
	copy(p.mapping.Bytes()[d.Off:], d.Data)
	return nil
}

// Umem gives the mapped memory to an AF_XDP socket.
func (p *Deeds) Umem(Do, *Done) (err error) {
	p.umem, err = pinprobe.NewUmem(p.mapping.Bytes())
	return errorText(err)
}

// Ring registers the mapped memory as a buffer of an io_uring.
func (p *Deeds) Ring(Do, *Done) (err error) {
	p.ring, err = pinprobe.NewRing(p.mapping.Bytes())
	return errorText(err)
}

// Register registers the socket, the ring, or the process's own use of the
// memory as a context, and returns the name that the kernel gives it.
func (p *Deeds) Register(d Do, done *Done) error {
	var real *os.File
	switch d.Kind {
	case client.XDP:
		real = dupFile(p.umem.FD())
	case client.IOUring:
		real = dupFile(p.ring.FD())
	}
	if real != nil {
		defer real.Close()
	}
	c, err := p.session.Register(p.ctx, d.Kind, real)
	if err != nil {
		return errorText(err)
	}
	p.contexts[d.Name] = c
	done.Text, done.N = c.Name(), int64(c.ID())
	return nil
}

func dupFile(fd int) *os.File {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		panic(err) // the descriptor is the actor's own
	}
	return os.NewFile(uintptr(n), "copy")
}

// Pin pins [Off, Off+Len) through a context.
func (p *Deeds) Pin(d Do, done *Done) error {
	pin, err := p.contexts[d.Name].Pin(p.ctx, p.lease, rangeOf(d), client.Write)
	if err == nil {
		done.N = int64(pin.ID())
	}
	return errorText(err)
}

// Munmap unmaps the memory.
func (p *Deeds) Munmap(Do, *Done) error { return errorText(p.mapping.Close()) }

// CloseData closes the data descriptor.
func (p *Deeds) CloseData(Do, *Done) error { return errorText(p.file.Close()) }

// CloseLease closes the lease handle.
func (p *Deeds) CloseLease(Do, *Done) error { return errorText(p.lease.Close()) }

// CloseContext closes the handle of a context.
func (p *Deeds) CloseContext(d Do, _ *Done) error { return errorText(p.contexts[d.Name].Close()) }

// CloseDevices closes the real descriptors.
func (p *Deeds) CloseDevices(Do, *Done) error {
	var errs []error
	if p.umem != nil {
		errs = append(errs, p.umem.Close())
	}
	if p.ring != nil {
		errs = append(errs, p.ring.Close())
	}
	return errorText(errors.Join(errs...))
}

// CloseSession ends the session.
func (p *Deeds) CloseSession(Do, *Done) error { return errorText(p.session.Close()) }

// RingOut has the ring write out its registered buffer and returns what came:
// what a device sees in the pages that were pinned.
func (p *Deeds) RingOut(d Do, done *Done) error {
	f, err := scratch()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := p.ring.WriteFixed(f, 0, int(d.Off), int(d.Len)); err != nil {
		return errorText(err)
	}
	done.Data = make([]byte, d.Len)
	_, err = f.ReadAt(done.Data, 0)
	return errorText(err)
}

// RingIn has the ring read Data into its registered buffer, as a device would.
func (p *Deeds) RingIn(d Do, _ *Done) error {
	f, err := scratch()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(d.Data, 0); err != nil {
		return errorText(err)
	}
	n, err := p.ring.ReadFixed(f, 0, int(d.Off), len(d.Data))
	if err == nil && n != len(d.Data) {
		err = fmt.Errorf("%d of %d bytes", n, len(d.Data))
	}
	return errorText(err)
}

func scratch() (*os.File, error) {
	fd, err := unix.MemfdCreate("scratch", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "scratch"), nil
}

// SendHandle passes a copy of a handle to the other actor of the pair: of the
// context Name, or of the lease if there is no name.
func (p *Deeds) SendHandle(d Do, _ *Done) error {
	f := p.lease.File()
	if d.Name != "" {
		f = p.contexts[d.Name].File()
	}
	return errorText(withFD(f, func(fd int) error {
		return unix.Sendmsg(pairFD, []byte(d.Name+"."), unix.UnixRights(fd), nil, 0)
	}))
}

// pairFD is the socket to the other actor of a pair.
const pairFD = 3

// ReceiveHandle takes a handle that the other actor has passed.
func (p *Deeds) ReceiveHandle(d Do, _ *Done) error {
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(pairFD, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return errorText(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return fmt.Errorf("no handle came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return err
	}
	p.copies[d.Name] = os.NewFile(uintptr(fds[0]), "handle")
	return nil
}

// CloseCopy closes a copy of a handle.
func (p *Deeds) CloseCopy(d Do, _ *Done) error { return errorText(p.copies[d.Name].Close()) }

func withFD(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	return errors.Join(raw.Control(func(fd uintptr) { derr = do(int(fd)) }), derr)
}

// AwaitPoll waits with poll(2) until the lease handle has something to say, and
// returns it.
func (p *Deeds) AwaitPoll(_ Do, done *Done) error {
	err := withFD(p.lease.File(), func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, int(patience.Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if err == nil && n == 0 {
				err = unix.ETIMEDOUT
			}
			return err
		}
	})
	if err != nil {
		return errorText(err)
	}
	return p.ReadEvent(Do{}, done)
}

// ReadEvent reads the next event of the lease.
func (p *Deeds) ReadEvent(_ Do, done *Done) (err error) {
	done.Event, err = p.lease.ReadEvent()
	return errorText(err)
}

// AskSIGIO asks the kernel for SIGIO when the lease handle has something to say.
func (p *Deeds) AskSIGIO(Do, *Done) error {
	p.sigio = make(chan os.Signal, 1)
	signal.Notify(p.sigio, syscall.SIGIO)
	return errorText(withFD(p.lease.File(), func(fd int) error {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETOWN, os.Getpid()); err != nil {
			return err
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_ASYNC)
		}
		return err
	}))
}

// AwaitSIGIO waits for that signal, and returns the event that caused it.
func (p *Deeds) AwaitSIGIO(_ Do, done *Done) error {
	select {
	case <-p.sigio:
		return p.ReadEvent(Do{}, done)
	case <-time.After(patience):
		return errors.New("no SIGIO came")
	}
}

// Return gives back [Off, Off+Len) of the lease.
func (p *Deeds) Return(d Do, _ *Done) error {
	return errorText(p.lease.Return(p.ctx, rangeOf(d)))
}

// Commit makes what was written directly content; N is how far the file reaches.
func (p *Deeds) Commit(d Do, _ *Done) error {
	return errorText(p.lease.Commit(p.ctx, rangeOf(d), -1))
}

// Truncate is truncate(2), again after EINTR: the Go runtime sends its threads signals.
func (p *Deeds) Truncate(d Do, _ *Done) error { return errorText(os.Truncate(d.Path, d.Len)) }

// ChangeTruncate truncates through the library, which may wait for long.
func (p *Deeds) ChangeTruncate(d Do, _ *Done) error {
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		return errorText(err)
	}
	defer f.Close()
	s := p.session
	if s == nil || d.Other {
		if s, err = client.ForFile(p.ctx, f); err != nil {
			return errorText(err)
		}
		defer s.Close()
	}
	if d.Wait != 0 {
		d.Change.Wait = d.Wait
	}
	return errorText(s.Truncate(p.ctx, f, d.Len, d.Change))
}

// WriteAt writes with write(2), as any program would.
func (p *Deeds) WriteAt(d Do, _ *Done) error {
	f, err := os.OpenFile(d.Path, os.O_WRONLY, 0)
	if err != nil {
		return errorText(err)
	}
	_, err = f.WriteAt(d.Data, d.Off)
	return errorText(errors.Join(err, f.Close()))
}

// Run runs a program as a child of the actor. Its status is N, its standard
// error Text.
func (p *Deeds) Run(d Do, done *Done) error {
	out, err := exec.Command("sh", "-c", d.Path).CombinedOutput()
	done.Text = string(out)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		done.N, err = int64(exit.ExitCode()), nil
	}
	return err
}
