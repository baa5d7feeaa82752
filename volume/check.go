package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"

	"holdfast/device"
	"holdfast/extent"
	"holdfast/store"
)

// ProblemKind says what sort of damage a Problem is.
type ProblemKind string

// The kinds of damage that Check tells apart.
const (
	BadSuperblock ProblemKind = "superblock" // device and store are not one volume
	BadRecord     ProblemKind = "record"     // a record that makes no sense
	BadExtent     ProblemKind = "extent"     // leaves the device, overlaps, or belongs to no file
	BadOwner      ProblemKind = "owner"      // the maps file → blocks and blocks → file differ
	SharedBlock   ProblemKind = "shared"     // a block with several owners of which not all know
	BadEntry      ProblemKind = "entry"      // a name that leads nowhere, or not to what it says
	BadCookie     ProblemKind = "cookie"     // a directory's two orders differ
	BadLinks      ProblemKind = "links"      // a link count that is not the number of names
	BadParent     ProblemKind = "parent"     // a directory that is not where it says, or in a loop
	BadOrphan     ProblemKind = "orphan"     // a file with names that the next open would delete, or the reverse
	BadCounter    ProblemKind = "counter"    // a number in use that would be given out again
	BadIntent     ProblemKind = "intent"     // unfinished work on a file that is not there
	BadXattr      ProblemKind = "xattr"      // extended attributes of no file, or not as many as it says
	BadSum        ProblemKind = "checksum"   // checksums of what has none
	BadOrphaned   ProblemKind = "orphaned"   // orphaned blocks that are none of the volume
	BadData       ProblemKind = "data"       // content that is not what was written, or cannot be read
)

// Problem is one finding of Check.
type Problem struct {
	Kind   ProblemKind `json:"kind"`
	Ino    extent.Ino  `json:"ino,omitempty"` // 0 if it is not about one inode
	Detail string      `json:"detail"`
}

// String is the problem for people.
func (p Problem) String() string {
	if p.Ino == 0 {
		return fmt.Sprintf("%s: %s", p.Kind, p.Detail)
	}
	return fmt.Sprintf("%s: inode %d: %s", p.Kind, p.Ino, p.Detail)
}

// Summary is what Check went through.
type Summary struct {
	Problems    int   `json:"problems"`
	Files       int   `json:"files"` // regular ones
	Directories int   `json:"directories"`
	Others      int   `json:"others"`
	Entries     int   `json:"entries"`
	Extents     int   `json:"extents"`
	Xattrs      int   `json:"xattrs"`
	Sums        int   `json:"checksums"`  // records of them
	Orphans     int   `json:"orphans"`    // files without a name that the next open deletes
	Exposures   int   `json:"exposures"`  // parts of files in the memory of others, see Exposure
	Unfinished  int   `json:"unfinished"` // operations that the next open finishes
	Total       int64 `json:"total"`      // bytes for files
	Used        int64 `json:"used"`
	Orphaned    int64 `json:"orphaned"` // no file's, but kept for who reaches them directly
	Shared      int64 `json:"shared"`   // of what is used: what has several owners, counted once
	Free        int64 `json:"free"`
	Verified    int64 `json:"verified"` // what CheckData has compared, of each file
	Unsummed    int64 `json:"unsummed"` // what it could only read
}

// String is the summary in a line for people.
func (s Summary) String() string {
	verdict := "clean"
	if s.Problems > 0 {
		verdict = fmt.Sprintf("%d problems", s.Problems)
	}
	line := fmt.Sprintf("%s: %d files, %d directories, %d others; %d entries, %d extents; %d of %d bytes used",
		verdict, s.Files, s.Directories, s.Others, s.Entries, s.Extents, s.Used, s.Total)
	if s.Orphaned > 0 {
		line += fmt.Sprintf("; %d bytes are kept for holders whose files gave them up", s.Orphaned)
	}
	if s.Verified+s.Unsummed > 0 {
		line += fmt.Sprintf("; %d bytes of content match their checksums, %d have none", s.Verified, s.Unsummed)
	}
	if s.Orphans+s.Unfinished > 0 {
		line += fmt.Sprintf("; the next start deletes %d files without a name and finishes %d operations", s.Orphans, s.Unfinished)
	}
	return line
}

// Check looks for damage: both extent maps against each other, overlaps, free
// space, names, links, orphans, counters and superblocks. What a crash may leave
// is no damage. It alters nothing, and needs a volume that nobody has open. An
// error means that it could not look everywhere.
func Check(ctx context.Context, dev device.Device, st store.Reader, report func(Problem)) (Summary, error) {
	c := newChecker(ctx, st, report)
	if err := c.check(dev); err != nil {
		return c.sum, fmt.Errorf("check: %w", err)
	}
	return c.sum, nil
}

func newChecker(ctx context.Context, st store.Reader, report func(Problem)) *checker {
	return &checker{ctx: ctx, st: sealedReader{st}, report: report, inodes: make(map[extent.Ino]*checkedInode)}
}

// check looks at the metadata.
func (c *checker) check(dev device.Device) error {
	if err := c.superblocks(dev); err != nil {
		return err
	}
	for _, pass := range []func() error{
		c.readInodes, c.readOrphans, c.readIntents, c.readXattrs, c.readEntries, c.readCookies, c.readExtents, c.readHeld, c.readOwners, c.readSums, c.readExposures, c.strangers,
		c.links, c.loops, c.counters,
	} {
		if err := pass(); err != nil {
			return err
		}
	}
	c.sum.Orphaned = c.held.bytes
	c.sum.Free = c.sum.Total - c.sum.Used - c.sum.Orphaned
	return nil
}

type checker struct {
	ctx    context.Context
	st     sealedReader
	report func(Problem)
	sum    Summary
	size   int64    // of the volume
	summed bool     // its data have checksums
	held   rangeSet // orphaned blocks that no file has, as far as the owners were read

	strange bool // the device is not the volume's, or not all of it

	inodes            map[extent.Ino]*checkedInode
	maxIno, maxCookie uint64
	maxSegment        uint64
}

type checkedInode struct {
	mode    uint32
	nlink   uint32
	parent  extent.Ino // what a directory says
	in      extent.Ino // where its name is
	names   uint32
	subdirs uint32
	xattrs  uint32 // found, and what the record says
	says    uint32
	orphan  bool
}

func (i *checkedInode) kind() uint32 { return i.mode & syscall.S_IFMT }

func (c *checker) problem(k ProblemKind, ino extent.Ino, format string, args ...any) {
	c.sum.Problems++
	c.report(Problem{k, ino, fmt.Sprintf(format, args...)})
}

// superblocks reports what verify finds. What cannot be read at all is an error:
// then there is nothing to check.
func (c *checker) superblocks(dev device.Device) error {
	s, err := readStoreSuper(c.st.Reader)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	c.size = s.size
	c.summed = s.features&featureSums != 0
	c.sum.Total = s.size - dataStart
	if _, _, err := verify(dev, c.st.Reader); err != nil {
		c.problem(BadSuperblock, 0, "%v", err)
		c.strange = true
	}
	return nil
}

// scan goes through the records with a prefix. An error of fn about a record is a
// problem.
func (c *checker) scan(prefix byte, fn func(k, v []byte) error) error {
	// One damaged record must not end the scan, so it is unsealed here.
	return c.st.Reader.Scan([]byte{prefix}, after(prefix), func(k, v []byte) (bool, error) {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		v, err := unseal(k, v)
		if err == nil {
			err = fn(k, v)
		}
		if errors.Is(err, ErrCorrupt) {
			c.problem(BadRecord, 0, "%v", err)
			err = nil
		}
		return err == nil, err
	})
}

func (c *checker) scanInos(prefix byte, fn func(ino extent.Ino, v []byte) error) error {
	return c.scan(prefix, func(k, v []byte) error {
		n, ok := numbers(k, 1)
		if !ok {
			return fmt.Errorf("key %q: %w", k, ErrCorrupt)
		}
		return fn(extent.Ino(n[0]), v)
	})
}

func (c *checker) readInodes() error {
	return c.scanInos(prefixInode, func(ino extent.Ino, v []byte) error {
		c.maxIno = max(c.maxIno, uint64(ino))
		a, err := decodeAttr(v)
		if err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
		i := &checkedInode{mode: a.Mode, nlink: a.Nlink, parent: a.Parent, says: a.Xattrs}
		c.inodes[ino] = i
		switch i.kind() {
		case syscall.S_IFREG:
			c.sum.Files++
		case syscall.S_IFDIR:
			c.sum.Directories++
		case syscall.S_IFLNK, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
			c.sum.Others++
		default:
			return fmt.Errorf("inode %d: mode %o: %w", ino, a.Mode, ErrCorrupt)
		}
		return nil
	})
}

func (c *checker) readOrphans() error {
	return c.scanInos(prefixOrphan, func(ino extent.Ino, _ []byte) error {
		c.sum.Orphans++
		i, ok := c.inodes[ino]
		if !ok {
			c.problem(BadOrphan, ino, "orphan record without inode")
			return nil
		}
		i.orphan = true
		return nil
	})
}

func (c *checker) readIntents() error {
	return c.scanInos(prefixIntent, func(ino extent.Ino, v []byte) error {
		c.sum.Unfinished++
		i, err := decodeIntent(v)
		if err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
		if _, ok := c.inodes[ino]; !ok {
			c.problem(BadIntent, ino, "unfinished %v without inode", i.kind)
		}
		if _, ok := c.inodes[i.src]; !ok && i.kind == cloning {
			c.problem(BadIntent, ino, "unfinished %v of inode %d, which is not there", i.kind, i.src)
		}
		return nil
	})
}

func (c *checker) readEntries() error {
	return c.scan(prefixEntry, func(k, v []byte) error {
		if len(k) < 10 {
			return fmt.Errorf("directory entry key %q: %w", k, ErrCorrupt)
		}
		c.sum.Entries++
		n, _ := numbers(k[:9], 1)
		dir, name := extent.Ino(n[0]), string(k[9:])
		e, err := decodeEntry(v)
		if err != nil {
			return fmt.Errorf("inode %d: name %q: %w", dir, name, err)
		}
		c.maxCookie = max(c.maxCookie, e.Cookie)
		want := encodeCookie(e, name)
		switch got, err := c.st.Get(cookieKey(dir, e.Cookie)); {
		case errors.Is(err, store.ErrNotFound):
			c.problem(BadCookie, dir, "name %q has no place %d in the order", name, e.Cookie)
		case err != nil:
			return err
		case !bytes.Equal(got, want):
			c.problem(BadCookie, dir, "name %q: place %d in the order says something else", name, e.Cookie)
		}
		c.entry(dir, name, e)
		return nil
	})
}

// entry counts a name.
func (c *checker) entry(dir extent.Ino, name string, e Entry) {
	d, ok := c.inodes[dir]
	if !ok || d.kind() != syscall.S_IFDIR {
		c.problem(BadEntry, dir, "has the name %q but is no directory", name)
		return
	}
	i, ok := c.inodes[e.Ino]
	switch {
	case !ok:
		c.problem(BadEntry, dir, "name %q leads to inode %d, which is not there", name, e.Ino)
		return
	case i.kind() != e.Type:
		c.problem(BadEntry, dir, "name %q says type %o, inode %d is %o", name, e.Type, e.Ino, i.kind())
	}
	i.names++
	if i.kind() == syscall.S_IFDIR {
		i.in = dir
		d.subdirs++
	}
}

func (c *checker) readCookies() error {
	return c.scan(prefixCookie, func(k, v []byte) error {
		e, name, err := decodeCookie(k, v)
		if err != nil {
			return err
		}
		n, _ := numbers(k, 2)
		c.maxCookie = max(c.maxCookie, e.Cookie)
		b, err := c.st.Get(entryKey(extent.Ino(n[0]), name))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		// That the rest agrees is seen from the other side.
		if got, derr := decodeEntry(b); err != nil || derr == nil && got.Cookie != e.Cookie {
			c.problem(BadCookie, extent.Ino(n[0]), "place %d in the order is of %q, which is not there", e.Cookie, name)
		}
		return nil
	})
}
