package arbiter

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

const (
	maxLookups    = 16                     // readers of /proc at once
	lookupLimit   = 100 * time.Millisecond // for the whole way up
	maxGeneration = 64
)

// SessionOf returns the session that a process speaks for: as the process of the session, as one it admitted, or as a descendant of
// either. 0 if none, or if that cannot be found out in time.
func (a *Arbiter) SessionOf(pid int32) layout.SessionID {
	if s := a.sessionsOf(pid); len(s) > 0 {
		return s[0]
	}
	return 0
}

// own picks, of the sessions a process speaks for, the one that holds something on the file.
func (a *Arbiter) own(pid int32, file extent.Ino) layout.SessionID {
	ids := a.sessionsOf(pid)
	if len(ids) == 0 {
		return 0
	}
	if len(ids) > 1 {
		sh := a.shardOf(file)
		sh.mu.Lock()
		defer sh.mu.Unlock()
		best, most := ids[0], -1
		for _, id := range ids {
			if weight := sh.m.Weight(file, id); weight > most {
				best, most = id, weight
			}
		}
		return best
	}
	return ids[0]
}

func (a *Arbiter) sessionsOf(pid int32) []layout.SessionID {
	if ids := a.sessionsAt(pid); ids != nil || pid <= 0 {
		return ids
	}
	if a.noSessions() {
		return nil
	}
	timer := a.cfg.Clock.NewTimer(lookupLimit)
	defer timer.Stop()
	for range maxGeneration {
		process, parent, ok := a.lineage(pid, timer.C())
		if !ok {
			return nil
		}
		for _, p := range [2]int32{process, parent} {
			if ids := a.sessionsAt(p); ids != nil {
				return ids
			}
		}
		if pid = parent; pid <= 1 {
			return nil
		}
	}
	return nil
}

// lineage asks who a thread's process and parent are.
func (a *Arbiter) lineage(pid int32, timeout <-chan time.Time) (process, parent int32, ok bool) {
	both, ok := look(a, timeout, func() (both [2]int32, err error) {
		both[0], both[1], err = a.cfg.Lineage(pid)
		return both, err
	})
	return both[0], both[1], ok
}

// look asks /proc, but not longer than it may: reading what it says of a process that is in execve can hang with the very request
// that asks. A reader that hangs keeps its token, so there are never many.
func look[T any](a *Arbiter, timeout <-chan time.Time, read func() (T, error)) (seen T, ok bool) {
	select {
	case a.lookups <- struct{}{}:
	default:
		return seen, false
	}
	type result struct {
		seen T
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		v, err := read()
		<-a.lookups
		ch <- result{v, err}
	}()
	select {
	case r := <-ch:
		return r.seen, r.err == nil
	case <-timeout:
	case <-a.ctx.Done():
	}
	select {
	case r := <-ch: // the machine was busy elsewhere, not /proc
		return r.seen, r.err == nil
	default:
		return seen, false
	}
}

func (a *Arbiter) noSessions() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.byPID) == 0
}

func (a *Arbiter) sessionsAt(pid int32) []layout.SessionID {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ids []layout.SessionID
	for _, s := range a.byPID[pid] {
		ids = append(ids, s.id)
	}
	return ids
}

// procLineage reads /proc. The kernel names the caller of a FUSE request by thread, sessions are processes: Tgid leads from one to the other.
func procLineage(pid int32) (process, parent int32, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/status")
	if err != nil {
		return 0, 0, fmt.Errorf("lineage of %d: %w", pid, err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		key, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 32)
		if err != nil {
			continue
		}
		switch string(key) {
		case "Tgid":
			process = int32(n)
		case "PPid":
			return process, int32(n), nil
		}
	}
	return 0, 0, fmt.Errorf("lineage of %d: no PPid in its status", pid)
}
