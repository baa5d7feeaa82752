package arbiter

import (
	"os"

	"holdfast/extent"
	"holdfast/layout"
)

// OwnerChanged tells that a file belongs to somebody else. Unbreakable leases on it of sessions that would not get them any more are
// listed as unentitled, or, with Config.RecallOnChown, are breakable from now on. Whose they are is told by EventModify.
func (a *Arbiter) OwnerChanged(file extent.Ino, uid uint32) {
	var out outbox
	sh := a.shardOf(file)
	sh.mu.Lock()
	for _, l := range sh.m.Leases(file) {
		if !l.Unbreakable || a.entitled(l.Session, uid) {
			delete(sh.unentitled, l.ID)
			continue
		}
		if a.cfg.RecallOnChown && len(l.Holders) == 0 && !l.Closed && !l.Unattended {
			a.step(sh, &layout.Input{Op: layout.OpModify, Session: l.Session, Lease: l.ID, Access: l.Access, Mode: l.Mode}, &out)
		}
		if now, ok := sh.m.Lease(l.ID); ok && now.Unbreakable {
			sh.unentitled[l.ID] = struct{}{}
		}
	}
	sh.mu.Unlock()
	a.warn(a.flush(&out))
}

// entitled reports whether a session may have an unbreakable lease on a file of the user.
func (a *Arbiter) entitled(id layout.SessionID, owner uint32) bool {
	v, ok := a.sessions.Load(id)
	if !ok {
		return false
	}
	uid := v.(*session).info.UID
	return uid == owner || uid == 0 || uid == uint32(os.Geteuid())
}

// isUnentitled reports whether the lease is unbreakable, and its session would not get it any more.
func (a *Arbiter) isUnentitled(id layout.LeaseID) bool {
	sh := a.shardFor(uint64(id))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, found := sh.unentitled[id]
	return found
}
