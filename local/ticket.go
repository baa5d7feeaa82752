package local

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"syscall"
	"time"

	"holdfast/arbiter"
	"holdfast/wire"
)

// Tickets are the one-time rights to attach a connection to a handle. An expired
// one ends its handle: nobody else can.
type tickets struct {
	clock arbiter.Clock
	life  time.Duration

	mu    sync.Mutex
	open  map[wire.Ticket]*handle
	queue []queued // in the order in which they expire
	wake  chan struct{}
}

type queued struct {
	ticket  wire.Ticket
	expires time.Time
}

func newTickets(clock arbiter.Clock, life time.Duration) *tickets {
	return &tickets{clock: clock, life: life, open: make(map[wire.Ticket]*handle), wake: make(chan struct{}, 1)}
}

// issue makes a ticket for h.
func (t *tickets) issue(h *handle) wire.Ticket {
	var k wire.Ticket
	// It never fails; 128 bits from the kernel are neither guessed nor repeated.
	_, _ = rand.Read(k[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[k] = h
	h.ticket = k
	for len(t.queue) > 0 && t.open[t.queue[0].ticket] == nil {
		t.queue = t.queue[1:] // used since: the queue stays as short as the tickets are few
	}
	t.queue = append(t.queue, queued{k, t.clock.Now().Add(t.life)})
	if len(t.queue) == 1 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	return k
}

// redeem returns the handle that k is for and uses k up, if p may.
func (t *tickets) redeem(k wire.Ticket, may func(h *handle) error) (*handle, error) {
	t.mu.Lock()
	h := t.open[k]
	t.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("ticket is unknown, used or expired: %w", syscall.EACCES)
	}
	// Before it is used up: he who has got hold of another's ticket shall not be
	// able to spoil it.
	if err := may(h); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[k] != h {
		return nil, fmt.Errorf("ticket is used or expired: %w", syscall.EACCES)
	}
	delete(t.open, k)
	return h, nil
}

// revoke makes the ticket of h good for nothing.
func (t *tickets) revoke(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[h.ticket] == h {
		delete(t.open, h.ticket)
	}
}

func (t *tickets) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// next drops what has expired and returns how long until the next does.
func (t *tickets) next() (expired []*handle, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	for len(t.queue) > 0 {
		q := t.queue[0]
		h := t.open[q.ticket]
		if h != nil && q.expires.After(now) {
			return expired, q.expires.Sub(now)
		}
		t.queue = t.queue[1:]
		if h != nil {
			delete(t.open, q.ticket)
			expired = append(expired, h)
		}
	}
	t.queue = nil
	return expired, -1
}

// run expires tickets until ctx is done.
func (t *tickets) run(ctx context.Context) {
	for {
		expired, wait := t.next()
		for _, h := range expired {
			h.end()
		}
		var fired <-chan time.Time
		stop := func() bool { return true }
		if wait >= 0 {
			timer := t.clock.NewTimer(wait)
			fired, stop = timer.C(), timer.Stop
		}
		select {
		case <-ctx.Done():
			stop()
			return
		case <-fired:
		case <-t.wake:
			stop()
		}
	}
}
