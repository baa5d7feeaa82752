package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"holdfast/device"
	"holdfast/store"
	"holdfast/volume"
)

// metaDir is the directory of the metadata store.
const metaDir = "meta"

// blankProbe is how much of a device must be zero for a volume to be made on it.
const blankProbe = 1 << 20

// openVolume is a volume with what lies under it.
type openVolume struct {
	*volume.Volume
	dev device.Device
	st  store.Store
}

func (v *openVolume) close() error {
	var errs []error
	if v.Volume != nil {
		errs = append(errs, v.Volume.Close())
	}
	if v.st != nil {
		errs = append(errs, v.st.Close())
	}
	if v.dev != nil {
		errs = append(errs, v.dev.Close())
	}
	return errors.Join(errs...)
}

// openOrCreate opens the volume of the configuration, after making it if there
// is none. It can be killed at any point: the device is blank until a volume is
// complete, and a blank device is where the next start begins.
func openOrCreate(ctx context.Context, cfg Config, log *slog.Logger) (*openVolume, error) {
	fresh := !there(cfg.Dir)
	// Others must be able to reach the mount and the socket in it.
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("the directory of the volume: %w", err)
	}
	v := &openVolume{}
	if err := v.open(ctx, cfg, log); err != nil {
		err = errors.Join(explain(cfg, err), v.close())
		if fresh {
			os.Remove(cfg.Dir) // fails if there is something in it
		}
		return nil, err
	}
	return v, nil
}

func (v *openVolume) open(ctx context.Context, cfg Config, log *slog.Logger) error {
	meta := filepath.Join(cfg.Dir, metaDir)
	blank, err := v.openDevice(cfg, there(meta))
	if err != nil {
		return err
	}
	if blank {
		err = v.create(meta, cfg, log)
	} else {
		err = v.openStore(meta, store.Options{
			Log:    log,
			Verify: func(r store.Reader) error { return volume.Verify(v.dev, r) },
		})
	}
	if err != nil {
		return err
	}
	v.Volume, err = volume.Open(ctx, v.dev, v.st, volume.Options{
		Log: log, DataChecksums: cfg.DataChecksums, Boot: cfg.bootID(), Committed: cfg.committed,
	})
	if err == nil && blank {
		log.Info("made a new volume", "dir", cfg.Dir, "device", cfg.Device, "size", v.dev.Size())
	}
	return err
}

// openDevice opens the device, or makes a file for it. blank says that no volume
// is on it. A device that is missing though there is metadata is an error: a new
// one would hide that one is lost.
func (v *openVolume) openDevice(cfg Config, hasMeta bool) (blank bool, err error) {
	if !there(cfg.Device) {
		if hasMeta {
			return false, errNoDevice(cfg)
		}
		dev, err := device.Create(cfg.Device, cmp.Or(cfg.Size, DefaultSize))
		if err != nil {
			return false, err
		}
		v.dev = dev
		return true, nil
	}
	dev, err := device.Open(cfg.Device)
	if err != nil {
		return false, err
	}
	v.dev = dev
	head := make([]byte, min(blankProbe, dev.Size()))
	if _, err := dev.ReadAt(head, 0); err != nil {
		return false, err
	}
	blank = len(bytes.Trim(head, "\x00")) == 0
	if st, err := os.Stat(cfg.Device); blank && cfg.Size != 0 && cfg.Size != dev.Size() && err == nil && st.Mode()&os.ModeDevice != 0 {
		return false, fmt.Errorf("the block device %s has %d bytes and is used whole: leave out --size", cfg.Device, dev.Size())
	}
	if !blank && !hasMeta {
		return false, fmt.Errorf("the device %s is not empty, and there is no metadata for it: if its content can go, wipe it first (wipefs -a, or remove the file)", cfg.Device)
	}
	return blank, nil
}

func errNoDevice(cfg Config) error {
	return fmt.Errorf("there is metadata, but no device at %s: say with --device where it is", cfg.Device)
}

// create makes a volume on the blank device. The store may be there already, as
// a server that was killed left it; volume refuses one that was in use.
func (v *openVolume) create(meta string, cfg Config, log *slog.Logger) error {
	err := v.openStore(meta, store.Options{
		Log:    log,
		Verify: func(r store.Reader) error { return volume.Creatable(v.dev, r) },
	})
	switch {
	case errors.Is(err, volume.ErrExists):
		return fmt.Errorf("there is metadata, but the device is blank: name the right one with --device, or remove %s to begin anew (%w)", meta, err)
	case errors.Is(err, store.ErrNotExist):
		st, cerr := store.Create(meta, store.Options{Log: log})
		if err = cerr; err == nil {
			v.st = st
		}
	}
	if err != nil {
		return err
	}
	return volume.Create(v.dev, v.st, volume.Options{Log: log, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), DataChecksums: cfg.DataChecksums})
}

func (v *openVolume) openStore(meta string, o store.Options) error {
	st, err := store.Open(meta, o)
	if err != nil {
		return err
	}
	v.st = st
	return nil
}

func there(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// explain adds what to do next to errors whose cause is known.
func explain(cfg Config, err error) error {
	own := cfg.Device == filepath.Join(cfg.Dir, "device")
	if errors.Is(err, device.ErrInUse) && !own {
		return fmt.Errorf("the device %s is used by another volume's server or mounted (%w): stop that, or name another with --device", cfg.Device, err)
	}
	if errors.Is(err, device.ErrInUse) || errors.Is(err, store.ErrInUse) {
		return fmt.Errorf("%s is being served already%s (%w): use that server, stop it, or name another directory", cfg.Dir, holder(cfg.Device), err)
	}
	if errors.Is(err, volume.ErrNoSums) {
		return fmt.Errorf("volume %s: %w: leave out --data-checksums, or make a new volume with it in another directory and copy the files", cfg.Dir, err)
	}
	return fmt.Errorf("volume %s: %w", cfg.Dir, err)
}

// Check looks for problems in a volume that nobody serves, with data also in what
// files hold, and reports each. It alters nothing.
func Check(ctx context.Context, cfg Config, data bool, report func(volume.Problem)) (volume.Summary, error) {
	if err := cfg.stopped(); err != nil {
		return volume.Summary{}, err
	}
	v := &openVolume{}
	sum, err := v.check(ctx, cfg, data, report)
	if err != nil {
		err = explain(cfg, err)
	}
	return sum, errors.Join(err, v.close())
}

// Repair corrects what Check finds, as volume.RepairAll does, and reports each
// correction.
func Repair(ctx context.Context, cfg Config, report func(volume.Repair)) error {
	if err := cfg.stopped(); err != nil {
		return err
	}
	v := &openVolume{}
	err := v.repair(ctx, cfg, report)
	if err != nil {
		err = explain(cfg, err)
	}
	return errors.Join(err, v.close())
}

func (v *openVolume) repair(ctx context.Context, cfg Config, report func(volume.Repair)) error {
	dev, err := device.Open(cfg.Device)
	if err != nil {
		return err
	}
	v.dev = dev
	err = v.openStore(filepath.Join(cfg.Dir, metaDir), store.Options{
		Verify: func(r store.Reader) error { return volume.Verify(v.dev, r) },
	})
	if err != nil {
		return err
	}
	return volume.RepairAll(ctx, v.dev, v.st, report)
}

// stopped completes the configuration of a volume that shall be there.
func (c *Config) stopped() error {
	if err := c.complete(); err != nil {
		return err
	}
	if meta := filepath.Join(c.Dir, metaDir); !there(meta) {
		if there(c.Device) {
			return fmt.Errorf("there is a device %s, but no metadata at %s: name the directory that holds it (a volume that was never complete has none, and holdfast serve makes it)", c.Device, meta)
		}
		return fmt.Errorf("%s holds no volume; holdfast serve makes one there", c.Dir)
	}
	if !there(c.Device) {
		return errNoDevice(*c)
	}
	return nil
}

func (v *openVolume) check(ctx context.Context, cfg Config, data bool, report func(volume.Problem)) (volume.Summary, error) {
	dev, err := device.Open(cfg.Device)
	if err != nil {
		return volume.Summary{}, err
	}
	v.dev = dev
	if err := v.openStore(filepath.Join(cfg.Dir, metaDir), store.Options{ReadOnly: true}); err != nil {
		return volume.Summary{}, err
	}
	if data {
		return volume.CheckData(ctx, v.dev, v.st, report)
	}
	return volume.Check(ctx, v.dev, v.st, report)
}
