package volume

import (
	"bytes"
	"context"
	"fmt"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/internal/sim"
	"holdfast/store"
)

// problems runs Check and returns the kinds that it finds.
func (r *rig) problems() kinds {
	r.t.Helper()
	got := kinds{}
	_, err := Check(context.Background(), r.dev, r.st, func(p Problem) { got[p.Kind] = true })
	must(r.t, err)
	return got
}

// repair returns what RepairAll says it did.
func (r *rig) repair() []Repair {
	r.t.Helper()
	var did []Repair
	must(r.t, RepairAll(context.Background(), r.dev, r.st, func(f Repair) { did = append(did, f) }))
	return did
}

// unrepaired are the damages that nothing else in the store can mend, by what Check
// still says of them. Who repairs them decides what to lose.
func unrepaired() map[string]kinds {
	return map[string]kinds{
		"block with two owners":                               {SharedBlock: true},
		"block with two owners of which one knows":            {SharedBlock: true},
		"block of a long extent with two owners":              {SharedBlock: true},
		"shared block without its owners, of which one knows": {BadOwner: true},
		"extents overlap in a file":                           {BadExtent: true},
		"extent off the device":                               {BadExtent: true},
		"extent over the superblock":                          {BadExtent: true},
		"extent of a directory":                               {BadExtent: true},
		"extent record cut short":                             {BadRecord: true},
		"inode record cut short":                              {BadRecord: true, BadEntry: true},
		"strange key":                                         {BadRecord: true},
		"intent of nonsense":                                  {BadRecord: true},
		"attribute too long":                                  {BadXattr: true},
		"attribute of no name":                                {BadRecord: true},
		"other device":                                        {BadSuperblock: true},
	}
}

// bystander makes a file that no damage is done to.
func (p *plant) bystander() []byte {
	p.t.Helper()
	want := bytes.Repeat([]byte("bystander"), 5000)
	n := p.create("bystander")
	must(p.t, n.Write(want, 0))
	must(p.t, n.Write(want, 100000))
	p.sync(n)
	n.Attr.Xattrs = 1
	tx := p.v.Begin()
	tx.PutXattr(n.Ino, "user.x", []byte("y"))
	tx.PutInode(n)
	must(p.t, tx.Commit())
	return p.read(n)
}

// lookup follows names from the root.
func (r *rig) lookup(names ...string) extent.Ino {
	r.t.Helper()
	at := extent.Ino(extent.RootIno)
	for _, name := range names {
		e, err := r.v.LookupEntry(at, name)
		must(r.t, err)
		at = e.Ino
	}
	return at
}

// TestRepair plants damage of each kind. What can be mended is, each time with a
// word; what cannot is left alone. A second repair has nothing to do.
func TestRepair(t *testing.T) {
	for name, c := range damages() {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t)
			want := p.bystander()
			c.do(p)
			must(t, p.v.st.Apply(p.b))
			left := unrepaired()[name]
			if name == "other device" {
				if err := RepairAll(context.Background(), p.dev, p.st, func(f Repair) { t.Error(f) }); err == nil {
					t.Fatal("repairs two volumes that do not belong together")
				}
				return
			}
			did := p.repair()
			t.Log(did)
			if mends := len(c.want) > 0 && left == nil; (len(did) > 0) != mends {
				t.Errorf("%d repairs", len(did))
			}
			if got := p.problems(); fmt.Sprint(got) != fmt.Sprint(left) {
				t.Fatalf("left: %v, want %v", got, left)
			}
			if again := p.repair(); len(again) > 0 {
				t.Errorf("a second repair: %v", again)
			}
			if left != nil {
				return
			}
			p.open()
			n := p.load(p.lookup("bystander"))
			if got := p.read(n); !bytes.Equal(got, want) {
				t.Error("a file that was not damaged has other bytes")
			}
			if x, err := p.v.Xattr(n.Ino, "user.x"); err != nil || string(x) != "y" {
				t.Errorf("its attribute: %q, %v", x, err)
			}
			// The volume is one to work with.
			p.sync(p.create("new"))
			p.check()
		})
	}
}

// TestRepairFinds: what lost its name or its inode is found again, with its bytes.
func TestRepairFinds(t *testing.T) {
	p := newPlant(t)
	want := p.read(p.load(p.f))
	e, err := p.v.LookupEntry(extent.RootIno, "f")
	must(t, err)
	p.b.Delete(entryKey(extent.RootIno, "f"))
	p.b.Delete(cookieKey(extent.RootIno, e.Cookie))
	p.b.Delete(inodeKey(p.f))
	// A directory and all below it.
	e, err = p.v.LookupEntry(extent.RootIno, "d")
	must(t, err)
	p.b.Delete(entryKey(extent.RootIno, "d"))
	p.b.Delete(cookieKey(extent.RootIno, e.Cookie))
	must(t, p.v.st.Apply(p.b))
	p.repair()
	p.check()
	p.open()
	if got := p.read(p.load(p.lookup(lostFound, fmt.Sprint("#", p.f)))); !bytes.Equal(bytes.TrimRight(got, "\x00"), bytes.TrimRight(want, "\x00")) {
		t.Error("a file whose inode was lost has other bytes")
	}
	if got := p.lookup(lostFound, fmt.Sprint("#", p.d), "g"); got != p.g {
		t.Errorf("the lost directory's file is inode %d, was %d", got, p.g)
	}
}

// TestRepairKeepsName: the order of a directory brings back a name that was lost or
// damaged, if nothing else leads to its file, and only then.
func TestRepairKeepsName(t *testing.T) {
	for what, harm := range map[string]func(p *plant){
		"lost":    func(p *plant) { p.b.Delete(entryKey(p.d, "g")) },
		"damaged": func(p *plant) { p.b.b.Put(entryKey(p.d, "g"), []byte("nonsense")) },
	} {
		p := newPlant(t)
		harm(p)
		must(t, p.v.st.Apply(p.b))
		p.repair()
		p.check()
		p.open()
		if got := p.lookup("d", "g"); got != p.g {
			t.Errorf("%s: inode %d", what, got)
		}
	}
}

// TestRepairOwners: no owner is made up where two extents have the same blocks, and
// the blocks of a damaged extent stay taken.
func TestRepairOwners(t *testing.T) {
	p := newPlant(t)
	e := p.ext[0]
	p.b.Delete(ownerKey(e.Addr, e.Len, p.f, e.Range().End))
	e.Off, e.Len = 65536, 4096
	p.b.Put(extentKey(p.g, e.Range().End), encodeExtent(e))
	x := p.ext[1]
	p.b.b.Put(extentKey(p.f, x.Range().End), []byte("nonsense"))
	must(t, p.v.st.Apply(p.b))
	if did := p.repair(); len(did) > 0 {
		t.Fatal(did)
	}
	if _, err := p.v.st.Get(ownerKey(x.Addr, x.Len, p.f, x.Range().End)); err != nil {
		t.Fatalf("the owner of a damaged extent: %v", err)
	}
}

// TestRepairRespectsDamage: a directory that cannot be read keeps its names, and what
// they lead to is not moved.
func TestRepairRespectsDamage(t *testing.T) {
	p := newPlant(t)
	p.b.b.Put(inodeKey(p.d), []byte("nonsense"))
	must(t, p.v.st.Apply(p.b))
	if did := p.repair(); len(did) > 0 {
		t.Fatal(did)
	}
}

// wreck does much damage at once, more than fits into a batch.
func (p *plant) wreck() {
	p.t.Helper()
	all := damages()
	for _, name := range []string{
		"extent without owner", "extent of no file", "name of another type", "link count of a directory",
		"orphan with a name", "orphan of nothing", "number given out twice", "cookie given out twice", "intent of nothing",
		"attribute of nothing", "attribute too few", "parent",
	} {
		all[name].do(p)
	}
	must(p.t, p.v.st.Apply(p.b))
	p.b.Reset()
	all["loop"].do(p)
	must(p.t, p.v.st.Apply(p.b))
	for i := range uint64(150) {
		b := p.v.batch()
		a := Attr{Mode: syscall.S_IFREG, Nlink: 1}
		b.Put(inodeKey(extent.Ino(2000+i)), encodeAttr(&a))
		must(p.t, p.v.st.Apply(b))
	}
}

// TestRepairPowerCut cuts a repair off at each point: another does the rest.
func TestRepairPowerCut(t *testing.T) {
	p := newPlant(t)
	want := p.bystander()
	p.wreck()
	must(t, p.st.Sync())
	p.disk.Settle()
	first := p.disk.Pos()
	if did := p.repair(); len(did) < 160 {
		t.Fatalf("%d repairs", len(did))
	}
	p.check()
	last := p.disk.Pos()
	at := p.disk.Cursor()
	unfinished := 0
	for cut := first; cut <= last; cut++ {
		at.Seek(cut)
		for _, left := range []sim.Choice{sim.None, sim.All, sim.DeviceOnly, sim.StoreOnly, sim.Seeded(uint64(cut)), sim.Torn(cut % 7)} {
			q := &rig{t: t}
			q.insert(at.Crash(left))
			st, err := store.Open("meta", q.options(nil))
			must(t, err)
			q.st = st
			if len(q.repair()) > 0 {
				unfinished++
			}
			if got := q.problems(); len(got) > 0 {
				t.Fatalf("cut %d, %v: %v", cut, left, got)
			}
			q.open()
			if got := q.read(q.load(q.lookup("bystander"))); !bytes.Equal(got, want) {
				t.Fatalf("cut %d, %v: a file that was not damaged has other bytes", cut, left)
			}
			must(t, st.Close())
		}
	}
	t.Logf("%d positions, the second repair had something to do %d times", last-first, unfinished)
}
