// Package server puts the rooms together from a configuration: device, store,
// volume, arbiter, filesystem, mount and local socket. It owns their start and
// their end, and has no rules of its own.
//
// It holds no lock. The order of the end is the reverse of the order of the
// start, except that the mount outlives the socket: holders give back first, so
// that what they wrote is part of what the unmount finds.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"holdfast/arbiter"
	"holdfast/fs"
	"holdfast/fuse"
	"holdfast/window"
)

// stopTimeout bounds a clean end. What is not done then is left to the recovery
// at the next start.
const stopTimeout = 30 * time.Second

// Run serves a volume until ctx is cancelled or the mount is taken away, then
// ends cleanly: it waits for requests in flight, unmounts, and makes everything
// durable. The error tells what went wrong at start or at the end.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	s := &server{cfg: cfg, log: newLogger(cfg)}
	err := s.start(ctx)
	if err == nil {
		err = s.serve(ctx)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, s.stop(end))
}

// spaceWait is how long who keeps orphans may take to let go before there is no space.
const spaceWait = time.Second

type server struct {
	cfg     Config
	log     *slog.Logger
	vol     *openVolume
	arb     *arbiter.Arbiter
	fs      *fs.FS
	mount   *fuse.Mount // nil without a mount
	local   *localRun
	metrics *metricsRun // nil without
}

func newLogger(cfg Config) *slog.Logger {
	if cfg.LogJSON {
		return slog.New(slog.NewJSONHandler(cfg.Log, nil))
	}
	return slog.New(slog.NewTextHandler(cfg.Log, nil))
}

func (s *server) start(ctx context.Context) (err error) {
	if err := s.cfg.check(ctx, s.log); err != nil {
		return err
	}
	s.tryPinning(window.Probe)
	commits := commitTimes()
	s.cfg.committed = func(d time.Duration) { commits.Observe(d.Seconds()) }
	if s.vol, err = openOrCreate(ctx, s.cfg, s.log); err != nil {
		return err
	}
	s.arb = arbiter.New(arbiter.Config{
		BreakTime: s.cfg.BreakTime, MountWait: s.cfg.MountWait, OnHold: s.cfg.OnHold, AllowKill: s.cfg.AllowKill, RecallOnChown: s.cfg.RecallOnChown, Log: s.log,
		Limits: s.cfg.limits(),
	})
	if s.fs, err = fs.New(s.vol.Volume, s.arb, fs.Options{
		OnClose: s.cfg.OnClose, OnPass: s.cfg.OnPass, Boot: s.cfg.bootID(), Log: s.log,
		OnSpace: func(holds []uint64) { s.arb.AskForSpace(holds, spaceWait) }, SpaceWait: spaceWait,
	}); err != nil {
		return err
	}
	if err := s.fs.Restore(ctx); err != nil {
		return err
	}
	if err := s.startMount(ctx); err != nil {
		return err
	}
	if err := s.startMetrics(commits); err != nil {
		return err
	}
	return s.startLocal(ctx)
}

// startMount mounts. Where that cannot be had, it says why and what would help,
// and goes on without.
func (s *server) startMount(ctx context.Context) error {
	if s.cfg.NoMount {
		return nil
	}
	m, err := fuse.New(ctx, s.fs, s.cfg.mountOptions(s.log))
	var unavailable *fuse.UnavailableError
	if errors.As(err, &unavailable) {
		s.log.Warn("no mount: the socket alone is served", "reason", unavailable.Reason, "remedy", unavailable.Remedy)
		return nil
	}
	s.mount = m
	return err
}

func (c *Config) mountOptions(log *slog.Logger) fuse.Options {
	root := os.Geteuid() == 0
	return fuse.Options{
		Path: c.Mount, Own: c.Mount == c.ownMount(), Over: c.MountOver, Source: c.Dir, Socket: c.Socket,
		Direct: root, AllowOther: root, MaxFiles: c.MaxFiles, Log: log,
	}
}

// serve waits for the end.
func (s *server) serve(ctx context.Context) error {
	a := Addresses{Socket: s.cfg.Socket}
	if s.mount != nil {
		a.Mount = s.mount.Path()
		fmt.Fprintf(s.cfg.Out, "mounted at %s\n", a.Mount)
	}
	if s.metrics != nil {
		a.Metrics = s.metrics.addr.String()
		fmt.Fprintf(s.cfg.Out, "metrics at http://%s/metrics\n", a.Metrics)
	}
	fmt.Fprintf(s.cfg.Out, "socket at %s\n", a.Socket)
	if s.cfg.Ready != nil {
		s.cfg.Ready(a)
	}
	var unmounted <-chan struct{}
	if s.mount != nil {
		unmounted = s.mount.Done()
	}
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
		return nil
	case <-unmounted:
		s.log.Info("somebody took the mount away: stopping", "mount", a.Mount)
		return nil
	case <-s.local.done:
		return errors.New("the socket is not served any more")
	}
}

// stop ends what start began, also when it began only a part.
func (s *server) stop(ctx context.Context) error {
	var errs []error
	if s.metrics != nil {
		errs = append(errs, s.metrics.stop(ctx))
	}
	if s.local != nil {
		errs = append(errs, s.local.stop(ctx))
	}
	if s.mount != nil {
		errs = append(errs, s.mount.Unmount(ctx))
	}
	if s.fs != nil {
		errs = append(errs, s.fs.Close(ctx))
	}
	if s.arb != nil {
		s.arb.Close()
	}
	if s.vol != nil {
		errs = append(errs, s.vol.close())
	}
	return errors.Join(errs...)
}
