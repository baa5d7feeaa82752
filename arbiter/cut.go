package arbiter

import (
	"context"
	"fmt"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// Cutter is a Context that can be made to let go. One that reaches blocks by windows only need not be.
type Cutter interface {
	Context
	// Cut ends, in the way that the step says, what the context reaches by the pin. After it has returned nil nothing of the context
	// reaches the blocks, however late. It must return when ctx ends: then the step's time is up, and the next is tried.
	Cut(ctx context.Context, pin PinCut) error
}

// PinCut says what a Cutter is to end, and how.
type PinCut struct {
	Pin   layout.PinID
	File  extent.Ino
	Range extent.Range
	Step  layout.CutStep
}

// cutPin is a step of the cut of a pin that is to be tried.
type cutPin struct {
	context layout.ContextID
	pin     PinCut
}

// abilities says by what the context can be cut.
func abilities(c Context, can Capabilities) (a layout.Abilities) {
	if can.ByWindow {
		return layout.ByWindow
	}
	if _, ok := c.(Cutter); !ok {
		return 0
	}
	for _, x := range []struct {
		can bool
		a   layout.Abilities
	}{
		{can.GiveBack, layout.CanGiveBack}, {can.Disassociate, layout.CanDisassociate}, {can.Fence, layout.CanFence}, {can.Kill, layout.CanKill},
	} {
		if x.can {
			a |= x.a
		}
	}
	return a
}

// cutStep tries one step of the cut of a pin, and tells the machine how it went.
func (a *Arbiter) cutStep(c cutPin) {
	var err error
	if v, ok := a.contexts.Load(c.context); ok { // else its end has taken the pin
		ctx, cancel := a.within(a.cfg.StepTime)
		err = v.(*contextEntry).context.(Cutter).Cut(ctx, c.pin)
		cancel()
	}
	if a.ctx.Err() != nil {
		return
	}
	in := layout.Input{Op: layout.OpCutPinDone, Pin: c.pin.Pin}
	if err != nil {
		in = layout.Input{Op: layout.OpCutPinFailed, Pin: c.pin.Pin, Step: c.pin.Step, Reason: err.Error()}
	}
	_, err = a.do(a.shardOf(c.pin.File), &in)
	a.warn(err)
}

// within returns a context that ends after d by the arbiter's clock, and with the arbiter.
func (a *Arbiter) within(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(a.ctx)
	t := a.cfg.Clock.NewTimer(d)
	a.spawn(func() {
		defer t.Stop()
		select {
		case <-t.C():
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// tellContexts has the contexts under a lease told that their pins are to be dropped. The handle of the lease may be closed.
// Preconditions: sh.mu is held.
func (a *Arbiter) tellContexts(sh *shard, now layout.Instant, e *layout.Effect, out *outbox) {
	info, _ := sh.m.Lease(e.Lease)
	for _, id := range info.Contexts {
		a.tellContext(id, now, e, out)
	}
}

// tellContext has a context told, if it is one that can be.
// Preconditions: sh.mu is held.
func (a *Arbiter) tellContext(id layout.ContextID, now layout.Instant, e *layout.Effect, out *outbox) {
	if v, ok := a.contexts.Load(id); ok {
		if h, ok := v.(*contextEntry).context.(Holder); ok {
			out.notices = append(out.notices, notice{h, a.event(a.raw(now, e))})
		}
	}
}

// alarm is what an operator should see: a step of a cut failed.
func alarm(e *layout.Effect) error {
	return fmt.Errorf("file %d %v, pin %d of context %d, %v: %s", e.File, e.Range, e.Pin, e.Context, e.Step, e.Reason)
}

// CutState is how far the cut of a pin is whose lease was taken away.
type CutState struct {
	Step  layout.CutStep `json:"step"`  // that is being tried, none until the next try
	Tries int            `json:"tries"` // in which all steps failed
	Until time.Time      `json:"until"` // the end of the step, or when the next try begins
}
