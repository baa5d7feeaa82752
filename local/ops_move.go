package local

import (
	"fmt"
	"syscall"

	"holdfast/wire"
)

// moveRights checks the right to move what others hold.
func (r *request) moveRights(flags uint32) error {
	if flags&wire.MoveForce != 0 && !r.caller.admin {
		return fmt.Errorf("only an administrator moves what others hold: %w", syscall.EPERM)
	}
	return nil
}

func (r *request) defrag() error {
	var m wire.Defrag
	if err := m.Decode(r.body); err != nil {
		return err
	}
	file, err := r.dataFile()
	if err != nil {
		return err
	}
	if !file.writable {
		return fmt.Errorf("data descriptor is not open for writing: %w", syscall.EBADF)
	}
	if err := r.moveRights(m.Flags); err != nil {
		return err
	}
	moved, err := r.srv.cfg.FS.Defrag(r.ctx, r.toArbiter(r.caller), file.ino, m.Flags&wire.MoveForce != 0)
	if err != nil {
		return err
	}
	a := &jsonAnswer{r: r}
	return a.finish(a.value(moved))
}

func (r *request) evacuate() error {
	var m wire.Evacuate
	if err := m.Decode(r.body); err != nil {
		return err
	}
	if !r.caller.admin {
		return fmt.Errorf("only an administrator changes the size of the volume: %w", syscall.EPERM)
	}
	moved, err := r.srv.cfg.FS.Evacuate(r.ctx, r.toArbiter(r.caller), m.Size, m.Flags&wire.MoveForce != 0)
	if err != nil {
		return err
	}
	a := &jsonAnswer{r: r}
	return a.finish(a.value(moved))
}
