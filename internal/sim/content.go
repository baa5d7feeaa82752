package sim

import "slices"

const pageSize = 4096

// content is the bytes of a file or of the device, in pages that copies share
// until they are written to.
type content struct {
	size  int64
	pages []*page // nil is zeros
	mine  *owner  // of the pages that may be written in place
}

type page struct {
	of   *owner
	data [pageSize]byte
}

// owner is told from others by its address.
type owner struct{ _ byte }

func newContent(size, stale int64) *content {
	c := &content{size: size, mine: new(owner)}
	c.grow(size)
	old := new(page)
	for i := range old.data {
		old.data[i] = Stale
	}
	for i := stale / pageSize; i < int64(len(c.pages)); i++ {
		c.pages[i] = old
	}
	return c
}

func (c *content) grow(size int64) {
	if n := int((size + pageSize - 1) / pageSize); n > len(c.pages) {
		c.pages = append(c.pages, make([]*page, n-len(c.pages))...)
	}
	c.size = max(c.size, size)
}

// clone returns a copy; both now own no page.
func (c *content) clone() *content {
	c.mine = new(owner)
	return &content{size: c.size, pages: slices.Clone(c.pages), mine: new(owner)}
}

func (c *content) write(p []byte, off int64) {
	c.grow(off + int64(len(p)))
	for len(p) > 0 {
		i, at := off/pageSize, off%pageSize
		pg := c.pages[i]
		if pg == nil || pg.of != c.mine {
			own := &page{of: c.mine}
			if pg != nil {
				own.data = pg.data
			}
			c.pages[i], pg = own, own
		}
		n := copy(pg.data[at:], p)
		p, off = p[n:], off+int64(n)
	}
}

// read fills p as far as there are bytes, and returns how many.
func (c *content) read(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for done := 0; done < len(p); {
		pos := off + int64(done)
		var n int
		if pg := c.pages[pos/pageSize]; pg != nil {
			n = copy(p[done:], pg.data[pos%pageSize:])
		} else {
			n = min(len(p)-done, int(pageSize-pos%pageSize))
			clear(p[done : done+n])
		}
		done += n
	}
	return len(p)
}
