// Package client lets a program hold what it reaches directly: leases on ranges of
// files of a Holdfast volume, the memory of these ranges, and pins for what a device
// may reach at any time.
//
// # A session
//
// [Dial] connects to a server, [ForFile] to that of the volume that an open file is
// of. All requests go over the [Session]; it belongs to this process. Several
// goroutines may use it at once.
//
// # Leases
//
// [Session.Lease] asks for a lease on a range of an open file. The lease lives until
// it is released, or the last copy of its handle is closed, or it is cut. The handle
// is a descriptor of the kernel ([Lease.File]): dup, fork, exec and SCM_RIGHTS copy
// it, death closes it.
//
// A lease is a promise to be told. When a change of the file needs the range, an
// [Event] says so: on the channel of [Lease.Events], or on the handle, which becomes
// readable for poll and can raise SIGIO. The holder then stops using the range, and
// gives it back with [Lease.Return], or all with [Lease.Release]. One that does not
// until the deadline is cut: the memory it has mapped stops being the file.
//
// With Options.Unbreakable nobody asks: the change fails with ETXTBSY.
//
// # Memory
//
// [Lease.Map] maps the pages of the file. They are there, they stay where they are,
// and they can be registered with what pins memory for long: an AF_XDP socket, an
// io_uring, an RDMA device. Reads and writes through the mount go to the same pages.
// [Lease.Commit] makes durable what was written.
//
// # Contexts and pins
//
// Who registers the memory with a device says so: [Session.Register] names the object,
// [Context.Pin] what can be reached through it. From then on the range cannot be given
// back, and the context owns the lease too: closing the file, the lease and the
// mapping changes nothing, until the pin or the last copy of the context's handle
// goes.
//
// # Errors and contexts
//
// What the server refuses is an [*Error] with its explanation; errors.Is finds the
// errno: ETXTBSY, EBUSY, EDEADLK, EAGAIN, EPERM and so on. A context.Context bounds the
// waiting: when it is done the call returns, and what the server grants too late is
// given back.
//
// Close of a session ends its goroutines and closes the handles in this process.
//
// # Locks
//
// Session.mu and Session.wmu, Lease.mu and Mapping.mu are leaves, none is held while
// another is taken, except that Lease.mu comes before Session.mu. The package imports
// the wire format and nothing of the server.
package client
