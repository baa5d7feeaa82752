// Package arbiter runs the rules of package layout: it makes their effects
// happen (notify, detach, cut, wake), blocks callers for as long as they may
// wait, and owns the clock.
//
// Every way to a file's blocks comes through here: Acquire, Pin, and Break
// before a change. It must not know protocols, sockets or the namespace: the
// filesystem is a Storage, a mechanism that reaches blocks is a Context, whoever
// holds a lease is a Holder.
//
// # Locks
//
// Files are spread over shards, each with a machine and a mutex. Nothing global
// is written on the way of Acquire, release or Break.
//
//	shard.mu → Arbiter.mu → feed.mu
//	shard.mu → layout.Waits' own
//
// At most one shard.mu is held at a time; only Claim takes all of them, in their order. Storage, Holder and Context are called
// with no lock held.
//
// # Order
//
// A step's effects are gathered under the shard's lock and carried out after it
// (outbox.flush). A range that was given back or taken away is free only after
// Storage.Unmap or Storage.Cut has returned and the machine was told; only that
// step lets waiters go on.
package arbiter
