package test

import "golang.org/x/sys/unix"

// Deeds of those who were passed a handle.

// Claim claims the context with the number Count, whose handle was received as Name.
func (p *Deeds) Claim(d Do, _ *Done) error {
	c, err := p.session.Claim(p.ctx, uint64(d.Count), p.copies[d.Name])
	if err == nil {
		p.contexts[d.Name] = c
	}
	return errorText(err)
}

// UnpinAll ends all pins of a context, those too that it had when it was claimed.
func (p *Deeds) UnpinAll(d Do, done *Done) error {
	pins, err := p.contexts[d.Name].Pins(p.ctx)
	if err != nil {
		return errorText(err)
	}
	for _, pin := range pins {
		if err := pin.Unpin(p.ctx); err != nil {
			return errorText(err)
		}
	}
	done.N = int64(len(pins))
	return nil
}

// Share joins those who hold the lease with the number Count, whose handle was received.
func (p *Deeds) Share(d Do, _ *Done) (err error) {
	p.lease, err = p.session.Share(p.ctx, uint64(d.Count), p.copies[d.Name], p.file)
	return errorText(err)
}

// HungUp says whether the server has ended its side of a copy of a handle.
func (p *Deeds) HungUp(d Do, done *Done) error {
	return errorText(withFD(p.copies[d.Name], func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, 0)
		if fds[0].Revents&unix.POLLHUP != 0 {
			done.N = 1
		}
		return err
	}))
}
