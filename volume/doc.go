// Package volume keeps files on blocks: records in a store, bytes on a device,
// the allocator between them, and both extent maps (file to blocks, blocks to
// file). It promises that after any crash no block belongs to two files, no byte
// that was never written or belonged to another file can be read, and everything
// that Sync returned for is there.
//
// It must not know who may read or change a file, who holds leases on it, or what
// a pin is: it takes physical holds on blocks, and its callers decide.
//
// # Who guards what
//
// An Inode is guarded by its caller, with one RWMutex per inode. Methods say
// "shared" or "exclusive"; Sync and SyncAll are handed that mutex and take it
// themselves, so their caller must not hold it.
//
// # Order of durability
//
// A block that a file gets is, in the store, nobody's or unwritten until its bytes
// have been flushed to the device. A commit takes a snapshot of what is pending
// (inode exclusive), flushes the device (no lock), writes the records in batches
// of bounded size, the file's size in the last (inode exclusive), and syncs the
// store (no lock). In memory the inode knows its bytes at once.
//
// What a file gives up leaves the store at once, in bounded batches that an intent
// record makes restartable, and stays on the busy list until those batches are
// durable. Only then can another file get it. The store keeps batches in order, so
// that an older commit is never durable without what came before it.
//
// # Shared blocks
//
// Ranges of files may have blocks together. All their records say so (a mark that
// may outlive the sharing), and space counts the references. What is shared is never
// altered: a write takes new blocks and leaves the store as it is, and the commit that
// records them gives the old ones up. A reference counts until its loss is durable.
//
// # Orphans
//
// Blocks under a hold that no file has any more are orphans. The record of one is
// written before the batch that takes the blocks from their file, and counts as a
// reference; it is taken out when nobody holds them, and the blocks are busy until that
// is durable. A record of blocks that a file has is what a crash between the two leaves:
// it means nothing, and the next open drops it.
//
// # Checksums
//
// Where data have checksums, what the store calls written, or may after a crash, is
// treated as if it were shared, and a block's checksum is in the store before the block
// is written there. See sums.
//
// # Lock order
//
//	growMu, syncAllMu
//	  Inode.commitMu
//	    the caller's mutex of an inode
//	      Inode.loadMu
//	      counter.mu
//	      orphanMu
//	      settleMu
//	        space.mu
//	        reserveMu
//	      sums.order
//	        sums.mu
//
// Those on one level are never held together. The locks of device and store are
// below all of them. ReadAt, Overwrite, Plan and Extents of a loaded inode take no
// lock at all, but sums.mu to read where data have checksums.
package volume
