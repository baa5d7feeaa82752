package store

import "sync"

const (
	// maxUnflushed is how many full tables may wait in memory to be written.
	maxUnflushed = 8
	// stopWrites is where Pebble itself would make a batch wait, never reached. A
	// batch that waits inside Pebble would wait for ever once the store has failed.
	stopWrites = 8 * maxUnflushed
	// stopLevel0 is the same for tables on disk that wait to be merged.
	stopLevel0 = 1 << 20
)

// throttle makes batches wait while Pebble has too much to write, in a place where
// a failure wakes them. Its mutex is a leaf.
type throttle struct {
	mu     sync.Mutex
	cond   *sync.Cond
	queued int // tables that wait to be written
	over   bool
}

func newThrottle() *throttle {
	t := &throttle{}
	t.cond = sync.NewCond(&t.mu)
	return t
}

// wait returns when there is room or the store has failed.
func (t *throttle) wait() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.queued >= maxUnflushed && !t.over {
		t.cond.Wait()
	}
}

// add counts n more tables in the queue, or fewer.
func (t *throttle) add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queued = max(0, t.queued+n)
	t.cond.Broadcast()
}

// end lets all through, for good.
func (t *throttle) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.cond.Broadcast()
}
