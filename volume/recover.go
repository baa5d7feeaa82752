package volume

import (
	"context"
	"fmt"

	"holdfast/extent"
)

// recover finishes what a crash left half done: operations that had begun, and
// files without a name.
func (v *Volume) recover(ctx context.Context) error {
	intents, err := v.intents()
	if err != nil {
		return err
	}
	for ino, i := range intents {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.resume(ino, i); err != nil {
			return fmt.Errorf("inode %d: finish %v: %w", ino, i.kind, err)
		}
	}
	orphans, err := v.orphanInodes()
	if err != nil {
		return err
	}
	for _, ino := range orphans {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.deleteRecords(ino, true); err != nil {
			return fmt.Errorf("delete orphan %d: %w", ino, err)
		}
	}
	if len(intents)+len(orphans) > 0 {
		v.log.Info("recovered", "volume", v.id.uuid, "unfinished", len(intents), "orphans", len(orphans))
	}
	return v.st.Sync()
}

func (v *Volume) intents() (map[extent.Ino]intent, error) {
	out := make(map[extent.Ino]intent)
	err := v.st.Scan([]byte{prefixIntent}, after(prefixIntent), func(k, b []byte) (bool, error) {
		n, ok := numbers(k, 1)
		if !ok {
			return false, fmt.Errorf("intent key %x: %w", k, ErrCorrupt)
		}
		i, err := decodeIntent(b)
		out[extent.Ino(n[0])] = i
		return err == nil, err
	})
	return out, err
}

// resume goes on with what an intent says was begun on ino.
func (v *Volume) resume(ino extent.Ino, i intent) error {
	switch i.kind {
	case cloning:
		return v.cloneRecords(ino, i, nil)
	case collapsing, inserting:
		return v.shiftRecords(ino, i)
	default:
		last := func(b batcher) { b.Delete(intentKey(ino)) }
		return v.removeExtents(removal{ino: ino, r: i.r, intent: intentKey(ino), value: i.encode(), last: last})
	}
}

func (v *Volume) orphanInodes() ([]extent.Ino, error) {
	var out []extent.Ino
	err := v.st.Scan([]byte{prefixOrphan}, after(prefixOrphan), func(k, _ []byte) (bool, error) {
		n, ok := numbers(k, 1)
		if !ok {
			return false, fmt.Errorf("orphan key %x: %w", k, ErrCorrupt)
		}
		out = append(out, extent.Ino(n[0]))
		return true, nil
	})
	return out, err
}
