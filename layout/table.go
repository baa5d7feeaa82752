package layout

import "math/bits"

// table finds leases by name. It is open addressing with linear probing, and removal moves entries back: under a steady
// coming and going it neither allocates nor rehashes, as Go's map would, whose garbage has the collector walk a million leases.
type table struct {
	slots []slot
	n     int
	shift uint8 // of the hash, so that it indexes slots
}

type slot struct {
	id    LeaseID // 0: free
	lease *lease
}

const minSlots = 16

func (t *table) home(id LeaseID) int {
	return int(uint64(id) * 0x9e3779b97f4a7c15 >> t.shift) // Fibonacci hashing: names ascend by a stride
}

func (t *table) get(id LeaseID) *lease {
	if t.n == 0 || id == 0 {
		return nil
	}
	for i := t.home(id); ; i = (i + 1) & (len(t.slots) - 1) {
		switch t.slots[i].id {
		case id:
			return t.slots[i].lease
		case 0:
			return nil
		}
	}
}

// put adds a lease that is not in the table.
func (t *table) put(l *lease) {
	if 4*(t.n+1) > 3*len(t.slots) {
		t.resize(max(2*len(t.slots), minSlots))
	}
	t.place(l)
	t.n++
}

func (t *table) place(l *lease) {
	i := t.home(l.id)
	for t.slots[i].id != 0 {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = slot{l.id, l}
}

// remove takes out a lease that is in the table.
func (t *table) remove(id LeaseID) {
	mask := len(t.slots) - 1
	i := t.home(id)
	for t.slots[i].id != id {
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; t.slots[j].id != 0; j = (j + 1) & mask {
		if (j-t.home(t.slots[j].id))&mask >= (j-i)&mask { // its home is not after the gap
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = slot{}
	t.n--
	if len(t.slots) > minSlots && 8*t.n < len(t.slots) {
		t.resize(len(t.slots) / 2)
	}
}

func (t *table) resize(size int) {
	old := t.slots
	t.slots = make([]slot, size)
	t.shift = uint8(64 - bits.TrailingZeros(uint(size)))
	for _, s := range old {
		if s.id != 0 {
			t.place(s.lease)
		}
	}
}

// each calls fn for every lease, in no order.
func (t *table) each(fn func(*lease)) {
	for _, s := range t.slots {
		if s.id != 0 {
			fn(s.lease)
		}
	}
}
