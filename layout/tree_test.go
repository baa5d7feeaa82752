package layout

import (
	"fmt"
	"math/rand/v2"
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
				key: key{rapid.Int64Range(0, 400).Draw(t, "off"), ids}, val: new(int),
				owner: rapid.Uint32Range(1, 3).Draw(t, "owner"),
				class: rapid.Uint8Range(0, 3).Draw(t, "class")<<1 | 1,
			}
			it.end = it.off + rapid.Int64Range(1, 60).Draw(t, "len")
			if rapid.IntRange(0, 9).Draw(t, "inf") == 0 {
				it.end = extent.Inf
			}
			tr.insert(&it)
			model = append(model, it)
			sort.Slice(model, func(i, j int) bool { return model[i].before(model[j].key) != 0 })
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

// TestTreeDeep fills and empties trees of several levels, whose inner nodes split and join.
func TestTreeDeep(t *testing.T) {
	const n = 6 * width * width
	rnd := rand.New(rand.NewPCG(1, 2))
	orders := map[string]func() []int{
		"up": func() []int {
			s := make([]int, n)
			for i := range s {
				s[i] = i
			}
			return s
		},
		"down": func() []int {
			s := make([]int, n)
			for i := range s {
				s[i] = n - 1 - i
			}
			return s
		},
		"random": func() []int { return rnd.Perm(n) },
	}
	for in, insert := range orders {
		for out, remove := range orders {
			tr := &tree[int]{}
			check := func(i int) {
				t.Helper()
				if i%997 != 0 && i != n-1 {
					return
				}
				if err := checkTree(tr); err != nil {
					t.Fatalf("%s, %s, %d: %v", in, out, i, err)
				}
			}
			for j, i := range insert() {
				it := item[int]{key: key{int64(i / 3), uint64(i + 1)}, end: int64(i/3 + 1 + i%50), owner: uint32(1 + i%3), class: 1}
				tr.insert(&it)
				check(j)
			}
			for j, i := range remove() {
				if !tr.remove(int64(i/3), uint64(i+1)) || tr.remove(int64(i/3), uint64(i+1)) {
					t.Fatalf("%s, %s: item %d was not there once", in, out, i)
				}
				check(j)
				if j%5 == 0 { // one that comes and goes
					it := item[int]{key: key{int64(i / 3), uint64(i + 1)}, end: int64(i/3 + 1), owner: 1, class: 1}
					tr.insert(&it)
					tr.remove(it.off, it.id)
				}
			}
			if tr.n != 0 || tr.first(query{r: extent.Range{Off: 0, End: extent.Inf}}) != nil {
				t.Fatalf("%s, %s: %d items are left", in, out, tr.n)
			}
		}
	}
}

// checkTree checks order, fill and sums of the whole tree.
func checkTree[V any](t *tree[V]) error {
	if t.n == 0 {
		return nil
	}
	n := 0
	last := key{} // before all: no name is 0
	var walk func(c *child[V], least key) (int, error)
	walk = func(c *child[V], least key) (int, error) {
		if c.inner != nil && c.size() == 0 || c.size() > width {
			return 0, fmt.Errorf("node of %d", c.size())
		}
		was := c.sum
		c.sumUp()
		if was != c.sum {
			return 0, fmt.Errorf("sum is stale: %+v, want %+v", was, c.sum)
		}
		if c.inner == nil {
			for i := range c.items {
				k := c.items[i].key
				if k.off < last.off || k.off == last.off && k.id <= last.id || k.off < least.off || k.off == least.off && k.id < least.id {
					return 0, fmt.Errorf("order: %v then %v, in a node from %v", last, k, least)
				}
				last = k
				n++
			}
			return 1, nil
		}
		depth := 0
		if len(c.inner.keys) != len(c.inner.kids) {
			return 0, fmt.Errorf("%d keys of %d children", len(c.inner.keys), len(c.inner.kids))
		}
		for i, k := range c.inner.keys {
			if k.before(least) != 0 || i > 0 && (k.before(last) != 0 || k == last) {
				return 0, fmt.Errorf("child %d from %v, in a node from %v, after %v", i, k, least, last)
			}
			d, err := walk(&c.inner.kids[i], k)
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
	if _, err := walk(&t.root, key{}); err != nil {
		return err
	}
	if n != t.n {
		return fmt.Errorf("%d items, counted %d", n, t.n)
	}
	return nil
}

// TestTreeShrinks: what is left of many does not keep their nodes.
func TestTreeShrinks(t *testing.T) {
	const many, kept = 10000, 100
	tr := &tree[int]{}
	for i := range int64(many) {
		tr.insert(&item[int]{key: key{i, 1}, end: i + 1, owner: 1, class: 1})
	}
	for i := range int64(many) {
		if i%(many/kept) != 0 {
			tr.remove(i, 1)
		}
	}
	if n := nodes(&tr.root); n > kept/2 {
		t.Errorf("%d nodes for %d items", n, kept)
	}
	if err := checkTree(tr); err != nil {
		t.Error(err)
	}
}

func nodes[V any](c *child[V]) int {
	n := 1
	if c.inner != nil {
		for i := range c.inner.kids {
			n += nodes(&c.inner.kids[i])
		}
	}
	return n
}
