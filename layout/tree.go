package layout

import "holdfast/extent"

// width is how many items a leaf and how many children an inner node holds. Wide nodes keep the
// tree four levels high with a million leases, and a search within few cache lines.
const width = 32

// Every item is in the class any; those of exclusive and unbreakable leases also in these. The tree knows
// for each subtree how far the items of a class reach, so that a search for one class sees no other.
const (
	any_ = iota
	exclusive
	unbreakable
	classes
)

// mixed as the owner of a subtree says that its items have several.
const mixed = ^uint32(0)

// item is an interval [off, end) with the key (off, id).
type item[V any] struct {
	off, end int64
	id       uint64
	val      *V
	owner    uint32 // never 0
	class    uint8  // bit set
}

func (it *item[V]) Range() extent.Range { return extent.Range{Off: it.off, End: it.end} }

// query selects items that overlap r, are of a class, and, where not 0, are not owned by not, are owned by only.
type query struct {
	r         extent.Range
	class     uint8
	not, only uint32
}

// child is a subtree: a leaf or an inner node, with the least key and what its items reach and own by class.
type child[V any] struct {
	off    int64
	id     uint64
	ends   [classes]int64  // largest end, -1 without items
	owners [classes]uint32 // the one owner, mixed, or 0 without items
	leaf   *leaf[V]
	inner  *inner[V]
}

type leaf[V any] struct{ items []item[V] }
type inner[V any] struct{ kids []child[V] }

// tree is an augmented B+ tree of intervals.
type tree[V any] struct {
	root   child[V]
	n      int
	leaves []*leaf[V] // spare: who comes and goes at the edge of a full node must not allocate each time
	inners []*inner[V]
}

const maxSpare = 4

func (t *tree[V]) newLeaf() *leaf[V] {
	if n := len(t.leaves); n > 0 {
		l := t.leaves[n-1]
		t.leaves = t.leaves[:n-1]
		return l
	}
	return &leaf[V]{items: make([]item[V], 0, width)}
}

func (t *tree[V]) newInner() *inner[V] {
	if n := len(t.inners); n > 0 {
		i := t.inners[n-1]
		t.inners = t.inners[:n-1]
		return i
	}
	return &inner[V]{kids: make([]child[V], 0, width)}
}

// spare keeps the node of c, whose content has moved.
func (t *tree[V]) spare(c child[V]) {
	switch {
	case c.leaf != nil && len(t.leaves) < maxSpare:
		clear(c.leaf.items)
		c.leaf.items = c.leaf.items[:0]
		t.leaves = append(t.leaves, c.leaf)
	case c.inner != nil && len(t.inners) < maxSpare:
		clear(c.inner.kids)
		c.inner.kids = c.inner.kids[:0]
		t.inners = append(t.inners, c.inner)
	}
}

func before(off1 int64, id1 uint64, off2 int64, id2 uint64) bool {
	return off1 < off2 || off1 == off2 && id1 < id2
}

// find returns the index of the first item whose key is not before (off, id).
func (l *leaf[V]) find(off int64, id uint64) int {
	lo, hi := 0, len(l.items)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if it := &l.items[mid]; before(it.off, it.id, off, id) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// find returns the index of the child in which the key (off, id) belongs.
func (n *inner[V]) find(off int64, id uint64) int {
	lo, hi := 1, len(n.kids)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if k := &n.kids[mid]; before(off, id, k.off, k.id) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo - 1
}

func (c *child[V]) clear() {
	c.ends = [classes]int64{-1, -1, -1}
	c.owners = [classes]uint32{}
}

func (c *child[V]) reach(class int, end int64, owner uint32) {
	c.ends[class] = max(c.ends[class], end)
	switch c.owners[class] {
	case 0:
		c.owners[class] = owner
	case owner:
	default:
		c.owners[class] = mixed
	}
}

func (c *child[V]) addItem(it *item[V]) {
	for k := range classes {
		if it.class&(1<<k) != 0 {
			c.reach(k, it.end, it.owner)
		}
	}
}

// sum computes what c says of its node, which must not be empty.
func (c *child[V]) sum() {
	c.clear()
	if c.leaf != nil {
		items := c.leaf.items
		c.off, c.id = items[0].off, items[0].id
		for i := range items {
			c.addItem(&items[i])
		}
		return
	}
	kids := c.inner.kids
	c.off, c.id = kids[0].off, kids[0].id
	for i := range kids {
		for k := range classes {
			if o := kids[i].owners[k]; o != 0 {
				c.reach(k, kids[i].ends[k], o)
			}
		}
	}
}

// less computes anew what c says of the classes an item of which was removed. It stops as soon as it is back at what it said before.
func (c *child[V]) less(class uint8) {
	was := *c
	for k := range classes {
		if class&(1<<k) == 0 {
			continue
		}
		c.ends[k], c.owners[k] = -1, 0
		for i := range c.size() {
			if c.leaf != nil {
				if it := &c.leaf.items[i]; it.class&(1<<k) != 0 {
					c.reach(k, it.end, it.owner)
				}
			} else if kid := &c.inner.kids[i]; kid.owners[k] != 0 {
				c.reach(k, kid.ends[k], kid.owners[k])
			}
			if c.ends[k] == was.ends[k] && c.owners[k] == was.owners[k] {
				break
			}
		}
	}
	if c.leaf != nil {
		c.off, c.id = c.leaf.items[0].off, c.leaf.items[0].id
	} else {
		c.off, c.id = c.inner.kids[0].off, c.inner.kids[0].id
	}
}

// insert adds an item whose key is not in the tree.
func (t *tree[V]) insert(it *item[V]) {
	t.n++
	if t.root.leaf == nil && t.root.inner == nil {
		t.root.leaf = &leaf[V]{}
	}
	if right, split := t.root.insert(t, it); split {
		n := t.newInner()
		n.kids = append(n.kids, t.root, right)
		t.root = child[V]{inner: n}
		t.root.sum()
	}
}

// insert adds it below c. A full node splits and returns its right part.
func (c *child[V]) insert(t *tree[V], it *item[V]) (right child[V], split bool) {
	if c.leaf != nil {
		return c.insertLeaf(t, it)
	}
	n := c.inner
	i := n.find(it.off, it.id)
	sib, grown := n.kids[i].insert(t, it)
	if !grown {
		if before(it.off, it.id, c.off, c.id) {
			c.off, c.id = it.off, it.id
		}
		c.addItem(it)
		return right, false
	}
	if len(n.kids) < width {
		n.kids = insertAt(n.kids, i+1, sib)
		c.sum()
		return right, false
	}
	at := splitAt(i + 1)
	right = child[V]{inner: t.newInner()}
	right.inner.kids = append(right.inner.kids, n.kids[at:]...)
	clear(n.kids[at:])
	n.kids = n.kids[:at]
	if i+1 > at || at == width {
		right.inner.kids = insertAt(right.inner.kids, i+1-at, sib)
	} else {
		n.kids = insertAt(n.kids, i+1, sib)
	}
	c.sum()
	right.sum()
	return right, true
}

func (c *child[V]) insertLeaf(t *tree[V], it *item[V]) (right child[V], split bool) {
	l := c.leaf
	i := l.find(it.off, it.id)
	if len(l.items) < width {
		if len(l.items) == 0 {
			c.clear()
		}
		l.items = insertAt(l.items, i, *it)
		c.off, c.id = l.items[0].off, l.items[0].id
		c.addItem(it)
		return right, false
	}
	at := splitAt(i)
	right = child[V]{leaf: t.newLeaf()}
	right.leaf.items = append(right.leaf.items, l.items[at:]...)
	clear(l.items[at:])
	l.items = l.items[:at]
	if i > at || at == width {
		right.leaf.items = insertAt(right.leaf.items, i-at, *it)
	} else {
		l.items = insertAt(l.items, i, *it)
	}
	c.sum()
	right.sum()
	return right, true
}

// splitAt says where a full node splits when something is inserted at i. Appending leaves the left node
// full: names and offsets mostly ascend, and half-empty nodes would double the bytes of a lease.
func splitAt(i int) int {
	if i == width {
		return width
	}
	return width / 2
}

func insertAt[T any](s []T, i int, v T) []T {
	var zero T
	s = append(s, zero)
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

func deleteAt[T any](s []T, i int) []T {
	var zero T
	copy(s[i:], s[i+1:])
	s[len(s)-1] = zero
	return s[:len(s)-1]
}

// remove takes out the item with the key (off, id) and reports whether it was there.
func (t *tree[V]) remove(off int64, id uint64) bool {
	if t.n == 0 {
		return false
	}
	if _, ok := t.root.remove(t, off, id); !ok {
		return false
	}
	t.n--
	for t.root.inner != nil && len(t.root.inner.kids) == 1 {
		old := t.root
		t.root = old.inner.kids[0]
		t.spare(old)
	}
	return true
}

func (c *child[V]) size() int {
	if c.leaf != nil {
		return len(c.leaf.items)
	}
	return len(c.inner.kids)
}

// remove takes the item from below c and returns its classes.
func (c *child[V]) remove(t *tree[V], off int64, id uint64) (class uint8, ok bool) {
	if l := c.leaf; l != nil {
		i := l.find(off, id)
		if i == len(l.items) || l.items[i].off != off || l.items[i].id != id {
			return 0, false
		}
		class = l.items[i].class
		l.items = deleteAt(l.items, i)
		if len(l.items) > 0 {
			c.less(class)
		}
		return class, true
	}
	n := c.inner
	i := n.find(off, id)
	if class, ok = n.kids[i].remove(t, off, id); !ok {
		return 0, false
	}
	if n.kids[i].size() < width/4 {
		n.merge(t, i)
	}
	c.less(class)
	return class, true
}

// merge joins child i with a neighbour if both fit in one node. An empty child always does, so no node
// but the root is ever empty.
func (n *inner[V]) merge(t *tree[V], i int) {
	for _, l := range [2]int{i - 1, i} {
		if l < 0 || l+1 >= len(n.kids) {
			continue
		}
		a, b := &n.kids[l], &n.kids[l+1]
		if a.size()+b.size() > width {
			continue
		}
		if a.leaf != nil {
			a.leaf.items = append(a.leaf.items, b.leaf.items...)
		} else {
			a.inner.kids = append(a.inner.kids, b.inner.kids...)
		}
		a.sum()
		t.spare(*b)
		n.kids = deleteAt(n.kids, l+1)
		return
	}
}

func (c *child[V]) matches(q *query) bool {
	owner := c.owners[q.class]
	return c.ends[q.class] > q.r.Off && c.off < q.r.End &&
		(q.not == 0 || owner != q.not) && (q.only == 0 || owner == q.only || owner == mixed)
}

func (it *item[V]) matches(q *query) bool {
	return it.class&(1<<q.class) != 0 && it.end > q.r.Off && it.off < q.r.End &&
		(q.not == 0 || it.owner != q.not) && (q.only == 0 || it.owner == q.only)
}

// first returns the first item that q selects, or nil. It is valid until the tree changes.
func (t *tree[V]) first(q query) *item[V] {
	if t.n == 0 {
		return nil
	}
	return t.root.first(&q)
}

func (c *child[V]) first(q *query) *item[V] {
	if !c.matches(q) {
		return nil
	}
	if c.leaf != nil {
		items := c.leaf.items
		for i := range items {
			if items[i].matches(q) {
				return &items[i]
			}
		}
		return nil
	}
	for i := range c.inner.kids {
		if it := c.inner.kids[i].first(q); it != nil {
			return it
		}
	}
	return nil
}

// each calls fn for each item that q selects, in order of key, until it returns false. fn must not change the tree.
func (t *tree[V]) each(q query, fn func(*item[V]) bool) {
	if t.n > 0 {
		t.root.each(&q, fn)
	}
}

func (c *child[V]) each(q *query, fn func(*item[V]) bool) bool {
	if !c.matches(q) {
		return true
	}
	if c.leaf != nil {
		items := c.leaf.items
		for i := range items {
			if items[i].matches(q) && !fn(&items[i]) {
				return false
			}
		}
		return true
	}
	for i := range c.inner.kids {
		if !c.inner.kids[i].each(q, fn) {
			return false
		}
	}
	return true
}
