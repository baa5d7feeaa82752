package volume

import (
	"bytes"
	"cmp"
	"slices"

	"holdfast/extent"
)

// The map blocks → file is written anew from the map file → blocks. The reverse is
// never done: what an owner record cannot say is whether the bytes were written.

// extentClaim is an extent that has no owner record, or a wrong one.
type extentClaim struct {
	ino   extent.Ino
	e     extent.Extent
	clash bool // another extent has some of its blocks, and not by sharing
}

// owners writes the owner records that are missing, unless two extents have the same
// blocks and do not both say that they share them: then nobody knows whose they are.
func (r *repairer) owners() error {
	claims, err := r.claims()
	if err != nil || len(claims) == 0 {
		return err
	}
	if err := r.clashes(claims); err != nil {
		return err
	}
	for _, c := range claims {
		if c.clash {
			continue
		}
		end := c.e.Range().End
		err := r.fix(BadOwner, c.ino, func(b batcher) {
			b.Put(ownerKey(c.e.Addr, c.e.Len, c.ino, end), encodeNumber(uint64(c.e.Len)))
		}, "owns the blocks of its extent %v at %v again", c.e.Range(), c.e.Addr)
		if err != nil {
			return err
		}
	}
	return nil
}

// claims returns the extents without their owner record, by address.
func (r *repairer) claims() ([]extentClaim, error) {
	var out []extentClaim
	err := r.eachExtent(func(ino extent.Ino, e extent.Extent) error {
		v, _, ok, err := r.get(ownerKey(e.Addr, e.Len, ino, e.Range().End))
		if err != nil {
			return err
		}
		if n, derr := decodeNumber(v); !ok || derr != nil || int64(n) != e.Len {
			out = append(out, extentClaim{ino: ino, e: e})
		}
		return nil
	})
	slices.SortFunc(out, func(a, b extentClaim) int { return cmp.Compare(a.e.Addr.Off, b.e.Addr.Off) })
	return out, err
}

// clashes finds the claims to blocks that another extent has, too, not shared.
func (r *repairer) clashes(claims []extentClaim) error {
	longest := int64(0)
	for _, c := range claims {
		longest = max(longest, c.e.Len)
	}
	return r.eachExtent(func(ino extent.Ino, e extent.Extent) error {
		i, _ := slices.BinarySearchFunc(claims, e.Addr.Off-longest, func(c extentClaim, off int64) int { return cmp.Compare(c.e.Addr.Off, off) })
		for ; i < len(claims) && claims[i].e.Addr.Off < e.Addr.Off+e.Len; i++ {
			c := &claims[i]
			itself, shared := c.ino == ino && c.e == e, c.e.Shared && e.Shared
			if !itself && !shared && c.e.Addr.Off+c.e.Len > e.Addr.Off {
				c.clash = true
			}
		}
		return nil
	})
}

// eachExtent goes through the extents that make sense.
func (r *repairer) eachExtent(fn func(ino extent.Ino, e extent.Extent) error) error {
	return r.scan(prefixExtent, func(k, v []byte, ok bool) error {
		ino, e, err := decodeExtent(k, v)
		if !ok || err != nil || e.Addr.Off < dataStart || e.Addr.Off+e.Len > r.v.size.Load() {
			return nil
		}
		return fn(ino, e)
	})
}

// held removes records of orphaned blocks that make no sense. Which blocks they kept
// nobody can say.
func (r *repairer) held() error {
	return r.scan(prefixHeld, func(k, v []byte, ok bool) error {
		o, err := decodeOrphan(k, v)
		if ok && (len(k) == len(bootKey) || err == nil && o.Addr >= dataStart && o.Addr+o.Len <= r.v.size.Load()) {
			return nil
		}
		k = bytes.Clone(k)
		return r.fix(BadOrphaned, 0, func(b batcher) { b.Delete(k) }, "removed the record %x of orphaned blocks, which makes no sense", k)
	})
}

// strayOwners removes owner records that no extent goes with.
func (r *repairer) strayOwners() error {
	return r.scan(prefixOwner, func(k, _ []byte, _ bool) error {
		n, whole := numbers(k, 4)
		var ino extent.Ino
		if whole {
			ino = extent.Ino(n[2])
			x := extentKey(ino, int64(n[3]))
			v, there, ok, err := r.get(x)
			if err != nil {
				return err
			}
			_, e, derr := decodeExtent(x, v)
			if there && (!ok || derr != nil) {
				return nil // it keeps the blocks of an extent that is damaged
			}
			if there && bytes.Equal(k, ownerKey(e.Addr, e.Len, ino, e.Range().End)) {
				return nil
			}
		}
		k = bytes.Clone(k)
		return r.fix(BadOwner, ino, func(b batcher) { b.Delete(k) }, "removed the owner record %x: no extent goes with it", k)
	})
}
