package volume

import (
	"fmt"
	"hash/crc32"

	"holdfast/store"
)

// Every value in the store ends with a checksum of its key and itself, so that a
// damaged record, or a whole one under the wrong key, is an error and not an
// answer. Only this file knows.

// sealLen is the length of the checksum.
const sealLen = 4

func seal(k, v []byte) []byte {
	sealed := append(make([]byte, 0, len(v)+sealLen), v...)
	return le.AppendUint32(sealed, checksum(k, v))
}

func checksum(k, v []byte) uint32 {
	return crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, v)
}

// unseal returns the value that seal was given, as a part of its argument.
func unseal(k, sealed []byte) ([]byte, error) {
	n := len(sealed) - sealLen
	if n < 0 {
		return nil, fmt.Errorf("record %q of %d bytes: %w", k, len(sealed), ErrCorrupt)
	}
	if le.Uint32(sealed[n:]) != checksum(k, sealed[:n]) {
		return nil, fmt.Errorf("checksum of record %q: %w", k, ErrCorrupt)
	}
	return sealed[:n:n], nil
}

// batch is a store.Batch that seals what is put into it.
type batch struct{ b store.Batch }

// Put sets key to value. The batch keeps the key only.
func (b *batch) Put(key, value []byte) { b.b.Put(key, seal(key, value)) }

// Delete removes key, if it is there. The batch keeps the slice.
func (b *batch) Delete(key []byte) { b.b.Delete(key) }

// Ops is the number of puts and deletes, to hold against store.MaxOps.
func (b *batch) Ops() int { return b.b.Ops() }

// Reset empties the batch.
func (b *batch) Reset() { b.b.Reset() }

// sealedReader reads what was sealed. A record whose checksum is wrong is
// ErrCorrupt.
type sealedReader struct{ store.Reader }

// Get is store.Reader's.
func (r sealedReader) Get(key []byte) ([]byte, error) {
	v, err := r.Reader.Get(key)
	if err != nil {
		return nil, err
	}
	return unseal(key, v)
}

// Scan is store.Reader's. It ends at the first record that is damaged.
func (r sealedReader) Scan(lower, upper []byte, fn func(k, v []byte) (bool, error)) error {
	return r.Reader.Scan(lower, upper, func(k, v []byte) (bool, error) {
		v, err := unseal(k, v)
		if err != nil {
			return false, err
		}
		return fn(k, v)
	})
}

// sealedStore is a store whose values are sealed.
type sealedStore struct {
	sealedReader
	st store.Store
}

func sealed(st store.Store) sealedStore { return sealedStore{sealedReader{st}, st} }

// Apply is store.Store's.
func (s sealedStore) Apply(b *batch) error { return s.st.Apply(&b.b) }

// Sync is store.Store's.
func (s sealedStore) Sync() error { return s.st.Sync() }

// Fence is store.Store's.
func (s sealedStore) Fence(term uint64) error { return s.st.Fence(term) }
