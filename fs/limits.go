package fs

// OrphanedBytes says how many bytes of orphans count for each user.
func (f *FS) OrphanedBytes() map[uint32]int64 {
	sums := map[uint32]int64{}
	for _, o := range f.vol.Orphans() {
		sums[o.UID] += o.Len
	}
	return sums
}

// WindowBytes says how much memory all windows have.
func (f *FS) WindowBytes() int64 { return f.windowBytes.Load() }
