// Package group lets many callers share one run of a slow operation, as group
// commit does for syncs.
//
// Lock order: mu is a leaf. Nothing of the caller's is called under it.
package group

import "sync"

// Group runs one operation for all who asked before it started. The zero value
// is ready.
type Group struct {
	mu      sync.Mutex
	current *call // the last run that has started
	next    *call // the run that has not started yet, if someone waits for one
}

type call struct {
	done chan struct{}
	err  error
}

// Do returns the result of a run of fn, his or another caller's, that started
// after Do was called. The fn of all callers must do the same.
func (g *Group) Do(fn func() error) error {
	g.mu.Lock()
	before, c := g.current, g.next
	leads := c == nil
	if leads {
		c = &call{done: make(chan struct{})}
		g.next = c
	}
	g.mu.Unlock()
	if !leads {
		<-c.done
		return c.err
	}
	if before != nil {
		<-before.done
	}
	g.mu.Lock()
	g.current, g.next = c, nil // who comes from here on may have written after fn started
	g.mu.Unlock()
	defer close(c.done)
	c.err = fn()
	return c.err
}
