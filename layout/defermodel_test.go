package layout

import (
	"fmt"
	"slices"
	"syscall"

	"holdfast/extent"
	"pgregory.net/rapid"
)

// The part of the model that knows of orphans, and the inputs for it.

// in says whether the lease still covers a part of the pin in r.
func (p *mPin) in(r extent.Range) bool {
	for i := range p.gone {
		if !p.gone[i] && mBlock(i).Overlaps(p.r) && mBlock(i).Overlaps(r) {
			return true
		}
	}
	return false
}

// firstFor returns the first part of the first pin that a change makes an orphan.
func (md *model) firstFor(q *mRequest) (first *mPin, part extent.Range) {
	for _, p := range md.pins {
		if p.lease.file != q.file || q.session != 0 && md.sameOwner(p.session, q.session) {
			continue
		}
		for _, r := range p.parts() {
			if r.Overlaps(q.r) && (first == nil || r.Off < part.Off || r.Off == part.Off && p.id < first.id) {
				first, part = p, r
			}
		}
	}
	return first, part.Intersect(q.r)
}

// parts lists what of the pin is covered by its lease.
func (p *mPin) parts() (rs []extent.Range) {
	for i := range p.gone {
		b := mBlock(i)
		switch {
		case p.gone[i] || !b.Overlaps(p.r):
		case len(rs) > 0 && rs[len(rs)-1].End == b.Off:
			rs[len(rs)-1].End = b.End
		default:
			rs = append(rs, b)
		}
	}
	return rs
}

func (md *model) deferring() (qs []*mRequest) {
	for _, q := range md.requests {
		if q.state == deferring {
			qs = append(qs, q)
		}
	}
	return qs
}

// compareOrphans checks which pins the step orphans.
func (p *pair) compareOrphans(got []string) {
	var want []string
	for _, q := range p.md.deferring() {
		if q.pin == nil {
			pn, part := p.md.firstFor(q)
			want = append(want, fmt.Sprintf("pin %d %v for request %d", pn.id, part, q.id))
			q.pin, q.part = pn, part
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.t.Fatalf("orphaned are %v, to be orphaned %v", got, want)
	}
}

// orphan has the storage say that it has orphaned what it was asked for, or that it would be too much.
func (p *pair) orphan(t *rapid.T) {
	qs := p.md.deferring()
	if len(qs) == 0 {
		t.Skip("nothing is being orphaned")
	}
	q := rapid.SampledFrom(qs).Draw(t, "change")
	pn := q.pin
	in := Input{Op: OpOrphaned, File: q.file, Change: ChangeID(q.id), Pin: pn.id, Range: q.part}
	there := slices.Contains(p.md.pins, pn)
	p.md.remember()
	q.state = waiting
	q.pin = nil
	if rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
		in.Op = OpOrphanFailed
		if there && !q.abandoned {
			p.md.tell(q, Denied, syscall.ETXTBSY)
			p.md.requests = slices.DeleteFunc(p.md.requests, func(o *mRequest) bool { return o == q })
		}
	} else if there {
		p.md.orphaned(pn, q.part)
	}
	p.step(in)
}

func (md *model) orphaned(pn *mPin, r extent.Range) {
	l := pn.lease
	for i := range pn.gone {
		pn.gone[i] = pn.gone[i] || mBlock(i).Overlaps(pn.r) && mBlock(i).Overlaps(r)
	}
	for i := range l.has {
		if l.has[i] && l.blocks[i] == live && mBlock(i).Overlaps(r) && len(md.pinsOf(l, mBlock(i))) == 0 {
			l.has[i] = false
		}
	}
	md.sweep(l)
	if l.closed && !md.pinned(l) {
		md.giveBack(l, everything)
	}
}

func orphanedBlocks(rs []extent.Range) (gone [modelBlocks]bool) {
	for i := range gone {
		gone[i] = slices.ContainsFunc(rs, mBlock(i).Overlaps)
	}
	return gone
}
