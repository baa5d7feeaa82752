package layout

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"holdfast/extent"
)

// TestTranscripts runs the scripts of testdata. Each is named after a section of the contract and shows, step by step, what goes in
// and what comes of it. -rewrite writes down what comes of it now.
func TestTranscripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("scripts: %v %v", scripts, err)
	}
	for _, path := range scripts {
		t.Run(filepath.Base(path), func(t *testing.T) {
			d := &driver{m: New(Config{
				BreakTime: 10 * time.Second, MaxBreakTime: 15 * time.Second, StepTime: 5 * time.Second,
				AllowKill: strings.HasSuffix(path, "_kill.txt"),
			})}
			datadriven.RunTest(t, path, d.run)
		})
	}
}

// driver turns the commands of a script into steps.
type driver struct {
	m   *Machine
	now Instant
}

func (d *driver) run(t *testing.T, td *datadriven.TestData) string {
	in := Input{File: 7, OnHold: Fail}
	for _, arg := range td.CmdArgs {
		if err := d.arg(&in, arg); err != nil {
			td.Fatalf(t, "%s: %v", td.Pos, err)
		}
	}
	switch td.Cmd {
	case "leases":
		return renderLeases(d.m.Leases(0))
	case "pins":
		return renderPins(d.m.Pins(0))
	case "who":
		errno, wait := d.m.Would(in.File, in.Range, in.Class, in.OnHold, in.Session)
		return fmt.Sprintf("errno=%d wait=%v\n", errno, wait) +
			renderBlockers(d.m.Blockers(in.File, in.Range, in.Class, in.Session, 0))
	}
	op, ok := map[string]Op{
		"open-session": OpOpenSession, "end-session": OpEndSession, "acquire": OpAcquire, "modify": OpModify,
		"return": OpReturn, "close-lease": OpCloseLease, "mapped": OpMapped, "unmapped": OpUnmapped,
		"unmap-failed": OpUnmapFailed, "cut-done": OpCutDone, "cut-failed": OpCutFailed, "cut-pin-done": OpCutPinDone, "cut-pin-failed": OpCutPinFailed, "seize": OpSeize, "orphaned": OpOrphaned,
		"orphan-failed": OpOrphanFailed, "register": OpRegister,
		"close-context": OpCloseContext, "pin": OpPin, "unpin": OpUnpin, "break": OpBreak, "done": OpDone,
		"abandon": OpAbandon, "tick": OpTick, "claim": OpClaim, "share": OpShare, "restore": OpRestore, "resume": OpResume,
	}[td.Cmd]
	if !ok {
		td.Fatalf(t, "%s: no command %q", td.Pos, td.Cmd)
	}
	in.Op = op
	out := renderEffects(d.m.Step(d.now, &in))
	if err := CheckInvariants(d.m); err != nil {
		td.Fatalf(t, "%s: %v", td.Pos, err)
	}
	return out
}

func (d *driver) arg(in *Input, arg datadriven.CmdArg) error {
	val := ""
	if len(arg.Vals) > 0 {
		val = arg.Vals[0]
	}
	num, _ := strconv.ParseUint(val, 10, 64)
	switch arg.Key {
	case "at":
		at, err := time.ParseDuration(val)
		d.now = Instant(at)
		return err
	case "session":
		in.Session = SessionID(num)
	case "owner":
		in.Owner = OwnerID(num)
	case "file":
		in.File = extent.Ino(num)
	case "lease":
		in.Lease = LeaseID(num)
	case "context":
		in.Context = ContextID(num)
	case "pin":
		in.Pin = PinID(num)
	case "change":
		in.Change = ChangeID(num)
	case "request":
		in.Request = RequestID(num)
	case "range":
		off, length, _ := strings.Cut(val, "+")
		o, err := strconv.ParseInt(off, 10, 64)
		if err != nil {
			return err
		}
		in.Range = extent.Range{Off: o, End: extent.Inf}
		if length != "inf" {
			n, err := strconv.ParseInt(length, 10, 64)
			in.Range.End = o + n
			return err
		}
	case "write":
		in.Access = Write
	case "exclusive":
		in.Mode = Exclusive
	case "unbreakable":
		in.Unbreakable = true
	case "nowait":
		in.NoWait = true
	case "class":
		return in.Class.UnmarshalText([]byte(val))
	case "on-hold":
		return in.OnHold.UnmarshalText([]byte(val))
	case "on-pass-share":
		in.OnPass = Share
	case "drop-own":
		in.DropOwn = true
	case "by-window":
		in.Can |= ByWindow
	case "can":
		var s CutStep
		err := s.UnmarshalText([]byte(val))
		in.Can |= 1 << s
		return err
	case "step":
		return in.Step.UnmarshalText([]byte(val))
	case "because":
		in.Reason = val
	case "on-close-abort":
		in.OnClose = Abort
	case "on-close-block":
		in.OnClose = Block
	default:
		return fmt.Errorf("no argument %q", arg.Key)
	}
	return nil
}

func effectName(k EffectKind) string {
	return []string{
		"", "granted", "modified", "denied", "queued", "proceed", "refused", "notify", "timed-out", "returned", "unmap", "cut", "cut-pin",
		"step-failed", "revoked", "released", "transferred", "pinned", "unpinned", "claimed", "moved", "joined", "left", "ended", "persist", "orphan", "orphaned",
	}[k]
}

func renderEffects(es []Effect) string {
	if len(es) == 0 {
		return "nothing\n"
	}
	var b strings.Builder
	for _, e := range es {
		fmt.Fprintf(&b, "%s", effectName(e.Kind))
		for _, id := range []struct {
			name string
			id   uint64
		}{
			{"change", uint64(e.Change)}, {"request", uint64(e.Request)}, {"lease", uint64(e.Lease)}, {"pin", uint64(e.Pin)},
			{"context", uint64(e.Context)}, {"session", uint64(e.Session)},
		} {
			if id.id != 0 {
				fmt.Fprintf(&b, " %s=%d", id.name, id.id)
			}
		}
		if !e.Range.Empty() {
			fmt.Fprintf(&b, " %v", e.Range)
		}
		switch e.Kind {
		case Granted, Modified, Joined:
			fmt.Fprintf(&b, " %v %v", e.Access, e.Mode)
			if e.Unbreakable {
				b.WriteString(" unbreakable")
			}
			fmt.Fprintf(&b, " seq=%d", e.Seq)
		case Pinned:
			fmt.Fprintf(&b, " %v", e.Access)
		case CutPin:
			fmt.Fprintf(&b, " step=%v until=%v", e.Step, time.Duration(e.Deadline))
		case StepFailed:
			fmt.Fprintf(&b, " step=%v", e.Step)
		case Notify:
			fmt.Fprintf(&b, " class=%v ask=%v until=%v seq=%d", e.Class, e.Ask, time.Duration(e.Deadline), e.Seq)
		}
		if e.Errno != 0 {
			fmt.Fprintf(&b, " %s", errnoName(e))
		}
		if e.Reason != "" {
			fmt.Fprintf(&b, " (%s)", e.Reason)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func renderLeases(ls []LeaseInfo) string {
	if len(ls) == 0 {
		return "none\n"
	}
	var b strings.Builder
	for _, l := range ls {
		fmt.Fprintf(&b, "lease=%d file=%d session=%d %v %v %v", l.ID, l.File, l.Session, l.Pieces, l.Access, l.Mode)
		if l.Unbreakable {
			b.WriteString(" unbreakable")
		}
		fmt.Fprintf(&b, " %v seq=%d", l.State, l.Seq)
		if l.Leaving != nil {
			fmt.Fprintf(&b, " leaving=%v", l.Leaving)
		}
		if l.Deadline != 0 {
			fmt.Fprintf(&b, " until=%v", time.Duration(l.Deadline))
		}
		if l.Closed {
			b.WriteString(" closed")
		}
		if l.Unattended {
			b.WriteString(" unattended")
		}
		if l.Holders != nil {
			fmt.Fprintf(&b, " holders=%v", l.Holders)
		}
		if l.Pins > 0 {
			fmt.Fprintf(&b, " pins=%d contexts=%v", l.Pins, l.Contexts)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func renderPins(ps []PinInfo) string {
	if len(ps) == 0 {
		return "none\n"
	}
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "pin=%d file=%d lease=%d context=%d session=%d %v %v", p.ID, p.File, p.Lease, p.Context, p.Session, p.Range, p.Access)
		if p.Unattended {
			b.WriteString(" unattended")
		}
		if p.Orphaned != nil {
			fmt.Fprintf(&b, " orphaned=%v", p.Orphaned)
		}
		if p.Cutting {
			fmt.Fprintf(&b, " cutting step=%v tries=%d until=%v", p.Step, p.Tries, time.Duration(p.Deadline))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func renderBlockers(bs []Blocker) string {
	var b strings.Builder
	for _, x := range bs {
		fmt.Fprintf(&b, "lease=%d pin=%d change=%d session=%d %v: %s\n", x.Lease, x.Pin, x.Change, x.Session, x.Range, x.Reason)
	}
	return b.String()
}
