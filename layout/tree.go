package layout

import (
	"math/bits"

	"holdfast/extent"
)

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

// key is the order of the tree. Offsets are never negative.
type key struct {
	off int64
	id  uint64
}

// before is 1 if k comes before o, and 0 if not: a number, because a search that branches on it is guessed wrong half the time.
func (k key) before(o key) int {
	_, borrow := bits.Sub64(k.id, o.id, 0)
	_, borrow = bits.Sub64(uint64(k.off), uint64(o.off), borrow)
	return int(borrow)
}

// item is an interval [off, end) with the key (off, id).
type item[V any] struct {
	key
	end   int64
	val   *V
	owner uint32 // never 0
	class uint8  // bit set
}

func (it *item[V]) Range() extent.Range { return extent.Range{Off: it.off, End: it.end} }

// query selects items that overlap r, are of a class, and, where not 0, are not owned by not, are owned by only.
type query struct {
	r         extent.Range
	class     uint8
	not, only uint32
}

// sum is what the items of a subtree reach and own, by class.
type sum struct {
	ends   [classes]int64  // largest end, -1 without items
	owners [classes]uint32 // the one owner, mixed, or 0 without items
}

var nobody = sum{ends: [classes]int64{-1, -1, -1}}

// child is a subtree: a leaf, or an inner node.
type child[V any] struct {
	sum
	items []item[V] // of a leaf
	inner *inner[V]
}

// inner has for each child its least key. The keys are apart from what they lead to, so that a search sees nothing else.
type inner[V any] struct {
	keys []key
	kids []child[V]
}

// tree is an augmented B+ tree of intervals.
type tree[V any] struct {
	root   child[V]
	n      int
	leaves [][]item[V] // spare: who comes and goes at the edge of a full node must not allocate each time
	inners []*inner[V]
}

// step is a way down: from a node to its child i.
type step[V any] struct {
	node *inner[V]
	i    int
}

const maxSpare = 4

func (t *tree[V]) newLeaf() []item[V] {
	if n := len(t.leaves); n > 0 {
		l := t.leaves[n-1]
		t.leaves = t.leaves[:n-1]
		return l
	}
	return make([]item[V], 0, width)
}

func (t *tree[V]) newInner() *inner[V] {
	if n := len(t.inners); n > 0 {
		i := t.inners[n-1]
		t.inners = t.inners[:n-1]
		return i
	}
	return &inner[V]{}
}

// spare keeps the node of c, whose content has moved.
func (t *tree[V]) spare(c child[V]) {
	switch {
	case c.inner == nil && len(t.leaves) < maxSpare && cap(c.items) >= width:
		clear(c.items)
		t.leaves = append(t.leaves, c.items[:0])
	case c.inner != nil && len(t.inners) < maxSpare:
		clear(c.inner.kids)
		c.inner.keys, c.inner.kids = c.inner.keys[:0], c.inner.kids[:0]
		t.inners = append(t.inners, c.inner)
	}
}

// search returns the index of the first item whose key is not before k. It counts, first by fours: these loads do not wait
// for each other, as those of a binary search of cold memory do, and what a change moves next has then come near.
func search[V any](items []item[V], k key) int {
	n := 0
	for i := 3; i < len(items); i += 4 {
		n += 4 * items[i].before(k)
	}
	more := 0
	for i := range items[n:min(n+4, len(items))] {
		more += items[n+i].before(k)
	}
	return n + more
}

// find returns the index of the child in which k belongs: of the last one whose key is not after it, or the first.
func (n *inner[V]) find(k key) int {
	i := 0
	for j := 4; j < len(n.keys); j += 4 {
		i += 4 * (1 - k.before(n.keys[j]))
	}
	more := 0
	for _, o := range n.keys[i+1 : min(i+4, len(n.keys))] {
		more += 1 - k.before(o)
	}
	return i + more
}

// descend returns the leaf in which k belongs, and adds to path the way there.
func (t *tree[V]) descend(k key, path []step[V]) (*child[V], []step[V]) {
	c := &t.root
	for c.inner != nil {
		i := c.inner.find(k)
		path = append(path, step[V]{c.inner, i})
		c = &c.inner.kids[i]
	}
	return c, path
}

// above returns the child whose node the path's last step starts from.
func (t *tree[V]) above(path []step[V]) *child[V] {
	if len(path) < 2 {
		return &t.root
	}
	s := path[len(path)-2]
	return &s.node.kids[s.i]
}

func (s *sum) reach(class int, end int64, owner uint32) {
	s.ends[class] = max(s.ends[class], end)
	switch s.owners[class] {
	case 0:
		s.owners[class] = owner
	case owner:
	default:
		s.owners[class] = mixed
	}
}

func (s *sum) add(class uint8, end int64, owner uint32) {
	for k := range classes {
		if class&(1<<k) != 0 {
			s.reach(k, end, owner)
		}
	}
}

// sumUp computes what c says of its node.
func (c *child[V]) sumUp() {
	c.sum = nobody
	for i := range c.items {
		it := &c.items[i]
		c.add(it.class, it.end, it.owner)
	}
	if c.inner == nil {
		return
	}
	for i := range c.inner.kids {
		kid := &c.inner.kids[i]
		for k := range classes {
			if o := kid.owners[k]; o != 0 {
				c.reach(k, kid.ends[k], o)
			}
		}
	}
}

// less computes anew what c says of the classes of an item that was removed, and reports whether it says something else
// now. It stops as soon as it is back at what it said before.
func (c *child[V]) less(class uint8, end int64) (changed bool) {
	for k := range classes {
		if class&(1<<k) == 0 {
			continue
		}
		wasEnd, wasOwner := c.ends[k], c.owners[k]
		c.ends[k], c.owners[k] = -1, 0
		if end < wasEnd { // something else reaches that far
			c.ends[k] = wasEnd
		}
		for i := range c.size() {
			if c.inner == nil {
				if it := &c.items[i]; it.class&(1<<k) != 0 {
					c.reach(k, it.end, it.owner)
				}
			} else if kid := &c.inner.kids[i]; kid.owners[k] != 0 {
				c.reach(k, kid.ends[k], kid.owners[k])
			}
			if c.ends[k] == wasEnd && c.owners[k] == wasOwner {
				break
			}
		}
		changed = changed || c.ends[k] != wasEnd || c.owners[k] != wasOwner
	}
	return changed
}

// insert adds an item whose key is not in the tree.
func (t *tree[V]) insert(it *item[V]) {
	var buf [8]step[V]
	c, path := t.descend(it.key, buf[:0])
	if t.n == 0 {
		t.root.sum = nobody
	}
	t.n++
	t.root.add(it.class, it.end, it.owner)
	for _, s := range path {
		s.node.kids[s.i].add(it.class, it.end, it.owner)
		if s.i == 0 && it.before(s.node.keys[0]) != 0 {
			s.node.keys[0] = it.key
		}
	}
	i := search(c.items, it.key)
	if len(c.items) < width {
		c.items = insertAt(c.items, i, *it)
		return
	}
	at := splitAt(i)
	right := child[V]{items: append(t.newLeaf(), c.items[at:]...)}
	clear(c.items[at:])
	c.items = c.items[:at]
	if i > at || at == width {
		right.items = insertAt(right.items, i-at, *it)
	} else {
		c.items = insertAt(c.items, i, *it)
	}
	c.sumUp()
	right.sumUp()
	t.grow(path, right.items[0].key, right)
}

// grow adds the right part of a node that was split, to which path leads, beside it.
func (t *tree[V]) grow(path []step[V], k key, right child[V]) {
	for ; len(path) > 0; path = path[:len(path)-1] {
		n, i := path[len(path)-1].node, path[len(path)-1].i+1
		if len(n.kids) < width {
			n.insert(i, k, right)
			return
		}
		at := splitAt(i)
		r := t.newInner()
		r.keys = append(r.keys, n.keys[at:]...)
		r.kids = append(r.kids, n.kids[at:]...)
		clear(n.kids[at:])
		n.keys, n.kids = n.keys[:at], n.kids[:at]
		if i > at || at == width {
			r.insert(i-at, k, right)
		} else {
			n.insert(i, k, right)
		}
		t.above(path).sumUp()
		k, right = r.keys[0], child[V]{inner: r}
		right.sumUp()
	}
	n := t.newInner()
	n.insert(0, t.root.least(), t.root)
	n.insert(1, k, right)
	t.root = child[V]{inner: n}
	t.root.sumUp()
}

func (n *inner[V]) insert(i int, k key, c child[V]) {
	n.keys = insertAt(n.keys, i, k)
	n.kids = insertAt(n.kids, i, c)
}

// least returns a key that no item of c, which must not be empty, is before.
func (c *child[V]) least() key {
	if c.inner != nil {
		return c.inner.keys[0]
	}
	return c.items[0].key
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
	var buf [8]step[V]
	k := key{off, id}
	c, path := t.descend(k, buf[:0])
	i := search(c.items, k)
	if i == len(c.items) || c.items[i].key != k {
		return false
	}
	class, end := c.items[i].class, c.items[i].end
	c.items = deleteAt(c.items, i)
	t.n--
	for ; c.less(class, end) || c.size() < width/4; path = path[:len(path)-1] {
		if len(path) == 0 {
			break
		}
		s := path[len(path)-1]
		if c.size() < width/4 {
			s.node.merge(t, s.i)
		}
		c = t.above(path)
	}
	for t.root.inner != nil && len(t.root.inner.kids) == 1 {
		old := t.root
		t.root = old.inner.kids[0]
		t.spare(old)
	}
	return true
}

func (c *child[V]) size() int {
	if c.inner != nil {
		return len(c.inner.kids)
	}
	return len(c.items)
}

// merge joins child i with a neighbour if both fit in one node with room to spare: who comes and goes at the edge of a
// full node must not split and join each time. So a leaf may be empty beside full ones; an inner node never is.
func (n *inner[V]) merge(t *tree[V], i int) {
	for _, l := range [2]int{i - 1, i} {
		if l < 0 || l+1 >= len(n.kids) {
			continue
		}
		a, b := &n.kids[l], &n.kids[l+1]
		if a.size()+b.size() > width*3/4 {
			continue
		}
		if a.inner == nil {
			a.items = append(a.items, b.items...)
		} else {
			a.inner.keys = append(a.inner.keys, b.inner.keys...)
			a.inner.kids = append(a.inner.kids, b.inner.kids...)
		}
		a.sumUp()
		t.spare(*b)
		n.keys = deleteAt(n.keys, l+1)
		n.kids = deleteAt(n.kids, l+1)
		return
	}
}

func (s *sum) matches(q *query) bool {
	owner := s.owners[q.class]
	return s.ends[q.class] > q.r.Off &&
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
	if c.inner == nil {
		for i := range c.items {
			if c.items[i].matches(q) {
				return &c.items[i]
			}
		}
		return nil
	}
	for i, k := range c.inner.keys {
		if k.off >= q.r.End {
			break
		}
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
	if c.inner == nil {
		for i := range c.items {
			if c.items[i].matches(q) && !fn(&c.items[i]) {
				return false
			}
		}
		return true
	}
	for i, k := range c.inner.keys {
		if k.off >= q.r.End {
			break
		}
		if !c.inner.kids[i].each(q, fn) {
			return false
		}
	}
	return true
}
