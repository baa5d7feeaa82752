package fs

import (
	"holdfast/extent"
	"holdfast/layout"
)

// OnClose says what the close of a file does that has pins of who closes it.
func (f *FS) OnClose(extent.Ino) layout.OnClose { return f.onClose }

// OnPass says what the receiver of a handle of a lease of the file may do.
func (f *FS) OnPass(extent.Ino) layout.OnPass { return f.onPass }
