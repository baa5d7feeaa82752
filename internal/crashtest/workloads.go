package crashtest

import "fmt"

// fragments is more extents than fit into one batch of the store, several times.
const fragments = 130

// Workloads returns those that are short enough to fail at each position.
func Workloads() []Workload {
	return []Workload{
		{Name: "append", Run: appends},
		{Name: "overwrite", Run: overwrites},
		{Name: "interleaved", Run: interleaved},
		{Name: "replace", Run: replaces},
		{Name: "names", Run: namesOnly},
		{Name: "truncate", Run: truncates},
		{Name: "truncate-many", Size: 3 << 20, Run: func(w *World) { many(w, func() { w.Truncate("/f", 5*block+100) }) }},
		{Name: "punch-many", Size: 3 << 20, Run: func(w *World) { many(w, func() { w.Punch("/f", 3*block+100, 2*fragments*block) }) }},
		{Name: "unlink-many", Size: 3 << 20, Run: func(w *World) { many(w, func() { w.Unlink("/f") }) }},
		{Name: "grow-many", Size: 3 << 20, Run: growsMany},
		{Name: "punch", Run: punches},
		{Name: "allocate", Run: allocates},
		{Name: "reuse", Size: 320 * kib, Run: reuses},
		{Name: "reuse-idle", Size: 320 * kib, Run: reusesIdle},
		{Name: "unlinked-open", Run: unlinkedOpen},
		{Name: "syncfs", Run: syncs},
		{Name: "window", Run: windows},
		{Name: "grow", Size: 256 * kib, Run: grows},
		{Name: "clone", Run: clones},
		{Name: "clone-over-many", Size: 3 << 20, Run: clonesOverMany},
		{Name: "collapse", Run: collapses},
		{Name: "collapse-many", Size: 3 << 20, Run: func(w *World) { many(w, func() { w.Collapse("/f", 3*block, 101*block) }) }},
		{Name: "insert", Run: inserts},
		{Name: "insert-many", Size: 3 << 20, Run: func(w *World) { many(w, func() { w.Insert("/f", 3*block, 100*block) }) }},
		{Name: "zero", Run: zeroes},
		{Name: "defrag", Run: defrags},
		{Name: "divert", Run: diverts},
		{Name: "evacuate", Run: evacuates},
		{Name: "defer", Size: 320 * kib, Run: defers},
		{Name: "defer-shared", Run: defersShared},
		{Name: "defer-many", Size: 3 << 20, Run: defersMany},
	}
}

// appends lets a log grow in small steps, most of them synced.
func appends(w *World) {
	w.Create("/log")
	w.FsyncDir("/")
	for i := range int64(8) {
		w.Append("/log", 700+i*500)
		if i != 4 {
			w.Fsync("/log")
		}
	}
	w.Append("/log", 10*block)
	w.Append("/log", 100)
}

// overwrites writes over what is durable, within blocks and across.
func overwrites(w *World) {
	w.Create("/f")
	w.Write("/f", 0, 6*block)
	w.Fsync("/f")
	w.Write("/f", 100, 1000)
	w.Write("/f", block-10, 2*block)
	w.Fsync("/f")
	w.Write("/f", 3*block, block)
	w.Write("/f", 5*block+500, 3*block)
	w.FsyncDir("/") // of the names, not of the bytes
	w.Write("/f", 0, 8*block)
	w.Fsync("/f")
}

// interleaved has two files side by side, of which one is synced.
func interleaved(w *World) {
	w.Create("/a")
	w.Create("/b")
	for i := range int64(5) {
		w.Append("/a", 3000)
		w.Append("/b", 5000)
		if i%2 == 0 {
			w.Fsync("/a")
		}
	}
	w.Fsync("/b")
	w.Write("/b", 4000, 5000)
	w.Write("/a", 0, 100)
	w.Fsync("/a")
}

// replaces changes a file as programs do: a new one beside it, renamed over it.
func replaces(w *World) {
	w.Create("/conf")
	w.Write("/conf", 0, 5000)
	w.Fsync("/conf")
	w.FsyncDir("/")
	for i := range int64(3) {
		w.Create("/conf.new")
		w.Write("/conf.new", 0, 4000+3000*i)
		if i != 1 { // the careless way: never synced
			w.Fsync("/conf.new")
		}
		w.Rename("/conf.new", "/conf")
		w.FsyncDir("/")
	}
	w.Create("/x")
	w.Rename("/x", "/conf")
}

// namesOnly makes, moves and removes names.
func namesOnly(w *World) {
	w.Mkdir("/d")
	w.Create("/d/a")
	w.FsyncDir("/d")
	w.Link("/d/a", "/b")
	w.Symlink("d/a", "/s")
	w.Mkdir("/d/e")
	w.Fsync("/b")
	w.Rename("/d/e", "/e")
	w.Exchange("/e", "/d")
	w.FsyncDir("/e")
	w.Unlink("/b")
	w.Rename("/e/a", "/d/a")
	w.Rmdir("/e")
	w.Rename("/d", "/last")
	w.FsyncDir("/last")
	w.Unlink("/last/a")
	w.Unlink("/s")
	w.Sync()
}

// truncates makes a file shorter and longer.
func truncates(w *World) {
	w.Create("/f")
	w.Write("/f", 0, 6*block+50)
	w.Fsync("/f")
	w.Truncate("/f", 2*block+10)
	w.FsyncDir("/")
	w.Truncate("/f", 4*block)
	w.Fsync("/f")
	w.Write("/f", 3*block, 2000)
	w.Truncate("/f", 3*block+1000)
	w.Fsync("/f")
	w.Append("/f", 5000)
	w.Truncate("/f", 0)
	w.Append("/f", 3000)
	w.Fsync("/f")
}

// many makes a file of many extents, and does what takes several batches.
func many(w *World, op func()) {
	w.Create("/f")
	for i := range int64(fragments) {
		w.Write("/f", 2*i*block, 8)
	}
	w.Fsync("/f")
	w.FsyncDir("/")
	w.Begin()
	op()
	w.Create("/g")
	w.Append("/g", 10*block)
	w.Fsync("/g")
	if _, ok := w.tree["/f"]; ok {
		w.Append("/f", 3*block)
		w.Fsync("/f")
	}
}

// growsMany commits extents that take several batches, the size with the last.
func growsMany(w *World) {
	w.Create("/f")
	w.Write("/f", 0, 100)
	w.Fsync("/f")
	w.FsyncDir("/")
	for i := range int64(fragments) {
		w.Write("/f", (2*i+1)*block, 8)
	}
	w.Begin()
	w.Fsync("/f")
	w.Append("/f", 100)
	w.Fsync("/f")
}

// punches makes holes, within blocks and across, and fills them.
func punches(w *World) {
	w.Create("/f")
	w.Write("/f", 0, 10*block)
	w.Fsync("/f")
	w.Punch("/f", 100, 200)
	w.Punch("/f", 2*block-100, 3*block)
	w.FsyncDir("/")
	w.Write("/f", 3*block, block)
	w.Punch("/f", 8*block, 20*block)
	w.Fsync("/f")
	w.Punch("/f", 0, 10*block)
	w.Sync()
}

// allocates has blocks before it has bytes.
func allocates(w *World) {
	w.Create("/f")
	w.Allocate("/f", 0, 8*block)
	w.Fsync("/f")
	w.Write("/f", block+5, 100)
	w.Write("/f", 4*block, 2*block)
	w.FsyncDir("/")
	w.Fsync("/f")
	w.Write("/f", 0, 8*block)
	w.Punch("/f", 2*block, block)
	w.Allocate("/f", 2*block, 10*block)
	w.Fsync("/f")
}

// reuses has no room for two files: each gets the blocks that another gave up.
func reuses(w *World) {
	const size = 240 * kib
	w.Create("/a")
	w.Create("/b")
	w.Append("/a", size)
	w.Fsync("/a")
	w.Truncate("/a", block)
	w.Append("/b", size)
	w.Fsync("/b")
	w.Unlink("/b")
	w.Append("/a", size)
	w.Truncate("/a", 0)
	w.Create("/c")
	w.Append("/c", size)
	w.Punch("/c", 0, size)
	w.Write("/a", 0, size)
	w.Fsync("/a")
}

// reusesIdle gives up blocks and writes others, and nobody asks for anything to be
// durable.
func reusesIdle(w *World) {
	w.Create("/a")
	w.Append("/a", 160*kib)
	w.Fsync("/a")
	w.FsyncDir("/")
	for i := range 3 {
		w.Truncate("/a", int64(2-i)*40*kib)
		p := fmt.Sprint("/", i)
		w.Create(p)
		w.Append(p, 100*kib)
		w.Unlink(p)
	}
}

// unlinkedOpen removes a file that is in use.
func unlinkedOpen(w *World) {
	w.Create("/f")
	w.Write("/f", 0, 5*block)
	w.Fsync("/f")
	release := w.Open("/f")
	w.Unlink("/f")
	w.FsyncDir("/")
	w.Create("/f")
	w.Write("/f", 0, 3*block)
	w.Sync()
	release()
	w.Write("/f", 2*block, 9*block)
	w.Fsync("/f")
}

// syncs uses syncfs only.
func syncs(w *World) {
	for i := range int64(3) {
		for _, p := range []string{"/a", "/b", "/c"} {
			if i == 0 {
				w.Create(p)
			}
			w.Append(p, 1500*(i+1))
		}
		w.Truncate("/b", 1000)
		w.Sync()
		w.Write("/a", 500, 2000)
	}
	w.Rename("/a", "/b")
	w.Unlink("/c")
	w.Sync()
}

// grows fills a volume, makes it larger, and fills that.
func grows(w *World) {
	w.Create("/f")
	w.FsyncDir("/")
	w.Append("/f", 200*kib)
	w.Fsync("/f")
	for range 2 {
		w.Grow(64 * kib)
		w.Append("/f", 64*kib)
		w.Fsync("/f")
	}
	w.Append("/f", 50*kib)
	w.Grow(100 * kib)
}

// windows writes past the filesystem.
func windows(w *World) {
	w.Create("/f")
	w.Write("/f", 0, 6*block+100)
	w.Fsync("/f")
	v := w.Window("/f", block, 10*block)
	v.Store(2*block, 2*block)
	v.Commit(-1)
	v.Store(2*block+100, 300)
	w.Write("/f", 0, 3*block)
	v.Store(5*block, 3*block)
	w.Fsync("/f")
	v.Store(block, block)
	v.Commit(10 * block)
	v.Store(9*block, block)
	v.Release()
	w.Append("/f", 5000)
	w.Fsync("/f")
}

// clones shares blocks, and writes to both sides.
func clones(w *World) {
	w.Create("/a")
	w.Create("/b")
	w.Write("/a", 0, 6*block+300)
	w.FsyncDir("/")
	w.Clone("/a", 0, "/b", 0, 6*block+300)
	w.Write("/a", block+100, 200)
	w.Fsync("/b")
	w.Write("/b", 2*block, 2*block)
	w.Fsync("/a")
	w.Clone("/a", 0, "/b", 3*block, 2*block)
	w.Truncate("/a", block+50)
	w.Punch("/b", 3*block+10, block)
	w.Fsync("/b")
	w.Clone("/b", 0, "/b", 8*block, 4*block)
	w.Unlink("/a")
	w.Append("/b", 3*block)
	w.Sync()
}

// clonesOverMany replaces many extents by many others.
func clonesOverMany(w *World) {
	for _, p := range []string{"/a", "/b"} {
		w.Create(p)
		for i := range int64(fragments) {
			w.Write(p, 2*i*block, 8)
		}
		w.Fsync(p)
	}
	w.FsyncDir("/")
	w.Begin()
	w.Clone("/a", 0, "/b", 3*block, (2*fragments-2)*block)
	w.Write("/a", 0, 5*block)
	w.Fsync("/a")
	w.Write("/b", 3*block, 5*block)
	w.Fsync("/b")
}

// collapses takes blocks out of files, among them shared ones.
func collapses(w *World) {
	w.Create("/f")
	w.Create("/g")
	w.Write("/f", 0, 8*block+100)
	w.Fsync("/f")
	w.Write("/f", block, 100)
	w.Collapse("/f", 2*block, 3*block)
	w.Write("/f", 2*block, block)
	w.Clone("/f", 0, "/g", 0, 4*block)
	w.Collapse("/g", 0, block)
	w.Append("/g", 3*block)
	w.Fsync("/g")
	w.Collapse("/f", 0, 2*block)
	w.Write("/f", 0, 2*block)
}

// inserts puts holes into files.
func inserts(w *World) {
	w.Create("/f")
	w.Write("/f", 0, 5*block+100)
	w.Insert("/f", block, 2*block)
	w.Write("/f", 2*block, 2*block)
	w.FsyncDir("/")
	w.Insert("/f", 0, block)
	w.Write("/f", 0, 100)
	w.Fsync("/f")
	w.Insert("/f", 8*block, 4*block)
	w.Append("/f", 2*block)
}

// zeroes makes ranges zeros, within blocks and across, also of shared ones.
func zeroes(w *World) {
	w.Create("/f")
	w.Create("/g")
	w.Write("/f", 0, 8*block)
	w.Fsync("/f")
	w.Zero("/f", 100, 200)
	w.Zero("/f", 2*block-100, 3*block)
	w.FsyncDir("/")
	w.Write("/f", 3*block, 1000)
	w.Fsync("/f")
	w.Clone("/f", 0, "/g", 0, 8*block)
	w.Zero("/g", block, 6*block+10)
	w.Fsync("/g")
	w.Zero("/f", 6*block, 5*block)
	w.Write("/f", 7*block, 2*block)
	w.Fsync("/f")
}
