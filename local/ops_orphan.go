package local

import (
	"holdfast/extent"
	"holdfast/wire"
)

// Orphan is a run of blocks that a file has given up and somebody still reaches.
type Orphan struct {
	Address   int64      `json:"address"` // on the device
	Length    int64      `json:"length"`
	UID       uint32     `json:"uid"`            // for whom it counts
	Unclaimed bool       `json:"unclaimed"`      // its holder is of a former server
	File      extent.Ino `json:"file,omitempty"` // that had it, if this server knows
	Path      string     `json:"path,omitempty"` // of the file then
}

// listOrphans shows paths to administrators and to whom the blocks count.
func (r *request) listOrphans(m *wire.List) []Orphan {
	out := []Orphan{}
	for _, o := range r.srv.cfg.FS.Orphans() {
		if m.File != 0 && uint64(o.File) != m.File {
			continue
		}
		if !r.caller.admin && o.UID != r.caller.uid {
			o.Path = ""
		}
		out = append(out, o)
	}
	return out
}
