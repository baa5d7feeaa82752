package local

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A hub watches descriptors that are mostly silent, one goroutine for all:
// handles of leases and contexts, and the pidfds of sessions.
//
// Its callbacks run on that goroutine and must not block.
type hub struct {
	epfd   int
	wakefd int // eventfd, ends the loop
	done   chan struct{}

	mu sync.Mutex
	// watched maps the token in an epoll event to its watch. A token is never
	// used again, so an event that was already fetched for a descriptor that is
	// closed since finds nothing.
	watched map[uint64]*watch
	next    uint64
}

// A watch is one descriptor in a hub.
type watch struct {
	hub   *hub
	fd    int
	token uint64
	ready func(events uint32)
}

func newHub() (*hub, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wakefd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), unix.Close(epfd))
	}
	h := &hub{epfd: epfd, wakefd: wakefd, done: make(chan struct{}), watched: make(map[uint64]*watch), next: 1}
	if err := h.control(unix.EPOLL_CTL_ADD, wakefd, 0, unix.EPOLLIN); err != nil {
		return nil, errors.Join(err, unix.Close(wakefd), unix.Close(epfd))
	}
	go h.run()
	return h, nil
}

func (h *hub) control(op, fd int, token uint64, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	if err := unix.EpollCtl(h.epfd, op, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// add watches fd for events; ready is called for each. The caller closes fd after
// remove, not before.
func (h *hub) add(fd int, events uint32, ready func(events uint32)) (*watch, error) {
	h.mu.Lock()
	w := &watch{hub: h, fd: fd, token: h.next, ready: ready}
	h.next++
	h.watched[w.token] = w
	h.mu.Unlock()
	if err := h.control(unix.EPOLL_CTL_ADD, fd, w.token, events); err != nil {
		h.forget(w)
		return nil, err
	}
	return w, nil
}

func (h *hub) forget(w *watch) {
	h.mu.Lock()
	delete(h.watched, w.token)
	h.mu.Unlock()
}

// modify sets the events that are watched for.
func (w *watch) modify(events uint32) error {
	return w.hub.control(unix.EPOLL_CTL_MOD, w.fd, w.token, events)
}

// remove ends the watch. A call of ready may be under way still.
func (w *watch) remove() {
	w.hub.forget(w)
	// The descriptor is open, so this fails for no reason that matters.
	_ = unix.EpollCtl(w.hub.epfd, unix.EPOLL_CTL_DEL, w.fd, nil)
}

func (h *hub) run() {
	defer close(h.done)
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := unix.EpollWait(h.epfd, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return // the descriptor is closed: impossible before close
		}
		for _, ev := range events[:max(n, 0)] {
			token := uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32
			if token == 0 {
				return
			}
			h.mu.Lock()
			w := h.watched[token]
			h.mu.Unlock()
			if w != nil {
				w.ready(ev.Events)
			}
		}
	}
}

// close ends the loop and waits for it. Watched descriptors stay open.
func (h *hub) close() error {
	one := [8]byte{1}
	_, err := unix.Write(h.wakefd, one[:])
	<-h.done
	return errors.Join(err, unix.Close(h.wakefd), unix.Close(h.epfd))
}

// all returns what is watched.
func (h *hub) all() []*watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*watch, 0, len(h.watched))
	for _, w := range h.watched {
		all = append(all, w)
	}
	return all
}
