package fs

import (
	"context"

	"holdfast/extent"
	"holdfast/layout"
)

// OnClose says what the close of a file does that has pins of who closes it: by the file, or else the volume.
func (f *FS) OnClose(ino extent.Ino) layout.OnClose {
	if p, err := f.Policies(ino); err == nil && p.HasClose {
		return p.OnClose
	}
	return f.onClose
}

// OnPass says what the receiver of a handle of a lease of the file may do: by the file, or else the volume.
func (f *FS) OnPass(ino extent.Ino) layout.OnPass {
	if p, err := f.Policies(ino); err == nil && p.HasPass {
		return p.OnPass
	}
	return f.onPass
}

// Flushes reports whether a close of the file may have to wait, so that Flush is to be called.
func (f *FS) Flushes(ino extent.Ino) bool { return f.OnClose(ino) == layout.Block }

// Flush is called for each close of a descriptor of the file through the mount, and may hold it up.
func (f *FS) Flush(ctx context.Context, c Caller, ino extent.Ino) error {
	if f.OnClose(ino) != layout.Block {
		return nil
	}
	return f.arb.AwaitUnpinned(ctx, c.PID, ino)
}
