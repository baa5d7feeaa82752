// Package store keeps the metadata: ordered keys, atomic compare-then batches,
// explicit sync.
//
// It must not know what the keys mean. The shape fits stores that limit a
// transaction, as etcd does, so that one can take Pebble's place one day.
//
// Lock order: the apply mutex of Pebble, then what the library has inside. The
// throttle's mutex and the group of Sync are leaves.
package store

import (
	"errors"
	"fmt"
	"syscall"
)

const (
	// MaxOps is the largest number of compares, puts and deletes of a batch.
	MaxOps = 128
	// MaxBytes is the largest sum of the sizes of keys and values of a batch.
	MaxBytes = 3 << 19
)

var (
	// ErrNotFound says that the key has no value.
	ErrNotFound = errors.New("key not found")
	// ErrConflict says that a compare of the batch did not hold; nothing was
	// applied.
	ErrConflict = errors.New("compare failed")
	// ErrFenced says that the batch's term has passed: another server has taken
	// over. Nothing was applied.
	ErrFenced = errors.New("fenced: a server with a higher term has taken over")
	// ErrTooLarge says that the batch exceeds MaxOps or MaxBytes.
	ErrTooLarge = errors.New("batch is too large")
	// ErrInUse says that another process holds the store.
	ErrInUse = errors.New("store is in use by another process")
	// ErrNotExist says that there is no store at the path.
	ErrNotExist = errors.New("no store here")
	// ErrFailed says that the store had an I/O error. It takes no more batches
	// until it is opened anew.
	ErrFailed = fmt.Errorf("store has failed: %w", syscall.EIO)
)

// Reader reads a store.
type Reader interface {
	// Get returns the value of key, which the caller may keep, or ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for the keys of [lower, upper) in order, on one snapshot, until
	// fn returns false or an error. k and v are valid only during the call. A nil
	// upper means to the end.
	Scan(lower, upper []byte, fn func(k, v []byte) (bool, error)) error
}

// Store is an ordered key-value store.
//
// All methods may be called from many goroutines at once.
type Store interface {
	Reader
	// Apply checks the batch's term and compares, and does all of it or nothing.
	// It is visible at once. It is durable after a Sync that starts when Apply has
	// returned, and never before batches that were applied earlier: a crash leaves
	// a prefix.
	Apply(b *Batch) error
	// Sync makes durable all batches applied before it was called. Callers that
	// come while one runs share the next.
	Sync() error
	// Fence raises the term, durably: batches of a lower term are refused from then
	// on. It returns ErrFenced if the store's term is already higher.
	Fence(term uint64) error
	// Close ends the store. What was not synced may be lost.
	Close() error
}
