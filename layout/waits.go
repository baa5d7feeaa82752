package layout

import "sync"

// Waits knows which sessions wait for which, over all machines that share it. A session that would wait for
// itself, by whatever way round, gets EDEADLK instead. Its lock is a leaf: it is taken within a step and
// nothing is locked under it.
type Waits struct {
	mu       sync.Mutex
	requests map[uint64]wait        // by name of the request
	sessions map[SessionID][]uint64 // requests of a session that waits
}

type wait struct {
	session SessionID
	holders []SessionID
}

// NewWaits returns an empty graph.
func NewWaits() *Waits {
	return &Waits{requests: map[uint64]wait{}, sessions: map[SessionID][]uint64{}}
}

// set says that a request of the session now waits for the holders. It returns false, and forgets the request, if that closes a circle.
func (w *Waits) set(id uint64, session SessionID, holders []SessionID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(id)
	if w.reaches(holders, session, map[SessionID]bool{}) {
		return false
	}
	w.requests[id] = wait{session, holders}
	w.sessions[session] = append(w.sessions[session], id)
	return true
}

// drop says that the request does not wait for holders any more.
func (w *Waits) drop(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(id)
}

func (w *Waits) remove(id uint64) {
	old, ok := w.requests[id]
	if !ok {
		return
	}
	delete(w.requests, id)
	ids := w.sessions[old.session]
	for i, o := range ids {
		if o == id {
			ids = append(ids[:i], ids[i+1:]...)
			break
		}
	}
	if len(ids) == 0 {
		delete(w.sessions, old.session)
	} else {
		w.sessions[old.session] = ids
	}
}

// reaches reports whether one of the holders is, or waits for, the session.
func (w *Waits) reaches(holders []SessionID, session SessionID, seen map[SessionID]bool) bool {
	for _, h := range holders {
		if h == session {
			return true
		}
		if seen[h] {
			continue
		}
		seen[h] = true
		for _, id := range w.sessions[h] {
			if w.reaches(w.requests[id].holders, session, seen) {
				return true
			}
		}
	}
	return false
}
