package layout

import "math/bits"

// table finds things by name. It is open addressing with linear probing, and removal moves entries back: under a steady
// coming and going it neither allocates nor rehashes, as Go's map would, whose garbage has the collector walk a million leases.
type table[V any] struct {
	slots []slot[V]
	n     int
	shift uint8 // of the hash, so that it indexes slots
	unit  uint8 // names ascend by 1<<unit
}

type slot[V any] struct {
	id  uint64
	val *V // nil: free
}

const minSlots = 16

// home is where a name should be: Fibonacci hashing, as names ascend. Four that follow each other share a cache line:
// what was made together is mostly used together.
func (t *table[V]) home(id uint64) int {
	id >>= t.unit
	return int(id>>2*0x9e3779b97f4a7c15>>t.shift&^3 | id&3)
}

func (t *table[V]) get(id uint64) *V {
	if t.n == 0 {
		return nil
	}
	for i := t.home(id); ; i++ {
		s := &t.slots[i&(len(t.slots)-1)]
		if s.id == id || s.val == nil {
			return s.val
		}
	}
}

// put adds what is not in the table.
func (t *table[V]) put(id uint64, val *V) {
	if 4*(t.n+1) > 3*len(t.slots) {
		t.resize(max(2*len(t.slots), minSlots))
	}
	t.place(id, val)
	t.n++
}

func (t *table[V]) place(id uint64, val *V) {
	i := t.home(id)
	for t.slots[i].val != nil {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = slot[V]{id, val}
}

// remove takes out what is in the table.
func (t *table[V]) remove(id uint64) {
	mask := len(t.slots) - 1
	i := t.home(id)
	for t.slots[i].id != id {
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; t.slots[j].val != nil; j = (j + 1) & mask {
		if (j-t.home(t.slots[j].id))&mask >= (j-i)&mask { // its home is not after the gap
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot[V]{}
	t.n--
	if len(t.slots) > minSlots && 8*t.n < len(t.slots) {
		t.resize(len(t.slots) / 2)
	}
}

func (t *table[V]) resize(size int) {
	old := t.slots
	t.slots = make([]slot[V], size)
	t.shift = uint8(64 - bits.TrailingZeros(uint(size)))
	for _, s := range old {
		if s.val != nil {
			t.place(s.id, s.val)
		}
	}
}

// each calls fn for everything in the table, in no order.
func (t *table[V]) each(fn func(*V)) {
	for _, s := range t.slots {
		if s.val != nil {
			fn(s.val)
		}
	}
}
