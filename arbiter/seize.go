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

// SeizeAll seizes all leases of a session, and returns when nothing of them is left; or as Seize when ctx ends before.
//
// Preconditions: the caller is an administrator.
func (a *Arbiter) SeizeAll(ctx context.Context, id layout.SessionID) error {
	var ids []layout.LeaseID
	for _, l := range a.Leases(Filter{Session: id}) {
		ids = append(ids, l.ID)
	}
	failed := make(chan error, len(ids))
	for _, l := range ids {
		go func() { failed <- a.Seize(ctx, l) }()
	}
	var first error
	for range ids {
		if err := <-failed; err != nil && !errors.Is(err, syscall.ENOENT) && first == nil {
			first = err
		}
	}
	return first
}
