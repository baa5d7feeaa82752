package fs

import (
	"context"
	"encoding/json"

	"holdfast/arbiter"
	"holdfast/extent"
	"holdfast/volume"
)

// FileInfo is what an administrator sees of a file. As JSON it has names of its
// own, which do not change with the types of this program.
type FileInfo struct {
	Path    string
	Attr    Attr
	Extents []extent.Extent // what is in a window has the window's address
	More    bool            // there are more than MaxExtents
	// DataChecksums: written extents of the device have checksums. Windows have none.
	DataChecksums bool
	// Unsummed is what on the device has none nevertheless, MaxExtents ranges at most: it was overwritten
	// in place, under a pin or where there was no space.
	Unsummed []extent.Range
	Leases   []arbiter.LeaseInfo
	Pins     []arbiter.PinInfo
}

// MaxExtents bounds how many extents Stat returns.
const MaxExtents = 4096

// Stat describes a file with its extents, leases and pins.
func (f *FS) Stat(ctx context.Context, ino extent.Ino) (FileInfo, error) {
	var info FileInfo
	err := f.withInode(ino, func(i *inode) error {
		if err := i.describe(&info); err != nil || i.regular() != nil {
			return err
		}
		return i.unsummed(ctx, &info)
	})
	if err != nil {
		return FileInfo{}, err
	}
	info.Path = f.Path(ino)
	info.DataChecksums = f.vol.Info().DataChecksums
	info.Leases = f.arb.Leases(arbiter.Filter{File: ino})
	info.Pins = f.arb.Pins(arbiter.Filter{File: ino})
	return info, nil
}

func (i *inode) describe(info *FileInfo) (err error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if info.Attr, err = i.snapshot(); err != nil || i.regular() != nil {
		return err
	}
	return i.n.Extents(extent.Range{Off: 0, End: extent.Inf}, func(e extent.Extent) bool {
		if info.More = len(info.Extents) == MaxExtents; !info.More {
			info.Extents = append(info.Extents, e)
		}
		return !info.More
	})
}

// unsummed goes through the extents in steps, so that it holds nobody up for long.
func (i *inode) unsummed(ctx context.Context, info *FileInfo) error {
	for pos := int64(0); pos < extent.Inf && len(info.Unsummed) < MaxExtents; {
		if err := ctx.Err(); err != nil {
			return err
		}
		i.mu.RLock()
		some, next, err := i.n.Unsummed(pos)
		i.mu.RUnlock()
		if err != nil {
			return err
		}
		info.Unsummed = append(info.Unsummed, some[:min(len(some), MaxExtents-len(info.Unsummed))]...)
		pos = next
	}
	return nil
}

type fileJSON struct {
	Path    string              `json:"path"`
	Inode   extent.Ino          `json:"inode"`
	Mode    uint32              `json:"mode"`
	Links   uint32              `json:"links"`
	UID     uint32              `json:"uid"`
	GID     uint32              `json:"gid"`
	Size    int64               `json:"size"`
	Bytes   int64               `json:"allocated"`
	Atime   int64               `json:"atime_ns"`
	Mtime   int64               `json:"mtime_ns"`
	Ctime   int64               `json:"ctime_ns"`
	Btime   int64               `json:"btime_ns"`
	Extents []extentJSON        `json:"extents"`
	More    bool                `json:"more_extents"`
	Sums    bool                `json:"data_checksums"`
	None    []rangeJSON         `json:"without_checksum"`
	Leases  []arbiter.LeaseInfo `json:"leases"`
	Pins    []arbiter.PinInfo   `json:"pins"`
}

type rangeJSON struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

type extentJSON struct {
	Offset  int64          `json:"offset"`
	Length  int64          `json:"length"`
	Segment extent.Segment `json:"segment"` // 1: the device, else a window
	Address int64          `json:"address"`
	Written bool           `json:"written"`
	Shared  bool           `json:"shared"` // perhaps, with another range of a file
}

// MarshalJSON writes the form for programs.
func (i FileInfo) MarshalJSON() ([]byte, error) {
	a := i.Attr
	j := fileJSON{
		Path: i.Path, Inode: a.Ino, Mode: a.Mode, Links: a.Nlink, UID: a.UID, GID: a.GID, Size: a.Size, Bytes: a.Blocks * 512,
		Atime: a.Atime, Mtime: a.Mtime, Ctime: a.Ctime, Btime: a.Btime, More: i.More, Sums: i.DataChecksums,
		Extents: make([]extentJSON, 0, len(i.Extents)),
		None:    make([]rangeJSON, 0, len(i.Unsummed)),
		Leases:  append([]arbiter.LeaseInfo{}, i.Leases...), // [] and not null
		Pins:    append([]arbiter.PinInfo{}, i.Pins...),
	}
	for _, e := range i.Extents {
		j.Extents = append(j.Extents, extentJSON{e.Off, e.Len, e.Addr.Seg, e.Addr.Off, e.State == extent.Written, e.Shared})
	}
	for _, r := range i.Unsummed {
		j.None = append(j.None, rangeJSON{r.Off, r.Len()})
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (i *FileInfo) UnmarshalJSON(b []byte) error {
	var j fileJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*i = FileInfo{Path: j.Path, More: j.More, DataChecksums: j.Sums, Leases: j.Leases, Pins: j.Pins, Attr: Attr{
		Ino: j.Inode, Blocks: j.Bytes / 512,
		Attr: volume.Attr{
			Mode: j.Mode, Nlink: j.Links, UID: j.UID, GID: j.GID, Size: j.Size,
			Atime: j.Atime, Mtime: j.Mtime, Ctime: j.Ctime, Btime: j.Btime,
		},
	}}
	for _, r := range j.None {
		i.Unsummed = append(i.Unsummed, extent.Range{Off: r.Offset, End: r.Offset + r.Length})
	}
	for _, e := range j.Extents {
		state := extent.Unwritten
		if e.Written {
			state = extent.Written
		}
		i.Extents = append(i.Extents, extent.Extent{
			Off: e.Offset, Len: e.Length, Addr: extent.Addr{Seg: e.Segment, Off: e.Address}, State: state, Shared: e.Shared,
		})
	}
	return nil
}
