package volume

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"

	"github.com/google/uuid"
)

const (
	// formatVersion is the version of all that lies on the device and in the store.
	// A release that changes it brings the way up from the one before.
	formatVersion = 4
	// oldVersion is what this release opens, too, and makes formatVersion. It has no
	// orphans.
	oldVersion = 3
	// dataStart is where blocks of files begin. Before it lie the superblock and
	// room for what later formats need.
	dataStart = 1 << 20
	// MinSize is the smallest device in bytes that is worth a volume.
	MinSize = dataStart + 64*extent.BlockSize
	// signatures is how far into a device other filesystems, partition tables and
	// volume managers write what they are recognised by.
	signatures = 128 << 10

	superLen = 68

	// featureSums says that blocks of files have checksums. A release that does not know
	// a feature must not open the volume.
	featureSums   = 1 << 0
	knownFeatures = featureSums
)

var (
	magic      = [8]byte{'H', 'o', 'l', 'd', 'f', 'a', 's', 't'}
	superKey   = []byte{prefixSuper}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// superblock says what volume this is. It lies in block 0 of the device, and its
// twin in the store.
type superblock struct {
	uuid uuid.UUID
	// generation is raised at each open, in the store first. It is also the term of
	// the server that opened.
	generation uint64
	size       int64 // that is used of the device
	created    int64
	features   uint64 // for ever
}

func (s *superblock) encode() []byte {
	b := append(make([]byte, 0, superLen), magic[:]...)
	b = le.AppendUint32(b, formatVersion)
	b = append(b, s.uuid[:]...)
	b = le.AppendUint64(b, s.generation)
	b = le.AppendUint64(b, uint64(s.size))
	b = le.AppendUint64(b, uint64(s.created))
	b = le.AppendUint64(b, s.features)
	b = le.AppendUint32(b, extent.BlockSize)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeSuper(b []byte) (superblock, error) {
	if len(b) < superLen || !bytes.Equal(b[:8], magic[:]) {
		return superblock{}, ErrForeign
	}
	// The version comes before the checksum: another version may have another one.
	if v := le.Uint32(b[8:]); v != formatVersion && v != oldVersion {
		return superblock{}, fmt.Errorf("version %d, this release knows %d: %w", v, formatVersion, ErrVersion)
	}
	if le.Uint32(b[superLen-4:]) != crc32.Checksum(b[:superLen-4], castagnoli) {
		return superblock{}, fmt.Errorf("checksum of the superblock: %w", ErrCorrupt)
	}
	s := superblock{
		uuid:       uuid.UUID(b[12:28]),
		generation: le.Uint64(b[28:]),
		size:       int64(le.Uint64(b[36:])),
		created:    int64(le.Uint64(b[44:])),
		features:   le.Uint64(b[52:]),
	}
	if f := s.features &^ knownFeatures; f != 0 {
		return superblock{}, fmt.Errorf("features %#x: %w", f, ErrVersion)
	}
	if bs := le.Uint32(b[60:]); bs != extent.BlockSize || s.size < MinSize {
		return superblock{}, fmt.Errorf("block size %d, size %d: %w", bs, s.size, ErrCorrupt)
	}
	return s, nil
}

// readDeviceSuper returns ErrBlank if the device holds nothing.
func readDeviceSuper(dev device.Device) (superblock, error) {
	if dev.Size() < extent.BlockSize {
		return superblock{}, fmt.Errorf("device of %d bytes: %w", dev.Size(), ErrForeign)
	}
	b := make([]byte, min(signatures, dev.Size()))
	if _, err := dev.ReadAt(b, 0); err != nil {
		return superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	if isZero(b) {
		return superblock{}, ErrBlank
	}
	return decodeSuper(b)
}

func writeDeviceSuper(dev device.Device, s *superblock) error {
	b := make([]byte, extent.BlockSize)
	copy(b, s.encode())
	if _, err := dev.WriteAt(b, 0); err != nil {
		return err
	}
	return dev.Sync()
}

func readStoreSuper(st store.Reader) (superblock, error) {
	b, err := st.Get(superKey)
	if errors.Is(err, store.ErrNotFound) {
		return superblock{}, fmt.Errorf("no superblock: %w", ErrForeign)
	}
	if err != nil {
		return superblock{}, err
	}
	// The version comes before the seal, too.
	s, err := decodeSuper(b)
	if err == nil {
		_, err = unseal(superKey, b)
	}
	return s, err
}

func isZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Verify says whether dev and st are one volume that this release can open. It
// alters nothing, and works on a store that is open for reading only.
func Verify(dev device.Device, st store.Reader) error {
	_, _, err := verify(dev, st)
	return err
}

// verify returns the superblocks of device and store.
func verify(dev device.Device, st store.Reader) (onDev, inStore superblock, err error) {
	if onDev, err = readDeviceSuper(dev); err != nil {
		return onDev, inStore, fmt.Errorf("device: %w", err)
	}
	if dev.Size() < onDev.size {
		return onDev, inStore, fmt.Errorf("device has %d bytes of %d: %w", dev.Size(), onDev.size, ErrTruncated)
	}
	if inStore, err = readStoreSuper(st); err != nil {
		return onDev, inStore, fmt.Errorf("store: %w", err)
	}
	// The store goes first when the size changes, too.
	resized := onDev.generation == inStore.generation
	if onDev.uuid != inStore.uuid || onDev.features != inStore.features || onDev.size != inStore.size && !resized {
		return onDev, inStore, fmt.Errorf("device is of volume %s (%d bytes), store of %s (%d bytes): %w",
			onDev.uuid, onDev.size, inStore.uuid, inStore.size, ErrMismatch)
	}
	if dev.Size() < inStore.size {
		return onDev, inStore, fmt.Errorf("device has %d bytes of %d: %w", dev.Size(), inStore.size, ErrTruncated)
	}
	// The store goes first at each open: one ahead is a crash between the two.
	if d := inStore.generation - onDev.generation; d > 1 {
		return onDev, inStore, fmt.Errorf("device is at generation %d, store at %d: %w",
			onDev.generation, inStore.generation, ErrGeneration)
	}
	return onDev, inStore, nil
}

// Creatable says whether Create would make a volume of dev and st, or why not. It
// alters nothing, and works on a store that is open for reading only.
func Creatable(dev device.Device, st store.Reader) error {
	if err := creatable(dev, st); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	return nil
}

// Create makes a volume on a blank device and an empty store. A device that holds
// anything else is refused with ErrExists or ErrForeign.
func Create(dev device.Device, st store.Store, o Options) error {
	if err := Creatable(dev, st); err != nil {
		return err
	}
	now := time.Now().UnixNano()
	s := &superblock{uuid: uuid.New(), size: extent.RoundDown(dev.Size()), created: now}
	if o.DataChecksums {
		s.features |= featureSums
	}
	root := Attr{
		Mode: dirMode | 0o755, UID: o.UID, GID: o.GID, Nlink: 2, Parent: extent.RootIno,
		Atime: now, Mtime: now, Ctime: now, Btime: now,
	}
	var b batch
	b.Put(superKey, s.encode())
	b.Put(inodeKey(extent.RootIno), encodeAttr(&root))
	if err := sealed(st).Apply(&b); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if err := st.Sync(); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	// The device comes last: until then it is blank, and Create may be tried again.
	if err := dev.Reserve(0, dataStart); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	if err := writeDeviceSuper(dev, s); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	return nil
}

func creatable(dev device.Device, st store.Reader) error {
	if dev.Size() < MinSize {
		return fmt.Errorf("%d bytes, at least %d are needed: %w", dev.Size(), MinSize, ErrTooSmall)
	}
	switch _, err := readDeviceSuper(dev); {
	case err == nil, errors.Is(err, ErrVersion), errors.Is(err, ErrCorrupt):
		return fmt.Errorf("device: %w", ErrExists)
	case !errors.Is(err, ErrBlank):
		return fmt.Errorf("device: %w", err)
	}
	// A store of generation 0 is what a Create that did not finish left.
	switch s, err := readStoreSuper(st); {
	case err == nil && s.generation == 0:
		return nil
	case err == nil, errors.Is(err, ErrVersion), errors.Is(err, ErrCorrupt):
		return fmt.Errorf("store: %w", ErrExists)
	case !errors.Is(err, ErrForeign):
		return fmt.Errorf("store: %w", err)
	}
	foreign := false
	err := st.Scan([]byte{1}, nil, func(k, v []byte) (bool, error) {
		foreign = true
		return false, nil
	})
	if err == nil && foreign {
		err = fmt.Errorf("store is not empty: %w", ErrForeign)
	}
	return err
}
