// Package layout holds the rules for leases, pins and changes as a pure state
// machine: Step(now, input) returns effects. It does no I/O, starts no
// goroutine and has no time of its own; the caller passes the time in and
// serialises all calls on one Machine.
//
// A Machine is one shard's worth of files, known by inode number. It must not
// know what a block, a socket or a process is. The arbiter runs it: it makes the
// effects happen and feeds their outcome back as inputs.
//
// # How a step is to be used
//
// Step never blocks. The effects of a step are to be carried out in the order
// given; each effect kind says what must have happened before whom is told what.
// An effect that starts work (Unmap, Cut) is answered later by an input
// (OpUnmapped, OpCutDone, or their failures); until then the range stays in the
// way of every conflicting change and grant, because a page that is still
// reachable is not free.
//
// # Lives
//
// A lease is granted, may be breaking (its holder was asked for a range), timed
// out, cutting (detached without its holder), and ends revoked or released. A
// request is an acquire, an upgrade or a change that could not be served at once:
// it waits (behind an earlier one, or for holds to go), or it breaks (its barrier
// stands and holders were asked), and a change then applies until OpDone.
//
// Requests on overlapping ranges that conflict are served in the order they
// came. A change that is refused leaves no barrier and alters nothing.
//
// The only thing that machines of several shards share is Waits, the graph of
// sessions that wait for each other, with a lock of its own that is a leaf.
package layout
