package fs

import (
	"fmt"
	"strings"

	"holdfast/extent"
)

// hint is the name by which a file was last met. It need not be true any more, or
// the only one. It is immutable.
type hint struct {
	parent  *inode // nil for the root
	name    string
	deleted bool // it was the last name
}

// metAs notes a name of i. The directory is locked, so that a removal comes after it.
func (i *inode) metAs(dir *inode, name string) {
	if h := i.hint.Load(); h == nil || h.parent != dir || h.name != name {
		i.hint.Store(&hint{parent: dir, name: name})
	}
}

// nameGone notes that i, which is locked, lost its name in d. Another that it may have is not known.
func (i *inode) nameGone(d *inode, name string) {
	h := i.hint.Load()
	if i.n.Attr.Nlink == 0 {
		i.hint.Store(&hint{parent: d, name: name, deleted: true})
	} else if h != nil && h.parent == d && h.name == name {
		i.hint.CompareAndSwap(h, nil)
	}
}

// maxDepth bounds the walk to the root: hints of directories that are just being
// moved could form a circle.
const maxDepth = 4096

// Path returns the best known path of a file within the volume, with
// " (deleted)" if it has none any more.
func (f *FS) Path(ino extent.Ino) string {
	i := f.cached(ino)
	if i == nil {
		return unknownPath(ino)
	}
	var names []string
	suffix := ""
	for depth := 0; depth < maxDepth; depth++ {
		h := i.hint.Load()
		switch {
		case h == nil:
			names = append(names, unknownPath(i.ino))
			return joinReverse(names) + suffix
		case h.parent == nil:
			return "/" + joinReverse(names) + suffix
		}
		if h.deleted {
			suffix = " (deleted)"
		}
		names = append(names, h.name)
		i = h.parent
		if now := f.cached(i.ino); now != nil {
			i = now // it may have been forgotten and met again since
		}
	}
	return unknownPath(ino)
}

// cached returns an inode if it is in the cache, without a reference.
func (f *FS) cached(ino extent.Ino) *inode {
	s := f.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inodes[ino]
}

// unknownPath stands for a path that no lookup has shown.
func unknownPath(ino extent.Ino) string { return fmt.Sprintf("<inode %d>", ino) }

func joinReverse(names []string) string {
	var b strings.Builder
	for k := len(names) - 1; k >= 0; k-- {
		b.WriteString(names[k])
		if k > 0 {
			b.WriteByte('/')
		}
	}
	return b.String()
}
