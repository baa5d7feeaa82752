package fs

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/volume"
)

func (r *rig) setXattr(ino extent.Ino, name, value string) {
	r.t.Helper()
	r.must(r.SetXattr(ctx, Caller{}, ino, name, []byte(value), 0))
}

func (r *rig) xattrs(ino extent.Ino) string {
	r.t.Helper()
	list, err := r.ListXattr(ctx, Caller{Admin: true}, ino)
	r.must(err)
	return strings.Join(strings.FieldsFunc(string(list), func(c rune) bool { return c == 0 }), " ")
}

// TestXattrTimes: to set or remove an attribute changes ctime and nothing else; a
// failed attempt changes nothing.
func TestXattrTimes(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", []byte("x"))
	before := r.attr(ino)
	wantErr(t, r.RemoveXattr(ctx, Caller{}, ino, "user.a"), syscall.ENODATA, "remove")
	wantErr(t, r.SetXattr(ctx, Caller{}, ino, "user.a", nil, XattrReplace), syscall.ENODATA, "replace")
	wantErr(t, r.SetXattr(ctx, Caller{}, ino, aclAccess, []byte("nonsense"), 0), syscall.EINVAL, "nonsense")
	if after := r.attr(ino); after != before {
		t.Errorf("%+v after what failed, before %+v", after, before)
	}
	r.setXattr(ino, "user.a", "1")
	after := r.attr(ino)
	if after.Ctime <= before.Ctime || after.Mtime != before.Mtime || after.Atime != before.Atime {
		t.Errorf("%+v after setting, before %+v", after, before)
	}
	r.must(r.RemoveXattr(ctx, Caller{}, ino, "user.a"))
	if last := r.attr(ino); last.Ctime <= after.Ctime || last.Xattrs != 0 {
		t.Errorf("%+v after removing", last)
	}
}

// TestXattrsGoWithTheFile, at once and by thousands.
func TestXattrsGoWithTheFile(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", nil)
	const many = 1000
	for k := range many {
		r.setXattr(ino, fmt.Sprint("user.", k), "value")
	}
	r.reopen()
	if got := len(strings.Fields(r.xattrs(ino))); got != many {
		t.Errorf("%d attributes after a restart", got)
	}
	r.must(r.Unlink(ctx, Caller{}, extent.RootIno, "f"))
	if i := r.cached(ino); i != nil {
		r.Forget(ino, 1<<20)
	}
	sum, err := volume.Check(ctx, r.dev, r.st, func(volume.Problem) {})
	r.must(err)
	if sum.Xattrs != 0 {
		t.Errorf("%d attributes are left of an unlinked file", sum.Xattrs)
	}
}

// TestCapabilitiesGoByTheAPI, too, where no kernel takes them off.
func TestCapabilitiesGoByTheAPI(t *testing.T) {
	r := newRig(t)
	ino := r.file("f", make([]byte, 20000))
	for name, change := range map[string]func() error{
		"truncate": func() error { return r.Truncate(ctx, Caller{Admin: true}, ino, 10000) },
		"punch":    func() error { return r.Reshape(ctx, Caller{Admin: true}, ino, punchHole, rng(0, 4096)) },
	} {
		r.setXattr(ino, "user.stays", "")
		r.setXattr(ino, capabilities, "caps")
		r.must(change())
		if got := r.xattrs(ino); got != "user.stays" {
			t.Errorf("after %s: %s", name, got)
		}
	}
}

// TestACLs that make no sense are refused.
func TestACLs(t *testing.T) {
	e := func(tag, perm uint16) aclItem { return aclItem{tag, perm, 0} }
	minimal := acl{e(aclUserObj, 7), e(aclGroupObj, 5), e(aclOther, 0)}
	full := acl{e(aclUserObj, 6), e(aclUser, 7), e(aclUser, 1), e(aclGroupObj, 7), e(aclGroup, 2), e(aclMask, 4), e(aclOther, 1)}
	for _, a := range []acl{minimal, full, slices.Insert(slices.Clone(minimal), 2, e(aclMask, 7))} {
		if got, err := parseACL(a.encode()); err != nil || !slices.Equal(got, a) {
			t.Errorf("%v: %v, %v", a, got, err)
		}
	}
	if m := minimal.mode(); m != 0o750 || !minimal.minimal() {
		t.Errorf("mode %o", m)
	}
	if m := full.mode(); m != 0o641 || full.minimal() {
		t.Errorf("mode %o", m)
	}
	for k := range full {
		if k == 1 || k == 2 || k == 4 {
			continue // a name less is fine
		}
		if _, err := parseACL(slices.Delete(slices.Clone(full), k, k+1).encode()); err == nil {
			t.Errorf("without entry %d it is taken", k)
		}
		if _, err := parseACL(slices.Insert(slices.Clone(full), k, full[k]).encode()); err == nil {
			t.Errorf("with entry %d twice it is taken", k)
		}
	}
	for name, a := range map[string]acl{
		"nothing":    {},
		"order":      {minimal[1], minimal[0], minimal[2]},
		"permission": {e(aclUserObj, 8), minimal[1], minimal[2]},
		"tag":        {minimal[0], minimal[1], e(0x40, 7), minimal[2]},
		"user late":  {minimal[0], minimal[1], e(aclUser, 7), e(aclMask, 7), minimal[2]},
	} {
		if _, err := parseACL(a.encode()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzParseACL: no bytes make it panic, and what is taken is written back the same.
func FuzzParseACL(f *testing.F) {
	f.Add(acl{{aclUserObj, 7, 0}, {aclGroupObj, 5, 0}, {aclOther, 0, 0}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseACL(b)
		if err == nil && string(a.encode()) != string(b) {
			t.Errorf("%x became %x", b, a.encode())
		}
		if err == nil {
			mode := a.restrict(0o100640)
			a.chmod(mode)
			if a.mode() != mode&0o777 {
				t.Errorf("chmod to %o gives %o", mode, a.mode())
			}
		}
	})
}
