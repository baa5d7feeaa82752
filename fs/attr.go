package fs

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"holdfast/extent"
	"holdfast/volume"
)

// Attr is what stat(2) shows of a file.
type Attr struct {
	Ino extent.Ino
	volume.Attr
	Blocks int64 // of 512 bytes
}

// snapshot returns the attributes; it needs mu, shared suffices.
func (i *inode) snapshot() (Attr, error) {
	a := Attr{Ino: i.ino, Attr: i.attr()}
	n, err := i.n.Allocated()
	if err != nil {
		return Attr{}, err
	}
	a.Blocks = n / 512
	if isType(a.Mode, syscall.S_IFLNK) {
		a.Size = int64(len(a.Target))
	}
	return a, nil
}

func (i *inode) getAttr() (Attr, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.snapshot()
}

func isType(mode, typ uint32) bool { return mode&syscall.S_IFMT == typ }

// GetAttr returns the attributes of a file.
func (f *FS) GetAttr(_ context.Context, _ Caller, ino extent.Ino) (Attr, error) {
	i, err := f.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer f.put(i)
	return i.getAttr()
}

// SetAttrMask says which fields of a SetAttr count.
type SetAttrMask uint32

// The fields of SetAttr. The two Now bits set a time to the present.
const (
	SetMode SetAttrMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetCtime
	SetAtimeNow
	SetMtimeNow
	// KillPriv takes off set-user-id, and set-group-id where it means execution, unless
	// SetMode is given.
	KillPriv
)

// SetAttr says what attributes shall become.
type SetAttr struct {
	Valid               SetAttrMask
	Mode                uint32 // permission bits; the type is ignored
	UID, GID            uint32
	Size                int64
	Atime, Mtime, Ctime int64 // nanoseconds since the epoch
}

// SetAttr alters attributes, all or none of them. A new size is a change: it may
// have to wait, and be refused. What nobody can open to sync, as a symbolic link, has
// its attributes recorded with the names, so that the sync of any directory has both.
func (f *FS) SetAttr(ctx context.Context, c Caller, ino extent.Ino, s SetAttr) (Attr, error) {
	i, err := f.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer f.put(i)
	a, err := f.setAttr(ctx, c, i, s)
	if err == nil && s.Valid&SetUID != 0 {
		f.arb.OwnerChanged(ino, a.UID)
	}
	return a, err
}

func (f *FS) setAttr(ctx context.Context, c Caller, i *inode, s SetAttr) (Attr, error) {
	if s.Valid&SetSize != 0 {
		return f.setSize(ctx, c, i, s)
	}
	i.lock()
	defer i.mu.Unlock()
	if i.n.Attr.IsRegular() || i.n.Attr.IsDir() {
		return f.apply(i, s, false)
	}
	t := f.begin(i)
	if _, err := f.apply(i, s, false); err != nil {
		return Attr{}, err
	}
	if err := t.commit(); err != nil {
		return Attr{}, err
	}
	return i.snapshot()
}

// apply alters all attributes but the size. It needs mu exclusive. resized says that the size was set,
// be it to what it was: POSIX wants the times changed.
func (f *FS) apply(i *inode, s SetAttr, resized bool) (Attr, error) {
	if err := f.writable(); err != nil {
		return Attr{}, err
	}
	a, now, before := &i.n.Attr, f.stamp(), i.n.Attr
	if mode := withoutPriv(a.Mode); s.Valid&(KillPriv|SetMode) == KillPriv && mode != a.Mode {
		s.Valid, s.Mode = s.Valid|SetMode, mode
	}
	s.Valid &^= KillPriv
	if s.Valid&SetMode != 0 {
		a.Mode = a.Mode&syscall.S_IFMT | s.Mode&^syscall.S_IFMT
	}
	if s.Valid&SetUID != 0 {
		a.UID = s.UID
	}
	if s.Valid&SetGID != 0 {
		a.GID = s.GID
	}
	if resized {
		a.Mtime = now
	}
	setTime(&a.Atime, s.Valid, SetAtime, s.Atime, SetAtimeNow, now)
	setTime(&a.Mtime, s.Valid, SetMtime, s.Mtime, SetMtimeNow, now)
	if s.Valid&^SetSize != 0 || resized {
		a.Ctime = now
	}
	setTime(&a.Ctime, s.Valid, SetCtime, s.Ctime, 0, now)
	if s.Valid&SetMode != 0 {
		if err := f.chmodACL(i); err != nil {
			*a = before
			return Attr{}, err
		}
	}
	f.changed(i)
	return i.snapshot()
}

// Touch sets the time of change and nothing else: chown to nobody. It takes set-user-id off as any chown
// does, but not from another's file.
func (f *FS) Touch(c Caller, ino extent.Ino) (Attr, error) {
	i, err := f.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer f.put(i)
	i.lock()
	defer i.mu.Unlock()
	s := SetAttr{Valid: SetCtime, Ctime: f.stamp()}
	if c.Admin || c.UID == i.n.Attr.UID {
		s.Valid |= KillPriv
	}
	return f.apply(i, s, false)
}

// KillPriv takes set-user-id and set-group-id off a file that somebody without the
// right to them has changed.
func (f *FS) KillPriv(ino extent.Ino) error { return f.withInode(ino, f.killPriv) }

// killPriv takes mu.
func (f *FS) killPriv(i *inode) error {
	i.mu.RLock()
	mode := i.n.Attr.Mode
	i.mu.RUnlock()
	if withoutPriv(mode) == mode {
		return nil
	}
	i.lock()
	defer i.mu.Unlock()
	_, err := f.apply(i, SetAttr{Valid: KillPriv}, false)
	return err
}

// withoutPriv clears set-user-id, and set-group-id where it means execution. On directories they mean other things.
func withoutPriv(mode uint32) uint32 {
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		return mode
	}
	mode &^= syscall.S_ISUID
	if mode&syscall.S_IXGRP != 0 {
		mode &^= syscall.S_ISGID
	}
	return mode
}

// setTime sets *t as the two bits of valid say.
func setTime(t *int64, valid, given SetAttrMask, to int64, present SetAttrMask, now int64) {
	switch {
	case valid&present != 0:
		*t = now
	case valid&given != 0:
		*t = to
	}
}

// writable refuses changes once the device or the log has failed.
func (f *FS) writable() error {
	if err := f.vol.FailReason(); err != nil {
		return fmt.Errorf("%w (%w)", volume.ErrReadOnly, err)
	}
	return nil
}

func (f *FS) stamp() int64 { return f.now().UnixNano() }

// touch sets mtime and ctime; it needs mu exclusive.
func (f *FS) touch(i *inode) {
	now := f.stamp()
	i.n.Attr.Mtime, i.n.Attr.Ctime = now, now
}

// accessed updates atime as mount option relatime does: only if it would
// otherwise be before the last change, or is a day old. It needs mu shared.
func (f *FS) accessed(i *inode) {
	a, now := i.attr(), f.stamp()
	if a.Atime > a.Mtime && a.Atime > a.Ctime && now-a.Atime < int64(24*time.Hour) {
		return
	}
	i.readAt.Store(now)
	f.changed(i)
}

// checkSize refuses sizes that no file can have.
func checkSize(size int64) error {
	switch {
	case size < 0:
		return fmt.Errorf("size %d: %w", size, syscall.EINVAL)
	case size > extent.MaxSize:
		return fmt.Errorf("size %d is more than %d: %w", size, int64(extent.MaxSize), syscall.EFBIG)
	}
	return nil
}
