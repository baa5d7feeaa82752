package fs

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/volume"
)

// ScrubStep is what a step of a scrub has done and found.
type ScrubStep struct {
	// Next is where the next step begins; it is empty after the last one.
	Next          []byte   `json:"next,omitempty"`
	DataChecksums bool     `json:"data_checksums"` // the volume has them
	Records       int64    `json:"records"`        // of metadata that were looked at
	Files         int64    `json:"files"`          // that were looked through to the end
	Verified      int64    `json:"verified"`       // bytes that match their checksums
	Unsummed      int64    `json:"unsummed"`       // bytes that could be read and have none
	Damage        []Damage `json:"damage"`
}

// Damage is one finding of a scrub.
type Damage struct {
	Kind   string     `json:"kind"` // data, unreadable or metadata
	Inode  extent.Ino `json:"inode,omitempty"`
	Path   string     `json:"path,omitempty"`
	Offset int64      `json:"offset"` // in the file, of what is damaged
	Length int64      `json:"length,omitempty"`
	Detail string     `json:"detail"`
}

const (
	// scrubAtOnce is how much is read while a file is locked, shared.
	scrubAtOnce = 1 << 20
	// scrubMost bounds a step, and scrubFinds what it tells.
	scrubMost  = 64 << 20
	scrubFinds = 200
)

// What a cursor begins with.
const (
	atRecords = 'r' // the key behind which to go on
	atFiles   = 'f' // a file's number, and an offset in it
)

// Scrub does a step of looking for damage, from where the cursor of the step before
// says, and reads about that many bytes of content. Files are in use meanwhile. Of what is
// found in a file the path is told.
func (f *FS) Scrub(ctx context.Context, cursor []byte, bytes int64) (ScrubStep, error) {
	s := scrub{f: f, ScrubStep: ScrubStep{DataChecksums: f.vol.Info().DataChecksums, Damage: []Damage{}}}
	if bytes <= 0 || bytes > scrubMost {
		bytes = scrubMost
	}
	var err error
	switch {
	case len(cursor) == 0:
		err = s.records(ctx, nil)
	case cursor[0] == atRecords && len(cursor) > 1:
		err = s.records(ctx, cursor[1:])
	case cursor[0] == atFiles && len(cursor) == 17:
		ino, off := binary.BigEndian.Uint64(cursor[1:]), binary.BigEndian.Uint64(cursor[9:])
		err = s.files(ctx, extent.Ino(ino), int64(off&extent.Inf), bytes)
	default:
		err = fmt.Errorf("scrub: cursor of %d bytes: %w", len(cursor), syscall.EINVAL)
	}
	return s.ScrubStep, err
}

type scrub struct {
	f *FS
	ScrubStep
	room []byte
	of   extent.Ino // whose path is
	path string
}

func (s *scrub) records(ctx context.Context, after []byte) error {
	next, n, err := s.f.vol.ScrubRecords(ctx, after, func(p volume.Problem) {
		if len(s.Damage) < scrubFinds {
			s.Damage = append(s.Damage, Damage{Kind: "metadata", Inode: p.Ino, Detail: p.Detail})
		}
	})
	s.Records = int64(n)
	s.Next = append([]byte{atRecords}, next...)
	if next == nil {
		s.Next = fileCursor(0, 0)
	}
	return err
}

func fileCursor(ino extent.Ino, off int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{atFiles}, uint64(ino)), uint64(off))
}

// files goes on in file ino at off, and with the files behind it.
func (s *scrub) files(ctx context.Context, ino extent.Ino, off, bytes int64) error {
	s.room = make([]byte, min(scrubAtOnce, extent.RoundUp(bytes)))
	for read := int64(0); ; {
		if off == 0 {
			var err error
			if ino, err = s.f.vol.NextFile(ctx, ino-min(ino, 1)); err != nil || ino == 0 {
				s.Next = nil
				return err
			}
		}
		for off < extent.Inf {
			if err := ctx.Err(); err != nil {
				return err
			}
			if read >= bytes || len(s.Damage) >= scrubFinds {
				s.Next = fileCursor(ino, off)
				return nil
			}
			next, n := s.part(ctx, ino, off)
			read += max(n, extent.BlockSize) // so that a step ends where there are many empty files
			off = next
		}
		s.Files++
		ino, off = ino+1, 0
	}
}

// part looks at a part of a file, and returns where to go on and how much was read.
func (s *scrub) part(ctx context.Context, ino extent.Ino, off int64) (next, read int64) {
	var got volume.Scrubbed
	err := s.f.withInode(ino, func(i *inode) (err error) {
		i.mu.RLock()
		defer i.mu.RUnlock()
		got, err = i.n.Scrub(off, s.room)
		return err
	})
	if err != nil {
		if !volume.Missing(err) { // it was deleted meanwhile
			s.found(ctx, "metadata", ino, extent.Range{Off: off, End: off}, err.Error())
		}
		return extent.Inf, 0
	}
	s.Verified += got.Verified
	s.Unsummed += got.Unsummed
	for _, r := range got.Damaged {
		s.found(ctx, "data", ino, r, volume.ErrSum.Error())
	}
	for _, r := range got.Failed {
		s.found(ctx, "unreadable", ino, r, "the device cannot read it")
	}
	return got.Next, got.Verified + got.Unsummed + bytesOf(got.Damaged) + bytesOf(got.Failed)
}

func bytesOf(rs []extent.Range) (n int64) {
	for _, r := range rs {
		n += r.Len()
	}
	return n
}

func (s *scrub) found(ctx context.Context, kind string, ino extent.Ino, r extent.Range, detail string) {
	if s.of != ino {
		var err error
		if s.path, err = s.f.vol.PathOf(ctx, ino); err != nil {
			s.path = s.f.Path(ino)
		}
		s.of = ino
	}
	d := Damage{Kind: kind, Inode: ino, Path: s.path, Offset: r.Off, Length: r.Len(), Detail: detail}
	s.f.log.Error("scrub found damage", "kind", kind, "inode", ino, "path", d.Path, "range", r.String(), "err", detail)
	s.Damage = append(s.Damage, d)
}
