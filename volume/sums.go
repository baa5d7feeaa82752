package volume

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"holdfast/extent"
	"holdfast/store"
)

const (
	// sumBlocks is how many blocks have their checksums in one record.
	sumBlocks = 128
	sumSpan   = sumBlocks * extent.BlockSize
	// sumCache is how many records are kept in memory, apart from those that the store
	// lacks: 9 MB.
	sumCache = 16 << 10
	// sumsPerBatch is how many records go into a batch.
	sumsPerBatch = 64
)

// sums knows the checksums of blocks, by their address, on a volume that has them.
//
// What the store has of them changes only for blocks that no state to which a crash
// can go back calls written. So records can be put at any time before the extents
// they are for, and those of blocks that were freed may stay.
type sums struct {
	v    *Volume
	most int // how many chunks are kept, more or less

	// order is held from when a record is made until the store has it, so that an older
	// one never replaces a newer one. It comes before mu.
	order sync.Mutex

	mu      sync.RWMutex
	chunks  map[int64]*sumChunk // by number; guarded by mu
	evicted uint64              // how many have left chunks; guarded by mu

	damaged atomic.Int64 // blocks that were read and did not match
}

// sumChunk is what is known of sumBlocks neighbours.
type sumChunk struct {
	sums  [sumBlocks]uint32
	have  sumSet // blocks that have one
	put   sumSet // those that have one in the store
	dirty bool   // the store has others
	taken uint64 // the last batch by which a block lost its own
}

type sumSet [sumBlocks / 64]uint64

func (s *sumSet) has(i int64) bool { return s[i/64]&(1<<(i%64)) != 0 }
func (s *sumSet) add(i int64)      { s[i/64] |= 1 << (i % 64) }
func (s *sumSet) del(i int64)      { s[i/64] &^= 1 << (i % 64) }

func blockSum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func (c *sumChunk) encode() []byte {
	var b []byte
	for _, w := range c.have {
		b = le.AppendUint64(b, w)
	}
	for i := range int64(sumBlocks) {
		if c.have.has(i) {
			b = le.AppendUint32(b, c.sums[i])
		}
	}
	return b
}

// decodeSums returns the number of the chunk, too.
func decodeSums(k, b []byte) (int64, *sumChunk, error) {
	n, ok := numbers(k, 1)
	if !ok || n[0] > uint64(extent.Inf/sumSpan) {
		return 0, nil, fmt.Errorf("checksum key %x: %w", k, ErrCorrupt)
	}
	c := &sumChunk{}
	const fixed = 8 * len(c.have)
	if len(b) < fixed {
		return 0, nil, fmt.Errorf("checksum record %d of %d bytes: %w", n[0], len(b), ErrCorrupt)
	}
	count := 0
	for i := range c.have {
		c.have[i] = le.Uint64(b[8*i:])
		count += bits.OnesCount64(c.have[i])
	}
	if len(b) != fixed+4*count {
		return 0, nil, fmt.Errorf("checksum record %d of %d bytes for %d blocks: %w", n[0], len(b), count, ErrCorrupt)
	}
	c.put = c.have
	b = b[fixed:]
	for i := range int64(sumBlocks) {
		if c.have.has(i) {
			c.sums[i], b = le.Uint32(b), b[4:]
		}
	}
	return int64(n[0]), c, nil
}

// load returns what the store has of chunk k.
func (s *sums) load(k int64) (*sumChunk, error) {
	b, err := s.v.st.Get(sumKey(k))
	if errors.Is(err, store.ErrNotFound) {
		return &sumChunk{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("checksums of blocks at %d: %w", k*sumSpan, err)
	}
	_, c, err := decodeSums(sumKey(k), b)
	return c, err
}

// chunk returns chunk k, which the caller alters. It needs mu.
func (s *sums) chunk(k int64) (*sumChunk, error) {
	if c := s.chunks[k]; c != nil {
		return c, nil
	}
	c, err := s.load(k)
	if err == nil {
		s.keep(k, c)
	}
	return c, err
}

// keep takes c into memory, and lets others go if there are too many. It needs mu.
func (s *sums) keep(k int64, c *sumChunk) {
	durable := s.v.durable.Load()
	for o, old := range s.chunks {
		if len(s.chunks) < s.most {
			break
		}
		if old.dirty || old.taken > durable {
			break // one after the other: it need not be exact
		}
		delete(s.chunks, o)
		s.evicted++
	}
	s.chunks[k] = c
}

// get copies chunk k.
func (s *sums) get(k int64) (sumChunk, error) {
	s.mu.RLock()
	c, evicted := s.chunks[k], s.evicted
	if c != nil {
		defer s.mu.RUnlock()
		return *c, nil
	}
	s.mu.RUnlock()
	c, err := s.load(k) // without a lock that others need
	if err != nil {
		return sumChunk{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chunks[k] == nil && s.evicted == evicted {
		s.keep(k, c)
		return *c, nil
	}
	if c, err = s.chunk(k); err != nil {
		return sumChunk{}, err
	}
	return *c, nil
}

// sumParts calls fn for the blocks of r, which is whole blocks, of each chunk.
func sumParts(r extent.Range, fn func(k int64, part extent.Range) error) error {
	for pos := r.Off; pos < r.End; {
		k := pos / sumSpan
		end := min(r.End, (k+1)*sumSpan)
		if err := fn(k, extent.Range{Off: pos, End: end}); err != nil {
			return err
		}
		pos = end
	}
	return nil
}

// at is the place in its chunk of the block at addr.
func sumAt(addr int64) int64 { return addr % sumSpan / extent.BlockSize }

// verify compares the blocks p, which were read at addr, with their checksums. Those
// that have none match.
func (s *sums) verify(p []byte, addr int64) error {
	return sumParts(extent.Range{Off: addr, End: addr + int64(len(p))}, func(k int64, part extent.Range) error {
		c, err := s.get(k)
		if err != nil {
			return err
		}
		for a := part.Off; a < part.End; a += extent.BlockSize {
			i := sumAt(a)
			if c.have.has(i) && c.sums[i] != blockSum(p[a-addr:][:extent.BlockSize]) {
				return &SumError{addr: a}
			}
		}
		return nil
	})
}

// set notes that the device has p, whole blocks, at addr.
func (s *sums) set(p []byte, addr int64) error {
	return sumParts(extent.Range{Off: addr, End: addr + int64(len(p))}, func(k int64, part extent.Range) error {
		var now [sumBlocks]uint32
		for a := part.Off; a < part.End; a += extent.BlockSize {
			now[sumAt(a)] = blockSum(p[a-addr:][:extent.BlockSize])
		}
		if _, err := s.get(k); err != nil { // brings it into memory
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		c, err := s.chunk(k)
		if err != nil {
			return err
		}
		for a := part.Off; a < part.End; a += extent.BlockSize {
			i := sumAt(a)
			c.sums[i] = now[i]
			c.have.add(i)
		}
		c.dirty = true
		return nil
	})
}

// forget takes away the checksums of blocks that are about to be overwritten where
// they are though the store calls them written. It is durable when it returns.
func (s *sums) forget(r extent.Range) error {
	need, err := s.takeOut(r)
	if err == nil && s.v.durable.Load() < need {
		err = s.v.syncStore()
	}
	return err
}

// takeOut takes the checksums of r out of the store, and returns the batch by which all
// are out.
func (s *sums) takeOut(r extent.Range) (need uint64, err error) {
	s.order.Lock()
	defer s.order.Unlock()
	b := s.v.batch()
	var lost []*sumChunk // by b
	apply := func() error {
		if b.Ops() == 0 {
			return nil
		}
		seq, err := s.v.apply(b)
		if err != nil {
			return s.v.fail(err) // memory and store are no longer in step
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range lost {
			c.taken = seq
		}
		lost, need = nil, seq
		b.Reset()
		return nil
	}
	err = sumParts(r, func(k int64, part extent.Range) error {
		c, taken, err := s.strip(b, k, part)
		if err != nil {
			return err
		}
		if need = max(need, taken); c != nil {
			lost = append(lost, c)
		}
		if b.Ops() >= sumsPerBatch {
			return apply()
		}
		return nil
	})
	if err == nil {
		err = apply()
	}
	return need, err
}

// strip takes the checksums of part away from chunk k. If the store has any of them,
// it adds to b what takes them out, and returns the chunk, which stays in memory; else it
// returns by which batch they were taken out, if that is known. It needs order.
func (s *sums) strip(b batcher, k int64, part extent.Range) (lost *sumChunk, taken uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.chunk(k)
	if err != nil {
		return nil, 0, err
	}
	had := false
	for a := part.Off; a < part.End; a += extent.BlockSize {
		i := sumAt(a)
		had = had || c.put.has(i)
		c.have.del(i)
	}
	if !had {
		return nil, c.taken, nil
	}
	c.dirty, c.taken = true, math.MaxUint64
	s.put(b, k)
	return c, 0, nil
}

// put adds chunk k to b if the store has another. It needs order and mu.
func (s *sums) put(b batcher, k int64) {
	c := s.chunks[k]
	if c == nil || !c.dirty {
		return
	}
	b.Put(sumKey(k), c.encode())
	c.put, c.dirty = c.have, false
}

// record brings the checksums of blocks into the store.
func (s *sums) record(blocks []extent.Range) error {
	var ks []int64
	for _, r := range blocks {
		sumParts(r, func(k int64, _ extent.Range) error {
			if n := len(ks); n == 0 || ks[n-1] != k {
				ks = append(ks, k)
			}
			return nil
		})
	}
	return s.recordChunks(ks)
}

// cutOff takes out the checksums of blocks at and behind size, where nobody has any.
func (s *sums) cutOff(size int64) error {
	s.order.Lock()
	defer s.order.Unlock()
	first := (size + sumSpan - 1) / sumSpan
	s.mu.Lock()
	for k := range s.chunks {
		if k >= first {
			delete(s.chunks, k)
		}
	}
	s.mu.Unlock()
	for {
		b := s.v.batch()
		err := s.v.st.Scan(sumKey(first), after(prefixSums), func(k, _ []byte) (bool, error) {
			b.Delete(slices.Clone(k))
			return b.Ops() < store.MaxOps, nil
		})
		if err != nil || b.Ops() == 0 {
			return err
		}
		if _, err := s.v.apply(b); err != nil {
			return err
		}
	}
}

// recordAll brings all checksums into the store that it lacks.
func (s *sums) recordAll() error {
	s.mu.RLock()
	ks := make([]int64, 0, len(s.chunks))
	for k, c := range s.chunks {
		if c.dirty {
			ks = append(ks, k)
		}
	}
	s.mu.RUnlock()
	slices.Sort(ks)
	return s.recordChunks(ks)
}

func (s *sums) recordChunks(ks []int64) error {
	s.order.Lock()
	defer s.order.Unlock()
	for some := range slices.Chunk(ks, sumsPerBatch) {
		b := s.v.batch()
		s.mu.Lock()
		for _, k := range some {
			s.put(b, k)
		}
		s.mu.Unlock()
		if b.Ops() == 0 {
			continue
		}
		if _, err := s.v.apply(b); err != nil {
			return err
		}
	}
	return nil
}
