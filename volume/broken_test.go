package volume_test

import (
	"errors"
	"slices"
	"testing"

	"holdfast/device"
	"holdfast/internal/crashtest"
	"holdfast/store"
	"holdfast/volume"
)

// deafDevice does not flush.
type deafDevice struct{ device.Device }

func (deafDevice) Sync() error { return nil }

// deafStore does not sync.
type deafStore struct{ store.Store }

func (deafStore) Sync() error { return nil }

// late flushes the device only when the store has synced what depends on it.
type late struct {
	device.Device
	owed bool
}

func (l *late) Sync() error {
	l.owed = true
	return nil
}

type lateStore struct {
	store.Store
	dev *late
}

func (s lateStore) Sync() error {
	err := s.Store.Sync()
	if err == nil && s.dev.owed {
		s.dev.owed = false
		err = s.dev.Device.Sync()
	}
	return err
}

// hasty forgets each intent record as soon as it is there.
type hasty struct{ store.Store }

func (s hasty) Apply(b *store.Batch) error {
	if err := s.Store.Apply(b); err != nil {
		return err
	}
	forget := store.Batch{Term: b.Term}
	err := s.Scan([]byte{'t'}, []byte{'t' + 1}, func(k, _ []byte) (bool, error) {
		forget.Delete(slices.Clone(k))
		return true, nil
	})
	if err != nil || forget.Ops() == 0 {
		return err
	}
	return s.Store.Apply(&forget)
}

// releasing forgets the records of orphaned blocks as soon as they are there.
type releasing struct{ store.Store }

func (s releasing) Apply(b *store.Batch) error {
	if err := s.Store.Apply(b); err != nil {
		return err
	}
	forget := store.Batch{Term: b.Term}
	err := s.Scan([]byte{'h'}, []byte{'h' + 1}, func(k, _ []byte) (bool, error) {
		forget.Delete(slices.Clone(k))
		return forget.Ops() < store.MaxOps, nil
	})
	if err != nil || forget.Ops() == 0 {
		return err
	}
	return s.Store.Apply(&forget)
}

// TestBrokenIsFound breaks what the promises rest on, one at a time: the crash tests
// must notice, each where it should.
func TestBrokenIsFound(t *testing.T) {
	type wrap = func(device.Device, store.Store) (device.Device, store.Store)
	for name, c := range map[string]struct {
		workload string
		o        crashtest.Options
		want     error
	}{
		"a device that does not flush": {"overwrite", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return deafDevice{d}, s
		})}, crashtest.ErrForeign},
		"a device that does not flush, new blocks": {"append", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return deafDevice{d}, s
		})}, crashtest.ErrForeign},
		"a store that does not sync": {"names", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return d, deafStore{s}
		})}, crashtest.ErrNames},
		"conversion before the flush": {"append", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			l := &late{Device: d}
			return l, lateStore{s, l}
		})}, crashtest.ErrForeign},
		"no intent record, truncate": {"truncate-many", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return d, hasty{s}
		})}, crashtest.ErrHalf},
		"no intent record, punch": {"punch-many", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return d, hasty{s}
		})}, crashtest.ErrHalf},
		// Of these the half that is done shows as bytes where they do not belong.
		"no intent record, clone": {"clone-over-many", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return d, hasty{s}
		})}, crashtest.ErrForeign},
		"no intent record, collapse": {"collapse-many", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return d, hasty{s}
		})}, crashtest.ErrForeign},
		"no intent record, insert": {"insert-many", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return d, hasty{s}
		})}, crashtest.ErrLost},
		"no busy list, defrag": {"defrag", crashtest.Options{After: (*volume.Volume).SettleEarly}, crashtest.ErrForeign},
		"no orphan records": {"defer", crashtest.Options{Wrap: wrap(func(d device.Device, s store.Store) (device.Device, store.Store) {
			return d, releasing{s}
		})}, crashtest.ErrReleased},
		"no busy list, cloned":       {"clone", crashtest.Options{After: (*volume.Volume).SettleEarly}, crashtest.ErrForeign},
		"no busy list":               {"reuse", crashtest.Options{After: (*volume.Volume).SettleEarly}, crashtest.ErrForeign},
		"no busy list, never synced": {"reuse-idle", crashtest.Options{After: (*volume.Volume).SettleEarly}, crashtest.ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := crashtest.Workloads()
			wl := all[slices.IndexFunc(all, func(w crashtest.Workload) bool { return w.Name == c.workload })]
			n, err := crashtest.Record(t, wl, c.o).Exhaust(6)
			if !errors.Is(err, c.want) {
				t.Fatalf("%d crashes found %v; want %v", n, err, c.want)
			}
			t.Logf("crash %d: %v", n, err)
		})
	}
}
