// Package remote simulates what reaches blocks from elsewhere: a host that has been told where the blocks of a file lie, writes to
// them whenever it likes, and lets go late, or not at all.
//
// A Host is an arbiter.Context. How it answers to each step of a cut is scripted: it can delay, refuse, and fail. A Device knows
// whose each block is, so that a write that comes too late is noticed where it does harm, and not where somebody says so.
//
// It must not know the filesystem or how a real protocol fences. Its locks are leaves.
package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/layout"
)

// ErrUnreachable is how a Host fails that was not told another way.
var ErrUnreachable = errors.New("the host cannot be reached")

// Answer is what a Host does when it is asked to let go.
type Answer struct {
	// Delay is how long it takes. Silent hosts say nothing until their time is up.
	Delay  time.Duration
	Silent bool
	// Err is what it says; nil: it has let go.
	Err error
}

// Host is a simulated remote party.
type Host struct {
	info arbiter.ContextInfo

	mu      sync.Mutex
	script  map[layout.CutStep][]Answer // the first is for the next time; the last stays
	reaches map[layout.PinID]grip
	asked   []layout.CutStep
	told    []arbiter.Event
}

// grip is what a Host can write to by one pin.
type grip struct {
	dev *Device
	r   extent.Range
}

var (
	_ arbiter.Cutter = (*Host)(nil)
	_ arbiter.Holder = (*Host)(nil)
)

// NewHost returns a host that lets go when it is asked in a way that it knows.
func NewHost(name string, can arbiter.Capabilities) *Host {
	return &Host{
		info:   arbiter.ContextInfo{Kind: "remote", Name: name, Can: can},
		script: map[layout.CutStep][]Answer{}, reaches: map[layout.PinID]grip{},
	}
}

// Info implements arbiter.Context.
func (h *Host) Info() arbiter.ContextInfo { return h.info }

// Notify implements arbiter.Holder.
func (h *Host) Notify(ev arbiter.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, ev)
}

// Told returns what it was told so far.
func (h *Host) Told() []arbiter.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]arbiter.Event(nil), h.told...)
}

// Script says how the host answers to a step, time after time. The last answer is for all times that follow.
func (h *Host) Script(s layout.CutStep, answers ...Answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.script[s] = answers
}

// Asked returns the steps that were tried so far.
func (h *Host) Asked() []layout.CutStep {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]layout.CutStep(nil), h.asked...)
}

// Grip says that the host writes to blocks of dev from now on, until it lets go of the pin.
func (h *Host) Grip(pin layout.PinID, dev *Device, r extent.Range) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reaches[pin] = grip{dev, r}
}

// Cut implements arbiter.Cutter.
func (h *Host) Cut(ctx context.Context, pin arbiter.PinCut) error {
	a := h.next(pin.Step)
	if a.Silent {
		<-ctx.Done()
		return ErrUnreachable
	}
	if a.Delay > 0 {
		t := time.NewTimer(a.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ErrUnreachable
		}
	}
	if a.Err != nil {
		return a.Err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.reaches, pin.Pin)
	return nil
}

func (h *Host) next(s layout.CutStep) Answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, s)
	as := h.script[s]
	switch len(as) {
	case 0:
		return Answer{}
	case 1:
		return as[0]
	}
	h.script[s] = as[1:]
	return as[0]
}

// Write writes to all that the host reaches, and reports a block that is another's by now.
func (h *Host) Write() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for pin, g := range h.reaches {
		if err := g.dev.write(h.info.Name, g.r); err != nil {
			return fmt.Errorf("by pin %d: %w", pin, err)
		}
	}
	return nil
}

// Device knows whose its blocks are. The zero value is nobody's.
type Device struct {
	mu    sync.Mutex
	owner map[int64]string
}

// Give makes the blocks of r an owner's.
func (d *Device) Give(r extent.Range, owner string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owner == nil {
		d.owner = map[int64]string{}
	}
	for off := r.Off; off < r.End; off += extent.BlockSize {
		d.owner[off] = owner
	}
}

func (d *Device) write(by string, r extent.Range) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for off := r.Off; off < r.End; off += extent.BlockSize {
		if o := d.owner[off]; o != by {
			return fmt.Errorf("%s writes to the block at %d, which is %q's", by, off, o)
		}
	}
	return nil
}
