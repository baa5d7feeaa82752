package crashtest

import (
	"fmt"

	"holdfast/arbiter"
	"holdfast/fs"
	"holdfast/layout"
)

// Defrag brings a file's blocks together. Its content is what it was at any moment.
func (w *World) Defrag(p string) {
	w.t.Helper()
	f := w.file(p)
	if f == nil {
		return
	}
	_, _ = w.do("defrag "+p, func() error {
		m, err := w.fs.Defrag(w.ctx, fs.Caller{}, f.ino, false)
		if err == nil && (m.Bytes == 0 || len(m.Skipped) > 0) {
			err = fmt.Errorf("%d bytes were moved, %d ranges skipped", m.Bytes, len(m.Skipped))
		}
		return err
	})
}

// Evacuate makes the volume smaller, to room for size bytes.
func (w *World) Evacuate(size int64) {
	w.t.Helper()
	size += dataStart
	s, err := w.do(fmt.Sprintf("evacuate to %d", size), func() error {
		m, err := w.fs.Evacuate(w.ctx, fs.Caller{}, size, false)
		if err == nil && m.Bytes == 0 {
			err = fmt.Errorf("nothing was moved")
		}
		return err
	})
	if err == nil {
		w.shrunk = append(w.shrunk, growth{s, size})
	}
}

// Pin lets somebody reach a range directly, for reading, until the end.
func (w *World) Pin(p string, off, n int64) {
	w.t.Helper()
	f := w.file(p)
	if f == nil {
		return
	}
	_, _ = w.do("pin "+p, func() error {
		id, err := w.arb.OpenSession(arbiter.SessionInfo{Kind: "test", PID: 4711})
		if err != nil {
			return err
		}
		l, err := w.arb.Acquire(w.ctx, id, arbiter.AcquireRequest{File: f.ino, Range: within(off, n), Access: layout.Read}, nobody{})
		if err != nil {
			return err
		}
		c, err := w.arb.Register(id, reaching{})
		if err == nil {
			_, err = w.arb.Pin(w.ctx, id, c, l.ID, within(off, n), layout.Read)
		}
		return err
	})
}

type reaching struct{}

func (reaching) Info() arbiter.ContextInfo { return arbiter.ContextInfo{Kind: "test"} }

// diverts writes to shared blocks that are pinned: the clones get the copies.
func diverts(w *World) {
	w.Create("/f")
	w.Create("/g")
	w.Create("/h")
	w.Write("/f", 0, 6*block)
	w.Fsync("/f")
	w.Clone("/f", 0, "/g", 0, 6*block)
	w.Clone("/f", block, "/h", 0, 3*block)
	w.Fsync("/g")
	w.Fsync("/h")
	w.Pin("/f", 0, 6*block)
	w.Begin()
	w.Write("/f", block+100, 2*block)
	w.Fsync("/f")
	w.Write("/f", 5*block, block)
	w.Write("/g", 0, block)
	w.Fsync("/g")
	w.Fsync("/f")
}

// scatter makes files of blocks that lie far behind and apart, and share some.
func scatter(w *World) {
	w.Create("/a")
	w.Create("/f")
	w.Create("/g")
	w.Write("/a", 0, 140*block)
	w.Fsync("/a")
	for i := range int64(8) {
		w.Write("/f", i*block, block)
		w.Fsync("/f")
		w.Write("/g", i*block, block-10)
		w.Fsync("/g")
	}
	w.Clone("/f", 0, "/g", 8*block, 8*block)
	w.Fsync("/g")
	w.Fsync("/f")
	w.Unlink("/a")
	w.FsyncDir("/")
	w.Begin()
}

func defrags(w *World) {
	scatter(w)
	w.Write("/f", 100, 5000)
	w.Defrag("/f")
	w.Write("/f", 2*block, block)
	w.Fsync("/f")
	w.Defrag("/g")
	w.Create("/h")
	w.Write("/h", 0, 100*block)
	w.Fsync("/h")
	w.Fsync("/g")
}

func evacuates(w *World) {
	scatter(w)
	w.Allocate("/f", 8*block, 4*block)
	w.Evacuate(100 * block)
	w.Write("/f", block, 2*block)
	w.Write("/g", 10*block, 6*block)
	w.Fsync("/f")
	w.Create("/h")
	w.Write("/h", 0, 20*block)
	w.Fsync("/h")
	w.Fsync("/g")
	w.Grow(60 * block)
	w.Append("/g", 70*block)
	w.Fsync("/g")
}
