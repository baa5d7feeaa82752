package layout

import (
	"fmt"
	"sort"
	"testing"

	"holdfast/extent"
	"pgregory.net/rapid"
)

// TestTree holds the tree against a sorted list that is scanned whole.
func TestTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := &tree[int]{}
		var model []item[int]
		ids := uint64(0)
		drawQuery := func() query {
			off := rapid.Int64Range(0, 400).Draw(t, "off")
			return query{
				r:     extent.Range{Off: off, End: off + rapid.Int64Range(1, 100).Draw(t, "len")},
				class: rapid.Uint8Range(0, classes-1).Draw(t, "class"),
				not:   rapid.Uint32Range(0, 3).Draw(t, "not"),
				only:  rapid.Uint32Range(0, 3).Draw(t, "only"),
			}
		}
		insert := func() {
			ids++
			it := item[int]{
				off: rapid.Int64Range(0, 400).Draw(t, "off"), id: ids, val: new(int),
				owner: rapid.Uint32Range(1, 3).Draw(t, "owner"),
				class: rapid.Uint8Range(0, 3).Draw(t, "class")<<1 | 1,
			}
			it.end = it.off + rapid.Int64Range(1, 60).Draw(t, "len")
			if rapid.IntRange(0, 9).Draw(t, "inf") == 0 {
				it.end = extent.Inf
			}
			tr.insert(&it)
			model = append(model, it)
			sort.Slice(model, func(i, j int) bool { return before(model[i].off, model[i].id, model[j].off, model[j].id) })
		}
		remove := func() {
			if len(model) == 0 {
				return
			}
			i := rapid.IntRange(0, len(model)-1).Draw(t, "i")
			if !tr.remove(model[i].off, model[i].id) {
				t.Fatalf("item %v is not in the tree", model[i])
			}
			if tr.remove(model[i].off, model[i].id) {
				t.Fatalf("item %v was in the tree twice", model[i])
			}
			model = append(model[:i], model[i+1:]...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(*rapid.T) {
				for range 8 {
					insert()
				}
			},
			"remove": func(*rapid.T) {
				for range rapid.IntRange(1, 12).Draw(t, "n") {
					remove()
				}
			},
			"": func(*rapid.T) {
				if err := checkTree(tr); err != nil {
					t.Fatal(err)
				}
				q := drawQuery()
				var want, got []uint64
				for i := range model {
					if model[i].matches(&q) {
						want = append(want, model[i].id)
					}
				}
				tr.each(q, func(it *item[int]) bool { got = append(got, it.id); return true })
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("each(%+v) = %v, want %v", q, got, want)
				}
				first := tr.first(q)
				if (first == nil) != (len(want) == 0) || first != nil && first.id != want[0] {
					t.Fatalf("first(%+v) = %v, want %v", q, first, want)
				}
			},
		})
	})
}

// checkTree checks order, fill and sums of the whole tree.
func checkTree[V any](t *tree[V]) error {
	if t.root.leaf == nil && t.root.inner == nil || t.n == 0 {
		return nil
	}
	n := 0
	var lastOff, lastID = int64(-1), uint64(0)
	var walk func(c *child[V], root bool) (int, error)
	walk = func(c *child[V], root bool) (int, error) {
		if c.size() == 0 || c.size() > width {
			return 0, fmt.Errorf("node of %d", c.size())
		}
		was := *c
		c.sum()
		if was != *c {
			return 0, fmt.Errorf("sum is stale: %+v, want %+v", was, *c)
		}
		if c.leaf != nil {
			for i := range c.leaf.items {
				it := &c.leaf.items[i]
				if !before(lastOff, lastID, it.off, it.id) {
					return 0, fmt.Errorf("order: %d,%d then %d,%d", lastOff, lastID, it.off, it.id)
				}
				lastOff, lastID = it.off, it.id
				n++
			}
			return 1, nil
		}
		depth := 0
		for i := range c.inner.kids {
			d, err := walk(&c.inner.kids[i], false)
			if err != nil {
				return 0, err
			}
			if i > 0 && d != depth {
				return 0, fmt.Errorf("leaves at depth %d and %d", d, depth)
			}
			depth = d
		}
		return depth + 1, nil
	}
	if _, err := walk(&t.root, true); err != nil {
		return err
	}
	if n != t.n {
		return fmt.Errorf("%d items, counted %d", n, t.n)
	}
	return nil
}
