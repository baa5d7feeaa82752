package arbiter

import (
	"time"

	"holdfast/layout"
)

// Clock tells the time and wakes. Tests bring their own.
type Clock interface {
	Now() time.Time
	NewTimer(d time.Duration) Timer
}

// Timer fires once on C.
type Timer interface {
	C() <-chan time.Time
	Stop() bool
}

type systemClock struct{}

type systemTimer struct{ t *time.Timer }

func (systemClock) Now() time.Time                 { return time.Now() }
func (systemClock) NewTimer(d time.Duration) Timer { return systemTimer{time.NewTimer(d)} }
func (t systemTimer) C() <-chan time.Time          { return t.t.C }
func (t systemTimer) Stop() bool                   { return t.t.Stop() }

// keepTime ticks the machines when their deadlines come.
func (a *Arbiter) keepTime() {
	defer a.work.Done()
	for {
		next := never
		for _, sh := range a.shards {
			next = min(next, layout.Instant(sh.due.Load()))
		}
		var fire <-chan time.Time
		stop := func() bool { return true }
		if next != never {
			t := a.cfg.Clock.NewTimer(max(time.Duration(next-a.now()), 0))
			fire, stop = t.C(), t.Stop
		}
		select {
		case <-a.ctx.Done():
			stop()
			return
		case <-a.kick:
			stop()
		case <-fire:
			a.tick()
		}
	}
}

func (a *Arbiter) tick() {
	for _, sh := range a.shards {
		if layout.Instant(sh.due.Load()) > a.now() {
			continue
		}
		_, err := a.do(sh, &layout.Input{Op: layout.OpTick})
		a.warn(err)
	}
}
