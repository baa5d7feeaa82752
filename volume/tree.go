package volume

import "github.com/tidwall/btree"

// tree is a map by offsets in their order. The zero tree is empty and takes eight
// bytes: a server has some of them for each file that the kernel knows, most of
// them empty.
type tree[V any] struct{ m *btree.Map[int64, V] }

func (t *tree[V]) Len() int {
	if t.m == nil {
		return 0
	}
	return t.m.Len()
}

func (t *tree[V]) Get(k int64) (v V, ok bool) {
	if t.m == nil {
		return v, false
	}
	return t.m.Get(k)
}

// Ascend calls fn for all from pivot on, until it returns false.
func (t *tree[V]) Ascend(pivot int64, fn func(int64, V) bool) {
	if t.m != nil {
		t.m.Ascend(pivot, fn)
	}
}

// Scan calls fn for all, until it returns false.
func (t *tree[V]) Scan(fn func(int64, V) bool) {
	if t.m != nil {
		t.m.Scan(fn)
	}
}

func (t *tree[V]) Set(k int64, v V) {
	if t.m == nil {
		t.m = new(btree.Map[int64, V])
	}
	t.m.Set(k, v)
}

// Load is Set that is quicker if k is behind all.
func (t *tree[V]) Load(k int64, v V) {
	if t.m == nil {
		t.m = new(btree.Map[int64, V])
	}
	t.m.Load(k, v)
}

func (t *tree[V]) Delete(k int64) {
	if t.m != nil {
		t.m.Delete(k)
	}
}
