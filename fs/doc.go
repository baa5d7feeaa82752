// Package fs is the POSIX namespace of a volume: names, attributes, file
// content, and the windows through which holders of leases reach content
// directly. It plans each change, asks the arbiter for leave, and applies it in
// the volume.
//
// It does not check permissions: the kernel does for the mount, the way in for
// others. It must not know FUSE, sockets, or how a lease is granted.
//
// # A change
//
// The plan says which range a change alters and how (layout.Class). With no lock
// held the arbiter is asked, which may take long. Then the inode is locked and
// the plan made again; if it has grown beyond what the arbiter gave leave for, it
// is asked anew. Only then is anything altered.
// Where a write to shared blocks is refused for who reaches them directly, the other files that
// have them get copies first, and it goes on.
//
// # Windows
//
// Map copies a range into memory objects and makes them the range's address in
// the volume, so that all other paths read and write through them at once. The
// range's home on the device gets the content back at commit, fsync and release.
// What lies behind the end of file is not content and never written back.
//
// Holes get a home before memory is handed out for writing (no late ENOSPC).
// Mapping for reading allocates nothing: a hole stays one, under pages of zeros,
// until somebody else allocates it or writes there. Write-back leaves it out.
//
// What a hold keeps of a window when the file gives its range up (Orphan) leaves the file and
// lives on for the holder, until the hold ends.
//
// # Lock order
//
//	FS.renameMu            cross-directory moves of directories, so that no loop can form
//	  inode.winMu          one inode's windows are being made, written back or detached
//	    inode.mu           by inode number, where several are needed; also guards the volume's Inode
//	      shard.mu         the inode cache's parts, and reference counts
//	      FS.dirtyMu
//	      orphans.mu
//	      the arbiter's and the volume's own locks
//
// A View holds inode.mu shared until it is closed. Of inode.winMu nobody holds
// two. No lock is held while arbiter.Break or Acquire waits; the arbiter calls the
// Storage without a lock of its own. A path needs no more than shard.mu, so that
// the arbiter can ask for it at any time.
package fs
