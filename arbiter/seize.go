package arbiter

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"holdfast/layout"
)

// Seize takes a lease from its holder at once, unbreakable and pinned. It returns when nothing of the lease is left; or with EAGAIN
// when ctx ends before, and the cut goes on.
//
// Preconditions: the caller was found to be the owner of the file or an administrator.
func (a *Arbiter) Seize(ctx context.Context, lease layout.LeaseID) error {
	sh := a.shardFor(uint64(lease))
	var out outbox
	sh.mu.Lock()
	end := sh.end(lease)
	e := a.step(sh, &layout.Input{Op: layout.OpSeize, Lease: lease}, &out)
	if e.Kind == layout.Denied {
		delete(sh.ends, lease)
	}
	sh.mu.Unlock()
	a.warn(a.flush(&out))
	if e.Kind == layout.Denied {
		return &Refused{Errno: e.Errno, Reason: e.Reason}
	}
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("lease %d is still being cut: %w", lease, syscall.EAGAIN)
	case <-a.ctx.Done():
		return fmt.Errorf("lease %d is still being cut: %w", lease, syscall.ESHUTDOWN)
	}
}

// end returns what is closed when the lease is gone.
// Preconditions: sh.mu is held.
func (sh *shard) end(lease layout.LeaseID) <-chan struct{} {
	ch := sh.ends[lease]
	if ch == nil {
		ch = make(chan struct{})
		sh.ends[lease] = ch
	}
	return ch
}

// Expire ends a session, wherever its client is, and takes all that it holds: hangUp is called once it is known to nobody as
// alive, and then all its leases are seized. It returns when nothing of them is left; or as Seize when ctx ends before. Of a session that
// has ended already what is left is taken; ESRCH if nothing is known of it.
//
// Preconditions: the caller is an administrator.
func (a *Arbiter) Expire(ctx context.Context, id layout.SessionID, hangUp func()) error {
	if _, ok := a.sessions.Load(id); !ok {
		return fmt.Errorf("session %d: %w", id, syscall.ESRCH)
	}
	a.EndSession(id)
	hangUp()
	leases := a.Leases(Filter{Session: id})
	failed := make(chan error, len(leases))
	for _, l := range leases {
		go func() { failed <- a.Seize(ctx, l.ID) }()
	}
	var first error
	for range leases {
		if err := <-failed; err != nil && !errors.Is(err, syscall.ENOENT) && first == nil {
			first = err
		}
	}
	return first
}
