package spec

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// The states of the model that a machine shows.
const (
	none = iota
	live
	returning
	cutting
)

// TestMachineIsInModel has random runs of layout.Machine followed by the model, step by step.
func TestMachineIsInModel(t *testing.T) {
	needSpin(t)
	const runs, steps, atOnce = 240, 250, 10 // spin is slow with long scripts
	events, all := map[string]int{}, 0
	for first := uint64(0); first < runs; first += atOnce {
		script := &strings.Builder{}
		for seed := first; seed < first+atOnce; seed++ {
			r := newRun(seed)
			for range steps {
				r.step()
			}
			r.finish()
			script.WriteString(r.script.String())
			for event, n := range r.events {
				events[event] += n
				all += n
			}
		}
		follow(t, script.String())
	}
	for _, event := range []string{ // runs without them would say little
		"Acquire", "Pin", "Map", "Submit", "Refused", "TimeUp", "Detached", "NotDetached", "Again", "Fenced", "NotFenced",
		"Orphaned", "NotOrphaned", "Crash", "Reclaim", "Reopen",
	} {
		if events[event] < 10 {
			t.Errorf("%s happened %d times only", event, events[event])
		}
	}
	t.Logf("%d runs, %d events: %v", runs, all, events)
}

// follow has the model do what the script says.
func follow(t *testing.T, script string) {
	dir := copyModel(t)
	script = "proctype script() {\n" + script + "\tprintf(\"followed to the end\\n\")\n}\n"
	if err := os.WriteFile(dir+"/script.inc", []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, dir, "spin", "-DREPLAY", "-T", "holdfast.pml") // it fails with the first assertion that does
	if err != nil || !strings.Contains(out, "followed to the end") {
		t.Fatalf("the machine did what the model cannot do: %v\n%s\n%s", err, out, scriptBefore(script, out))
	}
}

// scriptBefore returns what the script did before it stopped, as spin says.
func scriptBefore(script, out string) string {
	_, at, _ := strings.Cut(out, "script.inc:")
	n := 0
	if _, err := fmt.Sscan(at, &n); err != nil {
		return ""
	}
	lines := strings.Split(script, "\n")
	return strings.Join(lines[max(0, n-20):n], "\n")
}

// run drives one machine within the scope of the model and notes what the model has to do.
type run struct {
	m      *layout.Machine
	rand   *rand.Rand
	now    layout.Instant
	who    [2]holder
	nextID uint64
	change change
	script strings.Builder
	events map[string]int
	failed [2]bool // could not be detached, and is not tried again yet
	giveUp *giveUp // that the storage was asked for
}

// giveUp is an Orphan that is not answered yet.
type giveUp struct {
	layout.Effect
	of int // whose pin it is
}

// holder is one of the two sessions of the model, whichever of the machine it is now.
type holder struct {
	session layout.SessionID
	context layout.ContextID // 0: closed
	lease   layout.LeaseID   // 0: none
	pin     layout.PinID
	orphan  layout.PinID
	exposed bool // what it has mapped is durable
	dead    bool
	away    bool // dead to a machine that was started anew only
}

type change struct {
	id       layout.ChangeID
	caller   int
	state    int  // of the model; held stands for breaking too
	detached bool // its caller was told, or has gone
}

const (
	idle     = 0
	held     = 1
	applying = 3
	nobody   = 2
)

var policies = []layout.OnHold{layout.Fail, layout.Wait, layout.Revoke, layout.Revoke, layout.Revoke, layout.Defer, layout.Defer}

var block = extent.Range{Off: 0, End: extent.BlockSize}

func newMachine() *layout.Machine { return layout.New(layout.Config{BreakTime: 10 * time.Second}) }

func newRun(seed uint64) *run {
	r := &run{m: newMachine(), rand: rand.New(rand.NewPCG(seed, 1)), nextID: 100, events: map[string]int{}}
	for i := range r.who {
		r.open(i)
	}
	return r
}

func (r *run) open(i int) {
	r.nextID++
	r.who[i] = holder{session: layout.SessionID(r.nextID), context: layout.ContextID(r.nextID)}
	r.input(layout.Input{Op: layout.OpOpenSession, Session: r.who[i].session})
	r.register(i)
}

// register makes the context known. That of the second session reaches blocks by other ways than windows.
func (r *run) register(i int) {
	can := layout.ByWindow
	if i == 1 {
		can = layout.CanGiveBack | layout.CanFence
	}
	r.input(layout.Input{Op: layout.OpRegister, Session: r.who[i].session, Context: r.who[i].context, Can: can})
}

func (r *run) say(event string, i, a, b int) {
	r.events[event]++
	fmt.Fprintf(&r.script, "\tfeed!%s,%d,%d,%d;\n", event, i, a, b)
}

// input steps the machine and keeps up with what becomes of the change and of the leases.
func (r *run) input(in layout.Input) []layout.Effect {
	in.File = 7
	es := append([]layout.Effect(nil), r.m.Step(r.now, &in)...)
	for _, e := range es {
		switch e.Kind {
		case layout.Queued:
			r.change.id, r.change.state = e.Change, held
		case layout.Proceed:
			r.change.id, r.change.state = e.Change, applying
		case layout.Refused:
			r.change.detached = true
		case layout.Orphan:
			r.giveUp = &giveUp{e, flag(e.Pin == r.who[1].pin)}
		default:
			r.lose(e)
		}
	}
	if r.change.state != applying && r.m.Counts().Requests == 0 {
		r.change = change{}
	}
	return es
}

// lose notes what a session does not have any more.
func (r *run) lose(e layout.Effect) {
	for i := range r.who {
		h := &r.who[i]
		switch {
		case e.Kind == layout.Released && h.lease == e.Lease:
			h.lease, h.exposed = 0, false
		case e.Kind == layout.Unpinned && h.pin == e.Pin:
			h.pin = 0
		case e.Kind == layout.Unpinned && h.orphan == e.Pin:
			h.orphan = 0
		case e.Kind == layout.Orphaned && h.pin == e.Pin:
			h.pin, h.orphan, h.exposed = 0, h.pin, false
		}
	}
}

// see has the model compare what the machine shows.
func (r *run) see() {
	var state, pins, closed [2]int
	for i, h := range r.who {
		l, ok := r.m.Lease(h.lease)
		if !ok {
			continue
		}
		switch {
		case len(l.Pieces) > 0:
			state[i] = live
		case l.State == layout.StateReturning:
			state[i] = returning
		default:
			state[i] = cutting
		}
		pins[i] = l.Pins
		if l.Closed {
			closed[i] = 1
		}
	}
	r.say("Leases", state[0], state[1], r.change.state)
	r.say("Rest", pins[0]+2*pins[1], closed[0]+2*closed[1], 0)
}

func (r *run) step() {
	i := r.rand.IntN(2)
	h := &r.who[i]
	l, has := r.m.Lease(h.lease)
	switch op := r.rand.IntN(24); {
	case op <= 3 && !has && !h.dead:
		r.acquire(i)
	case op <= 5 && has && h.pin == 0 && h.orphan == 0 && !h.dead:
		es := r.input(layout.Input{Op: layout.OpPin, Session: h.session, Lease: h.lease, Context: h.context, Range: block})
		if es[0].Kind == layout.Pinned {
			h.pin = es[0].Pin
		}
		r.say("Pin", i, 0, flag(h.pin == 0))
	case op <= 7 && len(l.Pieces) > 0 && !l.Mapped && !l.Closed && !h.dead:
		r.input(layout.Input{Op: layout.OpMapped, Lease: h.lease})
		h.exposed = true
		r.say("Map", i, 0, 0)
	case op == 10 && h.pin != 0 && r.rand.IntN(3) == 0:
		r.input(layout.Input{Op: layout.OpUnpin, Session: h.session, Pin: h.pin})
		r.say("Unpin", i, 0, 0)
	case op == 10 && h.orphan != 0:
		r.input(layout.Input{Op: layout.OpUnpin, Session: h.session, Pin: h.orphan})
		r.say("DropOrphan", i, 0, 0)
	case op == 11 && len(l.Pieces) > 0 && !l.Closed && !h.dead:
		es := r.input(layout.Input{Op: layout.OpReturn, Session: h.session, Lease: h.lease, Range: block})
		r.say([]string{"Return", "Busy"}[flag(es[0].Kind == layout.Denied)], i, 0, 0)
	case op == 12 && r.rand.IntN(3) == 0 && has && !l.Closed && !h.away:
		r.input(layout.Input{Op: layout.OpCloseLease, Lease: h.lease})
		r.say("Close", i, 0, 0)
	case op == 13 || op == 14:
		r.changes()
	case op == 15 || op == 16:
		r.detach(i, l)
	case op == 17 || op == 18:
		r.tick()
	case op == 19:
		r.answerGiveUp()
	case op == 20 && r.rand.IntN(16) == 0:
		r.crash()
	case op >= 21 && (op == 21 || h.dead || h.context == 0):
		r.live(i, has)
	}
	r.see()
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (r *run) acquire(i int) {
	exclusive, unbreakable := r.rand.IntN(4) == 0, r.rand.IntN(4) == 0
	in := layout.Input{Op: layout.OpAcquire, Session: r.who[i].session, Range: block, Access: layout.Write, NoWait: true, Unbreakable: unbreakable}
	if exclusive {
		in.Mode = layout.Exclusive
	}
	if e := r.input(in)[0]; e.Kind == layout.Granted {
		r.who[i].lease = e.Lease
		r.say("Acquire", i, flag(exclusive), flag(unbreakable))
		return
	}
	r.say("Denied", i, flag(exclusive), 0)
}

// changes asks for a change, gives up the one that waits, or finishes the one that applies.
func (r *run) changes() {
	c := &r.change
	switch {
	case c.state == applying:
		id := c.id
		*c = change{}
		r.say("Done", 0, 0, 0)
		r.input(layout.Input{Op: layout.OpDone, Change: id})
	case c.state == held && !c.detached && r.rand.IntN(3) == 0:
		c.detached = true
		r.input(layout.Input{Op: layout.OpAbandon, Change: c.id})
		r.say("Abandon", 0, 0, 0)
	case c.state == idle:
		in := layout.Input{Op: layout.OpBreak, Range: block, Class: layout.Subtractive, OnHold: policies[r.rand.IntN(len(policies))]}
		c.caller = r.rand.IntN(3)
		if c.caller != nobody {
			in.Session = r.who[c.caller].session
		}
		caller := c.caller
		es := r.input(in)
		r.say([]string{"Submit", "Refused"}[flag(es[0].Kind == layout.Refused)], caller, int(in.OnHold)-1, 0)
	}
}

// detach is the storage: it answers what it was asked to detach.
func (r *run) detach(i int, l layout.LeaseInfo) {
	if len(l.Leaving) == 0 {
		return
	}
	if pin, ok := r.cutting(r.who[i].pin); ok {
		r.fence(i, pin)
		return
	}
	ops := map[layout.LeaseState][2]layout.Op{
		layout.StateReturning: {layout.OpUnmapped, layout.OpUnmapFailed},
		layout.StateCutting:   {layout.OpCutDone, layout.OpCutFailed},
	}
	if r.failed[i] {
		return
	}
	bad := flag(r.rand.IntN(4) == 0)
	r.failed[i] = bad == 1
	r.input(layout.Input{Op: ops[l.State][bad], Lease: l.ID, Range: block})
	r.say([]string{"Detached", "NotDetached"}[bad], i, 0, 0)
}

func (r *run) tick() {
	r.now = r.now.Add(time.Duration(1+r.rand.IntN(12)) * time.Second)
	late := map[layout.LeaseID]bool{}
	for _, e := range r.input(layout.Input{Op: layout.OpTick}) {
		i := flag(r.who[1].lease == e.Lease)
		switch {
		case e.Kind == layout.StepFailed && e.Step == layout.Fence && e.Pin == r.who[1].pin:
			r.say("NotFenced", 1, 0, 0)
		case e.Kind == layout.TimedOut:
			late[e.Lease] = true
			r.say("TimeUp", i, 0, 0)
		case e.Kind == layout.Cut && !late[e.Lease]:
			r.failed[i] = false
			r.say("Again", i, 0, 0)
		}
	}
}
