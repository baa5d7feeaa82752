package fs

import (
	"context"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
)

const (
	// copyMax is how much one CopyRange copies: the kernel locks the target meanwhile.
	copyMax = 8 << 20
	// cloneMax is how much of a file is cloned under one lock.
	cloneMax = 4 << 30
)

// CopyRange copies up to n bytes of one file into another, or elsewhere in the same,
// as copy_file_range(2): whole blocks are shared, not copied, where they lie alike in
// both. It returns how much it did, which is less than n at the end of the source, or
// where much must be copied.
func (f *FS) CopyRange(ctx context.Context, c Caller, src extent.Ino, off int64, dst extent.Ino, at, n int64) (done int64, err error) {
	if off < 0 || at < 0 || n < 0 || src == dst && off < at+n && at < off+n {
		return 0, fmt.Errorf("copy %d bytes from %d to %d: %w", n, off, at, syscall.EINVAL)
	}
	err = f.withInode(src, func(from *inode) error {
		return f.withInode(dst, func(to *inode) error {
			k := copying{f: f, ctx: ctx, c: c, from: from, to: to}
			done, err = k.copy(off, at, n)
			return err
		})
	})
	if done > 0 {
		return done, nil
	}
	return 0, err
}

// copying is one CopyRange under way.
type copying struct {
	f        *FS
	ctx      context.Context
	c        Caller
	from, to *inode
	copied   int64
}

func (k *copying) copy(off, at, n int64) (done int64, err error) {
	k.from.mu.RLock()
	size, err := k.from.n.Attr.Size, k.from.regular()
	k.from.mu.RUnlock()
	if err != nil {
		return 0, err
	}
	if n = min(n, size-off); n <= 0 {
		return 0, nil
	}
	if n > extent.MaxSize-at {
		return 0, fmt.Errorf("copy %d bytes to %d: %w", n, at, syscall.EFBIG)
	}
	for done < n && k.copied < copyMax {
		if err := k.ctx.Err(); err != nil {
			return done, err
		}
		p, err := k.piece(off+done, at+done, n-done, size)
		done += p
		if p == 0 || err != nil {
			return done, err
		}
	}
	return done, nil
}

// piece shares or copies the first part of what is left.
func (k *copying) piece(off, at, n, size int64) (int64, error) {
	if off%extent.BlockSize == at%extent.BlockSize {
		head := extent.RoundUp(off) - off
		switch {
		case head > 0:
			n = min(n, head)
		case off+n == size && k.toEnd(at+n):
			return k.clone(off, at, n)
		case n >= extent.BlockSize:
			return k.clone(off, at, extent.RoundDown(n))
		}
	}
	return k.bytes(off, at, min(n, chunk))
}

// toEnd reports whether nothing of the target lies behind end.
func (k *copying) toEnd(end int64) bool {
	k.to.mu.RLock()
	defer k.to.mu.RUnlock()
	return end >= k.to.n.Attr.Size
}

// bytes copies.
func (k *copying) bytes(off, at, n int64) (int64, error) {
	b := make([]byte, n)
	got, err := k.f.Read(k.ctx, k.from.ino, b, off)
	if got == 0 || err != nil {
		return 0, err
	}
	put, err := k.f.Write(k.ctx, k.c, k.to.ino, b[:got], at, false, false)
	k.copied += int64(put)
	return int64(put), err
}

// clone shares. It does less than n if the source has become shorter, so that the
// rest is no longer whole blocks.
func (k *copying) clone(off, at, n int64) (int64, error) {
	n = min(n, cloneMax)
	// What holders wrote directly is in windows, and a clone is of what is at home.
	if err := k.f.writeBackAll(k.from, (*inode).dirtyParts); err != nil {
		return 0, err
	}
	target := extent.Range{Off: at, End: at + n}.RoundOut()
	done := int64(0)
	err := k.f.change(k.ctx, k.c, k.to, func() (plan, error) {
		if err := k.to.regular(); err != nil {
			return plan{}, err
		}
		// A window over a hole would not show what the clone puts there, either.
		if blocks, err := k.to.hasBlock(target); blocks || k.to.windowed(target) || err != nil {
			return plan{layout.Subtractive, target, discarded}, err
		}
		return plan{class: layout.Additive, r: target}, nil
	}, func() error {
		r := extent.Range{Off: off, End: min(off+n, k.from.n.Attr.Size)}
		if r.RoundOut() != r && (r.End != k.from.n.Attr.Size || at+r.Len() < k.to.n.Attr.Size) {
			r.End = extent.RoundDown(r.End)
		}
		if r.Empty() {
			return nil
		}
		if err := k.f.vol.Clone(k.from.n, r, k.to.n, at); err != nil {
			return err
		}
		done = r.Len()
		k.f.changed(k.from)
		k.f.touch(k.to)
		return k.f.killCapabilities(k.to)
	}, k.from)
	return done, err
}
