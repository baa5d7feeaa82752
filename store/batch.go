package store

import "bytes"

// indexFrom is how many changes a batch has when it begins to keep an index of them.
// Most have fewer, among which a look at each key is quicker.
const indexFrom = 12

// Batch is a set of changes that are applied together or not at all.
type Batch struct {
	// Term is the writer's. See Store.Fence.
	Term uint64

	compares []op
	ops      []op
	index    map[string]int // of ops, once there are indexFrom
	bytes    int
}

// op is a put, a delete (present false) or a compare (wanting absence).
type op struct {
	key, value []byte
	present    bool
}

// Compare makes the batch depend on key having value.
func (b *Batch) Compare(key, value []byte) {
	b.compares = append(b.compares, op{key, value, true})
	b.bytes += len(key) + len(value)
}

// CompareAbsent makes the batch depend on key having no value.
func (b *Batch) CompareAbsent(key []byte) {
	b.compares = append(b.compares, op{key, nil, false})
	b.bytes += len(key)
}

// Put sets key to value. The batch keeps both slices. The last Put or Delete of
// a key is the one that counts.
func (b *Batch) Put(key, value []byte) { b.set(op{key, value, true}) }

// Delete removes key, if it is there. The batch keeps the slice.
func (b *Batch) Delete(key []byte) { b.set(op{key, nil, false}) }

func (b *Batch) set(o op) {
	b.bytes += len(o.key) + len(o.value)
	if i, ok := b.find(o.key); ok {
		b.bytes -= len(b.ops[i].key) + len(b.ops[i].value)
		b.ops[i] = o
		return
	}
	b.ops = append(b.ops, o)
	switch n := len(b.ops); {
	case n == indexFrom:
		if b.index == nil {
			b.index = make(map[string]int)
		}
		for i, o := range b.ops {
			b.index[string(o.key)] = i
		}
	case n > indexFrom:
		b.index[string(o.key)] = n - 1
	}
}

// find returns where in ops key is.
func (b *Batch) find(key []byte) (int, bool) {
	if len(b.ops) >= indexFrom {
		i, ok := b.index[string(key)]
		return i, ok
	}
	for i := range b.ops {
		if bytes.Equal(b.ops[i].key, key) {
			return i, true
		}
	}
	return 0, false
}

// Ops is the number of compares, puts and deletes, to hold against MaxOps.
func (b *Batch) Ops() int { return len(b.compares) + len(b.ops) }

// Bytes is the size of keys and values, to hold against MaxBytes.
func (b *Batch) Bytes() int { return b.bytes }

// Reset empties the batch and keeps its term.
func (b *Batch) Reset() {
	b.compares, b.ops, b.bytes = b.compares[:0], b.ops[:0], 0
	clear(b.index)
}
