// Package crashtest proves what the volume and the namespace promise about
// crashes, on a simulated disk (holdfast/internal/sim).
//
// A Workload does something with a filesystem through a World, which writes down
// for each step from where to where in the log of the disk it lasted and what it
// promises. A Recording of it is then verified at any position of the log, with any
// choice of what the crash leaves: the volume opens, check finds nothing, the names
// are those of one moment between the last that was durable and the crash, the
// bytes that were synced are there, all others are bytes that this file may show
// at this place, what happens at once is not half done, and each block is somebody's
// or free.
//
// To add a workload, write a func(*World) and put it into Workloads. To add an
// operation, write a method of World beside the others: it calls the filesystem
// within do, and appends what may have become of the content (change) or of the
// names (rename). What changes the place of bytes in one step is a change of the
// kind edited.
//
// Workloads run on one goroutine, so that a recording is the same each time.
//
// It is for tests only.
package crashtest
