package layout

import (
	"testing"

	"pgregory.net/rapid"
)

// TestTable holds the table against a map, while it grows and shrinks, with names of every stride.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := table[uint64]{unit: rapid.Uint8Range(0, 6).Draw(t, "unit")}
		model := map[uint64]*uint64{}
		next := uint64(1)
		for _, grow := range []bool{true, false, true, false} {
			for n := rapid.IntRange(1, 200).Draw(t, "n"); n > 0; n-- {
				if grow {
					id := next << tab.unit
					next++
					model[id] = &id
					tab.put(id, &id)
					continue
				}
				for id := range model { // any
					delete(model, id)
					tab.remove(id)
					break
				}
			}
			check(t, &tab, model, next<<tab.unit)
		}
	})
}

func check(t *rapid.T, tab *table[uint64], model map[uint64]*uint64, end uint64) {
	for id := range end + 1 {
		if got := tab.get(id); got != model[id] {
			t.Fatalf("%d: %v, not %v", id, got, model[id])
		}
	}
	seen := 0
	tab.each(func(v *uint64) {
		if model[*v] != v {
			t.Fatalf("%d is in the table", *v)
		}
		seen++
	})
	if seen != len(model) || tab.n != seen {
		t.Fatalf("%d in the table, which counts %d, of %d", seen, tab.n, len(model))
	}
	if len(tab.slots) > minSlots && 8*tab.n < len(tab.slots) || 4*tab.n > 3*len(tab.slots) {
		t.Fatalf("%d in %d slots", tab.n, len(tab.slots))
	}
}
