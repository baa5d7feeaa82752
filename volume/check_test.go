package volume

import (
	"context"
	"syscall"
	"testing"

	"holdfast/extent"
)

// plant is what the damages below are made in: /f, a file of two extents, and /d,
// a directory with the file g.
type plant struct {
	*rig
	f, g, d extent.Ino
	ext     []extent.Extent
	b       batcher
}

func newPlant(t *testing.T) *plant {
	r := newRig(t, 8*mib)
	p := &plant{rig: r}
	f := r.create("f")
	must(t, f.Write(fill('x', 8192), 0))
	must(t, f.Write(fill('x', 8192), 32768))
	r.sync(f)
	d, err := r.v.NewIno()
	must(t, err)
	g, err := r.v.NewIno()
	must(t, err)
	root := r.load(extent.RootIno)
	root.Attr.Nlink++
	tx := r.v.Begin()
	tx.PutInode(root)
	tx.PutInode(r.v.New(d, Attr{Mode: dirMode | 0o755, Nlink: 2, Parent: extent.RootIno}))
	tx.PutInode(r.v.New(g, Attr{Mode: syscall.S_IFREG, Nlink: 1}))
	tx.PutEntry(extent.RootIno, "d", Entry{Ino: d, Type: dirMode})
	tx.PutEntry(d, "g", Entry{Ino: g, Type: syscall.S_IFREG})
	must(t, tx.Commit())
	p.f, p.d, p.g = f.Ino, d, g
	p.ext, err = r.v.records(f.Ino, extent.Range{Off: 0, End: extent.Inf}, 10)
	must(t, err)
	p.check()
	p.b = r.v.batch()
	return p
}

func (p *plant) attr(ino extent.Ino, fn func(*Attr)) {
	a := p.load(ino).Attr
	fn(&a)
	p.b.Put(inodeKey(ino), encodeAttr(&a))
}

type kinds map[ProblemKind]bool

// damage is one that is planted, and what Check says of it: all of these kinds and
// no others.
type damage struct {
	do   func(p *plant)
	want kinds
}

func damages() map[string]damage {
	return map[string]damage{
		"extent without owner": {func(p *plant) {
			e := p.ext[0]
			p.b.Delete(ownerKey(e.Addr, e.Len, p.f, e.Range().End))
		}, kinds{BadOwner: true}},
		"owner without extent": {func(p *plant) { p.b.Delete(extentKey(p.f, p.ext[0].Range().End)) }, kinds{BadOwner: true}},
		"owner of another length": {func(p *plant) {
			e := p.ext[0]
			p.b.Put(ownerKey(e.Addr, e.Len, p.f, e.Range().End), encodeNumber(4096))
		}, kinds{BadOwner: true}},
		"block with two owners": {func(p *plant) {
			e := p.ext[0]
			e.Off = 65536
			putExtent(p.b, p.g, e)
		}, kinds{SharedBlock: true}},
		"block with two owners of which one knows": {func(p *plant) {
			e := p.ext[0]
			e.Off, e.Shared = 65536, true
			putExtent(p.b, p.g, e)
		}, kinds{SharedBlock: true}},
		"block of a long extent with two owners": {func(p *plant) {
			e := p.ext[1]
			e.Off, e.Len, e.Addr.Off = 65536, 4096, e.Addr.Off+4096
			putExtent(p.b, p.g, e)
		}, kinds{SharedBlock: true}},
		"shared block": {func(p *plant) {
			e := p.ext[0]
			e.Shared = true
			putExtent(p.b, p.f, e)
			e.Off = 65536
			putExtent(p.b, p.g, e)
		}, kinds{}},
		"shared block without its owners": {func(p *plant) {
			e := p.ext[0]
			e.Shared = true
			putExtent(p.b, p.f, e)
			p.b.Delete(ownerKey(e.Addr, e.Len, p.f, e.Range().End))
			e.Off = 65536
			p.b.Put(extentKey(p.g, e.Range().End), encodeExtent(e))
		}, kinds{BadOwner: true}},
		"shared block without its owners, of which one knows": {func(p *plant) {
			e := p.ext[0]
			p.b.Delete(ownerKey(e.Addr, e.Len, p.f, e.Range().End))
			e.Off, e.Shared = 65536, true
			p.b.Put(extentKey(p.g, e.Range().End), encodeExtent(e))
		}, kinds{BadOwner: true}},
		"intent to clone nothing": {func(p *plant) {
			p.b.Put(intentKey(p.f), intent{kind: cloning, src: 777, r: extent.Range{Off: 0, End: 4096}}.encode())
		}, kinds{BadIntent: true}},
		"extents overlap in a file": {func(p *plant) {
			e := p.ext[1]
			e.Off, e.Addr.Off = 4096, 4*mib
			putExtent(p.b, p.f, e)
		}, kinds{BadExtent: true}},
		"extent off the device": {func(p *plant) {
			putExtent(p.b, p.f, extent.Extent{Off: mib, Len: 8192, Addr: extent.Addr{Seg: extent.Device, Off: 8*mib - 4096}})
		}, kinds{BadExtent: true}},
		"extent over the superblock": {func(p *plant) {
			putExtent(p.b, p.f, extent.Extent{Off: mib, Len: 8192, Addr: extent.Addr{Seg: extent.Device}})
		}, kinds{BadExtent: true}},
		"extent of no file": {func(p *plant) {
			putExtent(p.b, 777, extent.Extent{Len: 8192, Addr: extent.Addr{Seg: extent.Device, Off: 4 * mib}})
		}, kinds{BadExtent: true}},
		"extent of a directory": {func(p *plant) {
			putExtent(p.b, p.d, extent.Extent{Len: 8192, Addr: extent.Addr{Seg: extent.Device, Off: 4 * mib}})
		}, kinds{BadExtent: true}},
		"extent record cut short": {func(p *plant) {
			p.b.Put(extentKey(p.f, p.ext[0].Range().End), []byte{1, 2})
		}, kinds{BadRecord: true}},
		"inode record cut short": {func(p *plant) { p.b.Put(inodeKey(p.g), []byte{1}) }, kinds{BadRecord: true, BadEntry: true}},
		"strange key":            {func(p *plant) { p.b.Put([]byte("zebra"), nil) }, kinds{BadRecord: true}},
		"name of nothing":        {func(p *plant) { p.b.Delete(inodeKey(p.g)) }, kinds{BadEntry: true}},
		"name of another type": {func(p *plant) {
			e, _ := p.v.LookupEntry(p.d, "g")
			e.Type = syscall.S_IFLNK
			p.b.Put(entryKey(p.d, "g"), encodeEntry(e))
			p.b.Put(cookieKey(p.d, e.Cookie), encodeCookie(e, "g"))
		}, kinds{BadEntry: true}},
		"name in a file": {func(p *plant) {
			e := Entry{Ino: p.g, Type: syscall.S_IFREG, Cookie: 20}
			p.b.Put(entryKey(p.f, "g"), encodeEntry(e))
			p.b.Put(cookieKey(p.f, e.Cookie), encodeCookie(e, "g"))
		}, kinds{BadEntry: true}},
		"name without cookie": {func(p *plant) {
			e, _ := p.v.LookupEntry(p.d, "g")
			p.b.Delete(cookieKey(p.d, e.Cookie))
		}, kinds{BadCookie: true}},
		"cookie without name": {func(p *plant) {
			p.b.Put(cookieKey(p.d, 20), encodeCookie(Entry{Ino: p.g, Type: syscall.S_IFREG}, "h"))
		}, kinds{BadCookie: true}},
		"cookie of another name": {func(p *plant) {
			e, _ := p.v.LookupEntry(p.d, "g")
			p.b.Put(cookieKey(p.d, e.Cookie), encodeCookie(Entry{Ino: p.f, Type: syscall.S_IFREG}, "g"))
		}, kinds{BadCookie: true}},
		"link count of a file":      {func(p *plant) { p.attr(p.g, func(a *Attr) { a.Nlink = 2 }) }, kinds{BadLinks: true}},
		"link count of a directory": {func(p *plant) { p.attr(p.d, func(a *Attr) { a.Nlink = 3 }) }, kinds{BadLinks: true}},
		"parent":                    {func(p *plant) { p.attr(p.d, func(a *Attr) { a.Parent = p.d }) }, kinds{BadParent: true}},
		"loop": {func(p *plant) {
			e, _ := p.v.LookupEntry(extent.RootIno, "d")
			p.b.Delete(entryKey(extent.RootIno, "d"))
			p.b.Delete(cookieKey(extent.RootIno, e.Cookie))
			p.b.Put(entryKey(p.d, "d"), encodeEntry(e))
			p.b.Put(cookieKey(p.d, e.Cookie), encodeCookie(e, "d"))
			p.attr(p.d, func(a *Attr) { a.Parent, a.Nlink = p.d, 3 })
			p.attr(extent.RootIno, func(a *Attr) { a.Nlink = 2 })
		}, kinds{BadParent: true}},
		"orphan with a name": {func(p *plant) { p.b.Put(orphanKey(p.f), nil) }, kinds{BadOrphan: true}},
		"orphan of nothing":  {func(p *plant) { p.b.Put(orphanKey(777), nil) }, kinds{BadOrphan: true}},
		"no name, no orphan": {func(p *plant) {
			a := Attr{Mode: syscall.S_IFREG}
			p.b.Put(inodeKey(900), encodeAttr(&a))
		}, kinds{BadOrphan: true}},
		"number given out twice": {func(p *plant) { p.b.Put(counterKey("ino"), encodeNumber(3)) }, kinds{BadCounter: true}},
		"cookie given out twice": {func(p *plant) { p.b.Delete(counterKey("cookie")) }, kinds{BadCounter: true}},
		"segments cut short":     {func(p *plant) { p.b.Put(counterKey("segment"), []byte{3}) }, kinds{BadRecord: true}},
		"counter cut short":      {func(p *plant) { p.b.Put(counterKey("ino"), []byte{3}) }, kinds{BadRecord: true}},
		"intent of nothing": {func(p *plant) {
			p.b.Put(intentKey(777), intent{kind: freeing, r: extent.Range{Off: 0, End: 4096}}.encode())
		}, kinds{BadIntent: true}},
		"intent of nonsense": {func(p *plant) {
			p.b.Put(intentKey(p.f), intent{kind: freeing, r: extent.Range{Off: 9, End: 4096}}.encode())
		}, kinds{BadRecord: true}},
		"attribute of nothing": {func(p *plant) { p.b.Put(xattrKey(777, "user.x"), nil) }, kinds{BadXattr: true}},
		"attribute too many":   {func(p *plant) { p.b.Put(xattrKey(p.g, "user.x"), nil) }, kinds{BadXattr: true}},
		"attribute too few":    {func(p *plant) { p.attr(p.g, func(a *Attr) { a.Xattrs = 1 }) }, kinds{BadXattr: true}},
		"attribute too long": {func(p *plant) {
			p.b.Put(xattrKey(p.f, "user.x"), make([]byte, XattrValueMax+1))
			p.attr(p.f, func(a *Attr) { a.Xattrs = 1 })
		}, kinds{BadXattr: true}},
		"attribute of no name": {func(p *plant) { p.b.Put(xattrKey(p.f, ""), nil) }, kinds{BadRecord: true}},
		"no root":              {func(p *plant) { p.b.Delete(inodeKey(extent.RootIno)) }, kinds{BadEntry: true, BadLinks: true, BadOrphan: true}},
		"other device": {func(p *plant) {
			s, _ := readDeviceSuper(p.dev)
			s.uuid[0]++
			must(p.t, writeDeviceSuper(p.dev, &s))
		}, kinds{BadSuperblock: true}},
		"nothing": {func(p *plant) {}, kinds{}},
	}
}

// TestCheckFinds plants damage of each kind and wants it found.
func TestCheckFinds(t *testing.T) {
	for name, c := range damages() {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			c.do(p)
			must(t, p.v.st.Apply(p.b))
			got := kinds{}
			sum, err := Check(context.Background(), p.dev, p.st, func(q Problem) {
				t.Log(q)
				got[q.Kind] = true
			})
			must(t, err)
			if (sum.Problems > 0) != (len(c.want) > 0) {
				t.Errorf("%d problems", sum.Problems)
			}
			for k := range c.want {
				if !got[k] {
					t.Errorf("no problem of kind %s", k)
				}
			}
			for k := range got {
				if !c.want[k] {
					t.Errorf("a problem of kind %s", k)
				}
			}
		})
	}
}

// TestDamagedMapIsAnError: reading a file whose records make no sense is an error,
// not somebody's bytes.
func TestDamagedMapIsAnError(t *testing.T) {
	p := newPlant(t)
	putExtent(p.b, p.f, extent.Extent{Off: mib, Len: 8192, Addr: extent.Addr{Seg: extent.Device, Off: 8*mib - 4096}})
	must(t, p.v.st.Apply(p.b))
	n := p.load(p.f)
	for range 2 {
		if _, err := n.ReadAt(make([]byte, 10), 0); err == nil {
			t.Fatal("read succeeds")
		}
	}
	if n.Plan(extent.Range{Off: 0, End: 10}) {
		t.Fatal("plan succeeds")
	}
}
