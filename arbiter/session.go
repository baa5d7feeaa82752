package arbiter

import (
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"

	"holdfast/layout"
)

// session is one client. A shard hears of it with its first request there.
type session struct {
	id      layout.SessionID
	owner   layout.OwnerID // the same for all sessions of one process
	account *account
	info    SessionInfo
	ended   atomic.Bool
	opened  []atomic.Bool // by shard, written under its lock
	open    atomic.Int32  // shards that know it

	admitted map[int32]bool
	swept    bool // ended, and all shards were told

	former    *former     // what it had under a former server; nil if it is not from then
	unclaimed atomic.Bool // it is from then, and its process is not back
}

// OpenSession makes a client known. The arbiter fills in ID and Since.
func (a *Arbiter) OpenSession(info SessionInfo) (layout.SessionID, error) {
	if a.ctx.Err() != nil {
		return 0, fmt.Errorf("open session: %w", syscall.ESHUTDOWN)
	}
	s := &session{
		id: layout.SessionID(a.names.Add(1)), info: info, opened: make([]atomic.Bool, len(a.shards)), admitted: map[int32]bool{},
		account: a.account(info.UID),
	}
	if err := s.account.take(LimitSessions, 0, 1); err != nil {
		a.refusedBy(LimitSessions, a.shards[0], rawEvent{pid: info.PID}, err)
		return 0, err
	}
	s.info.ID, s.info.Since, s.info.Ended = s.id, a.cfg.Clock.Now(), false
	s.owner = layout.OwnerID(s.id)
	a.mu.Lock()
	if info.PID != 0 {
		for _, o := range a.byPID[info.PID] {
			if o.info.PID == info.PID { // and lives, so the number means the same process
				s.owner = o.owner
			}
		}
		a.byPID[info.PID] = append(a.byPID[info.PID], s)
	}
	a.sessions.Store(s.id, s)
	a.mu.Unlock()
	a.recordSession(EventSessionOpen, s)
	return s.id, nil
}

// EndSession tells that the client died or hung up. It is not waited for any more. Its handles that have no copies elsewhere are closed by whoever
// owns them; what has copies lives on, unattended.
func (a *Arbiter) EndSession(id layout.SessionID) {
	if f, err := a.formerSession(id); err == nil && f.unclaimed.Load() {
		a.warn(a.Forsake(a.ctx, id)) // an administrator's word: its connection ended with the former server
		return
	}
	s, err := a.session(id)
	if err != nil || s.ended.Swap(true) {
		return
	}
	s.account.put(LimitSessions, 0, 1)
	a.mu.Lock()
	a.forgetPID(s.info.PID, s)
	for pid := range s.admitted {
		a.forgetPID(pid, s)
	}
	a.mu.Unlock()
	a.endInShards(s)
	a.leaveFormer(s)
	a.recordSession(EventSessionEnd, s)
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.open.Load() == 0 {
		a.sessions.Delete(id)
	}
}

// endInShards tells the shards that know the session that it has ended.
func (a *Arbiter) endInShards(s *session) {
	s.ended.Store(true)
	for i, sh := range a.shards {
		var out outbox
		sh.mu.Lock()
		if s.opened[i].Load() { // requests after this find it ended
			a.step(sh, &layout.Input{Op: layout.OpEndSession, Session: s.id}, &out)
		}
		for file := range sh.closing { // it may have been the closer's
			sh.pinsLess(file)
		}
		sh.mu.Unlock()
		a.warn(a.flush(&out))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.swept = true
}

// sessionLeft notes that a shard has forgotten the session. The last one ends it.
func (a *Arbiter) sessionLeft(id layout.SessionID) {
	v, ok := a.sessions.Load(id)
	if !ok {
		return
	}
	s := v.(*session)
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.open.Add(-1) == 0 && s.swept {
		a.sessions.Delete(id)
	}
}

// Admit makes a process count as the session's own. The caller has proved who it is by a pidfd and tells when it dies, by Dismiss.
func (a *Arbiter) Admit(id layout.SessionID, pid int32) error {
	s, err := a.session(id)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !s.admitted[pid] && pid != s.info.PID && !s.ended.Load() {
		s.admitted[pid] = true
		a.byPID[pid] = append(a.byPID[pid], s)
	}
	return nil
}

// Dismiss undoes Admit.
func (a *Arbiter) Dismiss(id layout.SessionID, pid int32) {
	s, err := a.session(id)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.admitted[pid] {
		delete(s.admitted, pid)
		a.forgetPID(pid, s)
	}
}

// forgetPID takes the session from those of a process.
// Preconditions: a.mu is held.
func (a *Arbiter) forgetPID(pid int32, s *session) {
	rest := slices.DeleteFunc(a.byPID[pid], func(o *session) bool { return o == s })
	if len(rest) == 0 {
		delete(a.byPID, pid)
	} else {
		a.byPID[pid] = rest
	}
}

// session returns a session that has not ended.
func (a *Arbiter) session(id layout.SessionID) (*session, error) {
	if v, ok := a.sessions.Load(id); ok {
		if s := v.(*session); !s.ended.Load() {
			return s, nil
		}
	}
	return nil, fmt.Errorf("session %d: %w", id, syscall.ESRCH)
}

// enter makes the session known to the shard. EndSession marks it ended before it looks at the shards, so it misses none.
// Preconditions: sh.mu is held.
func (a *Arbiter) enter(sh *shard, s *session, out *outbox) error {
	if s.ended.Load() {
		return fmt.Errorf("session %d: %w", s.id, syscall.ESRCH)
	}
	if opened := &s.opened[sh.index]; !opened.Load() {
		a.step(sh, &layout.Input{Op: layout.OpOpenSession, Session: s.id, Owner: s.owner}, out)
		s.open.Add(1)
		opened.Store(true)
	}
	return nil
}

// introduce makes the session that a change comes by known to the shard: what its process has pinned there by another is its own, too.
// Preconditions: sh.mu is held.
func (a *Arbiter) introduce(sh *shard, id layout.SessionID, out *outbox) {
	if v, ok := a.sessions.Load(id); ok {
		_ = a.enter(sh, v.(*session), out) // one that has ended speaks for no process
	}
}
