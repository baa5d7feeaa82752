package fs

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/volume"
)

// flusher makes what was changed durable from time to time, until Close cancels
// ctx and flushes all itself.
func (f *FS) flusher(ctx context.Context, o Options) {
	defer close(f.stopped)
	ticks := o.Ticks
	if ticks == nil {
		t := time.NewTicker(o.FlushEvery)
		defer t.Stop()
		ticks = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			f.flushAndLog(ctx)
		}
	}
}

func (f *FS) flushAndLog(ctx context.Context) {
	if f.vol.FailReason() != nil {
		return // that was logged, and nothing will be written any more
	}
	if err := f.Sync(ctx); err != nil && ctx.Err() == nil {
		f.log.Error("flush failed", "err", err)
	}
}

// Sync makes durable all that was changed before it was called, as syncfs(2).
func (f *FS) Sync(ctx context.Context) error {
	f.dirtyMu.Lock()
	todo := f.dirty
	f.dirty = make(map[*inode]struct{}, len(todo))
	f.dirtyMu.Unlock()
	var held []*inode
	for i := range todo {
		if f.hold(i) {
			held = append(held, i)
		}
	}
	var errs []error
	err := f.vol.SyncAll(ctx, func(sync func(*volume.Inode, *sync.RWMutex) error) error {
		for _, i := range held {
			i.dirty.Store(false) // what is changed from now on is for the next flush
			errs = append(errs, f.writeBackAll(i, (*inode).soiledParts))
			i.lock() // brings the times up to date
			i.mu.Unlock()
			if err := sync(i.n, &i.mu); err != nil {
				return err
			}
		}
		return nil
	})
	for _, i := range held {
		if err != nil {
			i.dirty.Store(false) // those it did not come to are not in the set any more
			f.changed(i)
		}
		f.put(i)
	}
	return errors.Join(append(errs, err)...)
}

// hold takes a reference to an inode of the dirty set, unless it is being deleted.
func (f *FS) hold(i *inode) bool {
	s := f.shard(i.ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i.dying {
		return false
	}
	i.refs++
	return true
}

// closeWindows writes back and detaches all windows.
func (f *FS) closeWindows(ctx context.Context) error {
	var all []*inode
	for k := range f.shards {
		s := &f.shards[k]
		s.mu.Lock()
		for _, i := range s.inodes {
			if !i.dying && i.loadErr == nil {
				i.refs++
				all = append(all, i)
			}
		}
		s.mu.Unlock()
	}
	var errs []error
	for _, i := range all {
		i.winMu.Lock()
		for lease := range i.users {
			f.unexpose(i, lease, everything)
		}
		errs = append(errs, f.detach(i, everything, true))
		clear(i.users)
		i.winMu.Unlock()
		f.put(i)
	}
	return errors.Join(append(errs, ctx.Err())...)
}
