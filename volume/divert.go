package volume

import (
	"context"
	"fmt"
	"syscall"

	"holdfast/extent"
)

// Divert gives all files but ino, which has them in r, other blocks for rs of the device,
// so that ino has them alone and whoever reaches them directly keeps them. EBUSY says that
// ino has some twice, and ErrOwners that a file has them which is not among inodes; nothing
// has changed then. It is durable when it returns. It needs all inodes exclusive, ino's not
// among them.
func (v *Volume) Divert(ctx context.Context, rs []extent.Range, inodes []*Inode, ino extent.Ino, r extent.Range) error {
	m, err := v.begin(inodes)
	if err != nil {
		return err
	}
	from, err := m.findBut(rs, ino, r)
	if err != nil {
		return err
	}
	if len(from) > 0 {
		m.shared = true
		if err := m.run(from, false); err != nil {
			return err
		}
	}
	return v.SyncStore(ctx) // a reference counts until its loss is durable
}

// findBut is find without what ino has in r.
func (m *move) findBut(rs []extent.Range, ino extent.Ino, r extent.Range) (from []extent.Range, err error) {
	if _, err = m.find(rs); err != nil {
		return nil, err
	}
	all := m.uses
	m.uses = nil
	var used rangeSet
	for _, u := range all {
		switch {
		case u.Ino != ino:
			m.uses = append(m.uses, u)
			used.add(u.Device)
		case !r.Contains(u.Range):
			return nil, fmt.Errorf("inode %d has blocks of %v at %v, too: %w", ino, r, u.Range, syscall.EBUSY)
		}
	}
	return used.list(), nil
}
