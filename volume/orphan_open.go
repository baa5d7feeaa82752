package volume

import (
	"errors"

	"holdfast/extent"
	"holdfast/store"
)

// bootKey leads to the boot that the orphans are of.
var bootKey = []byte{prefixHeld}

// openOrphans takes what former servers have left: orphans of this boot, which are
// unclaimed, or the blocks of those of another, which are free. It needs what derive
// has found.
func (v *Volume) openOrphans(boot string) error {
	all, err := v.orphanRecords()
	if err != nil {
		return err
	}
	was, err := v.st.Get(bootKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	var edits []orphanEdit
	if boot == "" || boot == string(was) {
		for _, o := range all {
			edits = append(edits, v.space.reclaim(o)...)
		}
		return v.editOrphans(edits, nil)
	}
	for _, o := range all {
		edits = append(edits, orphanEdit{del: o.Addr + o.Len})
	}
	if err := v.editOrphans(edits, nil); err != nil {
		return err
	}
	if len(all) > 0 {
		v.log.Info("orphans of a former boot are free", "volume", v.id.uuid, "runs", len(all))
	}
	b := v.batch()
	b.Put(bootKey, []byte(boot)) // after them: a start that is cut off does it again
	_, err = v.apply(b)
	return err
}

func (v *Volume) orphanRecords() (out []Orphan, err error) {
	err = v.st.Scan(orphanedKey(0), after(prefixHeld), func(k, b []byte) (bool, error) {
		o, err := decodeOrphan(k, b)
		if err == nil && (o.Addr < dataStart || o.Addr+o.Len > v.id.size) {
			err = ErrCorrupt
		}
		out = append(out, o)
		return err == nil, err
	})
	return out, err
}

// reclaim takes the blocks of a record out of the free space. A part that is not free
// belongs to a file that was about to give it up: that of the record goes.
func (s *space) reclaim(o Orphan) []orphanEdit {
	var parts []Orphan
	for pos := o.Addr; pos < o.Addr+o.Len; {
		f, ok := s.free.byAddr.first(pos + 1)
		p := f.Intersect(extent.Range{Off: pos, End: o.Addr + o.Len})
		if !ok || p.Empty() {
			break
		}
		s.free.cut(f, p.Off, p.Len())
		parts = append(parts, Orphan{p.Off, p.Len(), o.UID, true})
		pos = p.End
	}
	for _, p := range parts {
		s.orphans.put(p)
	}
	if len(parts) == 1 && parts[0].rng() == o.rng() {
		return nil
	}
	return []orphanEdit{{del: o.Addr + o.Len, put: parts}}
}
