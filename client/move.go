package client

import (
	"context"
	"encoding/json"
	"os"

	"holdfast/wire"
)

// Defrag brings the blocks of f, which is open for writing, together, and returns what
// it did as JSON. What is held stays where it is; with force, which is for administrators,
// its holders are asked, and in the end cut off.
func (s *Session) Defrag(ctx context.Context, f *os.File, force bool) (json.RawMessage, error) {
	parts, err := s.callAbout(ctx, f, wire.OpDefrag, &wire.Defrag{Flags: moveFlags(force)})
	return text(parts, err)
}

// Evacuate makes the volume size bytes long: it moves away what lies behind. It fails with
// EBUSY if something there is held, unless force. It is for administrators.
func (s *Session) Evacuate(ctx context.Context, size int64, force bool) (json.RawMessage, error) {
	parts, err := s.call(ctx, wire.OpEvacuate, &wire.Evacuate{Size: size, Flags: moveFlags(force)})
	return text(parts, err)
}

func moveFlags(force bool) uint32 {
	if force {
		return wire.MoveForce
	}
	return 0
}
