package wire

// MoveForce asks who holds what is to be moved, and cuts him off in the end.
const MoveForce uint32 = 1 << 0

// Defrag brings the blocks of the file together whose descriptor comes along.
type Defrag struct {
	Flags uint32 // MoveForce
}

// Append implements Body.
func (m *Defrag) Append(b []byte) []byte { return appendU32(appendU32(b, m.Flags), 0) }

// Decode implements Body.
func (m *Defrag) Decode(b []byte) error {
	d := decode(OpDefrag, b, 8)
	m.Flags = d.flags32(MoveForce)
	d.zero(4)
	return d.err
}

// Evacuate moves away what lies behind an offset of the device, and makes the volume that long.
type Evacuate struct {
	Size  int64
	Flags uint32 // MoveForce
}

// Append implements Body.
func (m *Evacuate) Append(b []byte) []byte {
	return appendU32(appendU32(appendU64(b, uint64(m.Size)), m.Flags), 0)
}

// Decode implements Body.
func (m *Evacuate) Decode(b []byte) error {
	d := decode(OpEvacuate, b, 16)
	m.Size = d.size("size")
	m.Flags = d.flags32(MoveForce)
	d.zero(4)
	return d.err
}
