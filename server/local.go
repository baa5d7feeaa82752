package server

import (
	"context"
	"errors"
	"math"

	"holdfast/extent"
	"holdfast/fs"
	"holdfast/layout"
	"holdfast/local"
)

// startLocal opens the socket and serves it.
func (s *server) startLocal(ctx context.Context) error {
	identity := func(int) (extent.Ino, bool) { return 0, false }
	if s.mount != nil {
		identity = local.MountIdentity(s.mount.Dev())
	}
	l, err := local.New(local.Config{
		Arbiter: s.arb, FS: localFS{s.fs}, Identity: identity,
		Path: s.cfg.Socket, Group: s.cfg.Group, BreakTime: s.cfg.BreakTime, OnPass: s.fs.OnPass, Log: s.log,
		Limits: local.Limits{ReclaimTime: s.cfg.ReclaimTime, Sessions: math.MaxInt}, // the arbiter limits sessions, by user
	})
	if err != nil {
		return err
	}
	// It ends before the mount does, not when ctx says so.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.local = &localRun{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.local.done)
		s.local.err = l.Serve(run)
	}()
	return nil
}

// localRun is the running socket server.
type localRun struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
	err    error         // read after done
}

// stop ends all sessions, which gives back what they hold.
func (l *localRun) stop(ctx context.Context) error {
	l.cancel()
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return errors.Join(errors.New("sessions of the socket have not ended"), ctx.Err())
	}
}

// localFS is the filesystem as package local wants it.
type localFS struct{ *fs.FS }

var _ local.Adopter = localFS{}

func (f localFS) Attr(ctx context.Context, ino extent.Ino) (uid uint32, size int64, err error) {
	a, err := f.FS.GetAttr(ctx, fs.Caller{}, ino)
	return a.UID, a.Size, err
}

// OnHold is the file's own policy.
func (f localFS) OnHold(_ context.Context, ino extent.Ino) (layout.OnHold, error) {
	p, err := f.FS.Policies(ino)
	return p.OnHold, err
}

func (f localFS) Map(ctx context.Context, lease layout.LeaseID, ino extent.Ino, r extent.Range, write bool) ([]local.Piece, error) {
	pieces, err := f.FS.Map(ctx, lease, ino, r, write)
	if err != nil {
		return nil, err
	}
	out := make([]local.Piece, len(pieces))
	for i, p := range pieces {
		out[i] = local.Piece{Window: p.Window, Off: p.Off, FileOff: p.FileOff, Len: p.Len}
	}
	return out, nil
}

// Scrub is what holdfast scrub shows.
func (f localFS) Scrub(ctx context.Context, cursor []byte, bytes int64) (any, error) {
	return f.FS.Scrub(ctx, cursor, bytes)
}

// Defrag is what holdfast defrag shows.
func (f localFS) Defrag(ctx context.Context, c fs.Caller, ino extent.Ino, force bool) (any, error) {
	return f.FS.Defrag(ctx, c, ino, force)
}

// Evacuate is what holdfast evacuate shows.
func (f localFS) Evacuate(ctx context.Context, c fs.Caller, size int64, force bool) (any, error) {
	return f.FS.Evacuate(ctx, c, size, force)
}

// Orphans is what holdfast orphans shows.
func (f localFS) Orphans() []local.Orphan {
	list := f.FS.Orphans()
	out := make([]local.Orphan, len(list))
	for i, o := range list {
		out[i] = local.Orphan{Address: o.Addr, Length: o.Len, UID: o.UID, Unclaimed: o.Unclaimed, File: o.File, Path: o.Path}
	}
	return out
}

// Stat is what holdfast stat shows.
func (f localFS) Stat(ctx context.Context, ino extent.Ino) (any, error) {
	return f.FS.Stat(ctx, ino)
}

// Class says what a write into the range or its allocation would be: nothing to
// anybody if all of it is written, additive otherwise.
func (f localFS) Class(ctx context.Context, ino extent.Ino, r extent.Range) (layout.Class, error) {
	info, err := f.FS.Stat(ctx, ino)
	if err != nil {
		return layout.None, err
	}
	for _, e := range info.Extents {
		if e.State != extent.Written || e.Off > r.Off {
			continue
		}
		r.Off = max(r.Off, min(e.Range().End, r.End))
	}
	if r.Empty() {
		return layout.None, nil
	}
	return layout.Additive, nil
}
