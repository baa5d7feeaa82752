package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"holdfast/wire"
)

// Context stands for the object of another subsystem through which blocks are
// reached, and is this process's copy of its handle. It owns pins.
type Context struct {
	s    *Session
	id   uint64
	name string

	mu   sync.Mutex
	file *os.File
	pins map[*Pin]struct{}
	done bool
}

// Register registers a context. real is the object it stands for, nil for Memory; the
// server looks at it and keeps no copy. An io_uring is looked at from outside, because
// the kernel does not let it be passed: the server has to be of root or the same user.
func (s *Session) Register(ctx context.Context, kind Kind, real *os.File) (*Context, error) {
	var parts []part
	var err error
	req := &wire.Register{Kind: kind}
	switch {
	case real == nil:
		parts, err = s.call(ctx, wire.OpRegister, req)
	case kind == IOUring:
		if req.Number, err = numberOf(real); err == nil {
			parts, err = s.call(ctx, wire.OpRegister, req)
		}
		runtime.KeepAlive(real) // the server looks at it while the call waits
	default:
		parts, err = s.callAbout(ctx, real, wire.OpRegister, req)
	}
	if err != nil {
		return nil, err
	}
	var reply wire.RegisterReply
	if len(parts) != 1 || reply.Decode(parts[0].body) != nil {
		return nil, errors.Join(fmt.Errorf("REGISTER: answer of %d parts: %w", len(parts), syscall.EPROTO), closeParts(parts))
	}
	h, err := s.attach(ctx, wire.ObjectContext, reply.Context, reply.Ticket)
	if err != nil {
		return nil, err
	}
	c := &Context{s: s, id: reply.Context, name: reply.Name, file: h}
	if err := s.own(c); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return c, nil
}

func numberOf(f *os.File) (n uint32, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	return n, conn.Control(func(fd uintptr) { n = uint32(fd) })
}

// ID returns the context's number in listings.
func (c *Context) ID() uint64 { return c.id }

// Name returns what the kernel calls the object.
func (c *Context) Name() string { return c.name }

// File returns the handle, which can be duplicated and passed on: the context, its
// pins and their leases live until the last copy is closed. Use SyscallConn to get at
// the number: Fd makes the file blocking.
func (c *Context) File() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.file
}

// swap gives the context another handle, and returns the one that is not needed any more.
func (c *Context) swap(f *os.File) (old *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return f
	}
	old, c.file = c.file, f
	return old
}

// pinned lists the pins.
func (c *Context) pinned() []*Pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.pins))
}

// drop forgets a pin.
func (c *Context) drop(p *Pin) error {
	c.mu.Lock()
	_, has := c.pins[p]
	delete(c.pins, p)
	c.mu.Unlock()
	if !has {
		return nil
	}
	return p.lease.memory.unref()
}

// Pin says that the blocks of the range may be reached through the context at any
// time from now on. The lease must cover range and access.
func (c *Context) Pin(ctx context.Context, l *Lease, r Range, a Access) (*Pin, error) {
	if r.Empty() || r.Off < 0 {
		return nil, fmt.Errorf("pin of %v: %w", r, syscall.EINVAL)
	}
	var reply wire.ID
	req := wire.Pin{Context: c.id, Lease: l.ID(), Range: r, Access: a}
	if err := c.s.ask(ctx, wire.OpPin, &req, &reply); err != nil {
		return nil, err
	}
	p := &Pin{s: c.s, context: c, lease: l, r: r, access: a}
	p.id.Store(reply.ID)
	c.keep(p)
	return p, nil
}

// keep notes a pin, which keeps the memory of its lease.
func (c *Context) keep(p *Pin) {
	p.lease.memory.ref()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pins == nil {
		c.pins = make(map[*Pin]struct{})
	}
	c.pins[p] = struct{}{}
}

// Close closes this copy of the handle. If it was the last, the context and its pins
// end: do it when the object it stands for is closed, not before.
func (c *Context) Close() error {
	c.mu.Lock()
	if c.done {
		c.mu.Unlock()
		return nil
	}
	c.done = true
	file := c.file
	c.mu.Unlock()
	c.s.disown(c)
	err := file.Close()
	for _, p := range c.pinned() {
		err = errors.Join(err, c.drop(p))
	}
	return err
}

// Pin is a long-term reference to blocks.
type Pin struct {
	s       *Session
	context *Context
	lease   *Lease
	r       Range
	access  Access
	id      atomic.Uint64
}

// ID returns the pin's number in listings.
func (p *Pin) ID() uint64 { return p.id.Load() }

// Unpin ends the pin. The hardware must not reach the blocks through it any more.
func (p *Pin) Unpin(ctx context.Context) error {
	if err := p.s.ask(ctx, wire.OpUnpin, &wire.ID{ID: p.ID()}, &wire.Empty{}); err != nil {
		return err
	}
	return p.context.drop(p)
}
