package arbiter

import (
	"cmp"
	"slices"

	"holdfast/extent"
	"holdfast/layout"
)

// Leases lists leases in order of names.
func (a *Arbiter) Leases(f Filter) []LeaseInfo {
	found := []LeaseInfo{}
	for _, sh := range a.shardsOf(f) {
		sh.mu.Lock()
		infos := sh.m.Leases(f.File)
		sh.mu.Unlock()
		for i := range infos {
			if info := a.leaseInfo(&infos[i]); f.matches(info.Session, info.PID) {
				info.Path = a.storage.Path(info.File)
				info.Unentitled = info.Unbreakable && a.isUnentitled(info.ID)
				found = append(found, info)
			}
		}
	}
	slices.SortFunc(found, func(x, y LeaseInfo) int { return cmp.Compare(x.ID, y.ID) })
	return found
}

// Pins lists pins in order of names.
func (a *Arbiter) Pins(f Filter) []PinInfo {
	found := []PinInfo{}
	for _, sh := range a.shardsOf(f) {
		sh.mu.Lock()
		infos := sh.m.Pins(f.File)
		sh.mu.Unlock()
		for i := range infos {
			p := &infos[i]
			pid, program := a.who(p.Session)
			if !f.matches(p.Session, pid) {
				continue
			}
			kind, name := a.whichContext(p.Context)
			pin := PinInfo{
				ID: p.ID, File: p.File, Path: a.storage.Path(p.File), Range: RangeOf(p.Range), Access: p.Access,
				Lease: p.Lease, Context: p.Context, ContextKind: kind, ContextName: name, Session: p.Session, PID: pid,
				Program: program, Unattended: p.Unattended, Unclaimed: a.isUnclaimed(p.Session),
			}
			for _, r := range p.Orphaned {
				pin.Orphaned = append(pin.Orphaned, RangeOf(r))
			}
			if p.Cutting {
				pin.Cutting = &CutState{p.Step, p.Tries, a.time(p.Deadline)}
			}
			found = append(found, pin)
		}
	}
	slices.SortFunc(found, func(x, y PinInfo) int { return cmp.Compare(x.ID, y.ID) })
	return found
}

// Contexts lists contexts in order of names. Filter.File keeps those that have pins on the file.
func (a *Arbiter) Contexts(f Filter) []ContextInfo {
	pins := map[layout.ContextID]int{}
	for _, sh := range a.shardsOf(f) {
		sh.mu.Lock()
		infos := sh.m.Pins(f.File)
		sh.mu.Unlock()
		for i := range infos {
			pins[infos[i].Context]++
		}
	}
	found := []ContextInfo{}
	a.contexts.Range(func(_, v any) bool {
		e := v.(*contextEntry)
		s := e.session()
		if !f.matches(s.id, s.info.PID) || f.File != 0 && pins[e.id] == 0 {
			return true
		}
		info := e.info
		info.ID, info.Session, info.PID, info.Pins = e.id, s.id, s.info.PID, pins[e.id]
		found = append(found, info)
		return true
	})
	slices.SortFunc(found, func(x, y ContextInfo) int { return cmp.Compare(x.ID, y.ID) })
	return found
}

// Sessions lists sessions in order of names. Filter.File keeps those that hold something on the file.
func (a *Arbiter) Sessions(f Filter) []SessionInfo {
	found := []SessionInfo{}
	a.sessions.Range(func(_, v any) bool {
		s := v.(*session)
		if !f.matches(s.id, s.info.PID) {
			return true
		}
		info := s.info
		info.Ended, info.Unclaimed = s.ended.Load(), s.unclaimed.Load()
		holds := false
		for i, sh := range a.shards {
			if !s.opened[i].Load() {
				continue
			}
			sh.mu.Lock()
			leases, _, pins := sh.m.Use(s.id)
			holds = holds || f.File != 0 && sh.m.Weight(f.File, s.id) > 0
			sh.mu.Unlock()
			info.Leases += leases
			info.Pins += pins
		}
		if f.File == 0 || holds {
			found = append(found, info)
		}
		return true
	})
	contexts := map[layout.SessionID]int{}
	a.contexts.Range(func(_, v any) bool {
		contexts[v.(*contextEntry).session().id]++
		return true
	})
	for i := range found {
		found[i].Contexts = contexts[found[i].ID]
	}
	slices.SortFunc(found, func(x, y SessionInfo) int { return cmp.Compare(x.ID, y.ID) })
	return found
}

func (f Filter) matches(s layout.SessionID, pid int32) bool {
	return (f.Session == 0 || f.Session == s) && (f.PID == 0 || f.PID == pid)
}

func (a *Arbiter) shardsOf(f Filter) []*shard {
	if f.File != 0 {
		return []*shard{a.shardOf(f.File)}
	}
	return a.shards
}

// who names the process and program of a session.
func (a *Arbiter) who(id layout.SessionID) (pid int32, program string) {
	if v, ok := a.sessions.Load(id); ok {
		s := v.(*session)
		return s.info.PID, s.info.Name
	}
	return 0, ""
}

func (a *Arbiter) whichContext(id layout.ContextID) (kind, name string) {
	if v, ok := a.contexts.Load(id); ok {
		info := v.(*contextEntry).info
		return info.Kind, info.Name
	}
	return "", ""
}

func (a *Arbiter) leaseInfo(l *layout.LeaseInfo) LeaseInfo {
	info := LeaseInfo{
		ID: l.ID, File: l.File, Session: l.Session, Ranges: ranges(l.Pieces), Leaving: ranges(l.Leaving), Access: l.Access,
		Mode: l.Mode, Unbreakable: l.Unbreakable, State: l.State, Seq: l.Seq, Since: a.time(l.Since), Mapped: l.Mapped,
		Closed: l.Closed, Unattended: l.Unattended, Pins: l.Pins, Contexts: l.Contexts,
	}
	info.PID, info.Program = a.who(l.Session)
	info.Unclaimed = a.isUnclaimed(l.Session)
	if u := a.accountOf(l.Session); u != nil {
		info.UID = u.uid
	}
	for _, id := range l.Holders {
		h := Holding{Session: id}
		h.PID, h.Program = a.who(id)
		info.Holders = append(info.Holders, h)
	}
	if l.Deadline != 0 {
		t := a.time(l.Deadline)
		info.Deadline = &t
	}
	return info
}

func ranges(rs []extent.Range) []Range {
	out := make([]Range, len(rs))
	for i, r := range rs {
		out[i] = RangeOf(r)
	}
	return out
}

// blockers names who is behind what the machine found.
func (a *Arbiter) blockers(found []layout.Blocker) []Blocker {
	bs := make([]Blocker, len(found))
	for i, b := range found {
		bs[i] = Blocker{
			Lease: b.Lease, Pin: b.Pin, Change: b.Change, Context: b.Context, Session: b.Session, Range: RangeOf(b.Range),
			Access: b.Access, Mode: b.Mode, Unbreakable: b.Unbreakable, Reason: b.Reason,
		}
		bs[i].PID, bs[i].Program = a.who(b.Session)
		bs[i].ContextKind, bs[i].ContextName = a.whichContext(b.Context)
	}
	return bs
}
