package fs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"holdfast/extent"
	"holdfast/layout"
	"holdfast/volume"
)

// Policies of a file are extended attributes with this prefix.
const policyPrefix = "user.holdfast."

// Policies say what is done about those who hold a file. What the file does not say, the volume does.
type Policies struct {
	OnHold layout.OnHold // 0: the volume's
	// OnClose and OnPass count where the file says something of them.
	OnClose           layout.OnClose
	OnPass            layout.OnPass
	HasClose, HasPass bool
}

// policyAttribute is one attribute: its values, and what each of them sets.
type policyAttribute struct {
	name   string
	values []string
	set    func(p *Policies, value int) // -1: the volume's
}

func policyAttributes() []policyAttribute {
	return []policyAttribute{
		{"on_hold", []string{"fail", "wait", "revoke", "defer"}, func(p *Policies, v int) { p.OnHold = layout.OnHold(v + 1) }},
		{"on_close", []string{"transfer", "block", "abort"}, func(p *Policies, v int) {
			p.OnClose, p.HasClose = layout.OnClose(max(v, 0)), v >= 0
		}},
		{"on_pass", []string{"strict", "share"}, func(p *Policies, v int) {
			p.OnPass, p.HasPass = layout.OnPass(max(v, 0)), v >= 0
		}},
	}
}

// policyAttributeOf returns the policy that an attribute is, nil if none.
func policyAttributeOf(name string) *policyAttribute {
	rest, ok := strings.CutPrefix(name, policyPrefix)
	if !ok {
		return nil
	}
	for _, a := range policyAttributes() {
		if a.name == rest {
			return &a
		}
	}
	return nil
}

// mayAlter refuses a change of a policy to who does not own the file. It needs mu.
func (i *inode) mayAlter(c Caller, name string) error {
	if policyAttributeOf(name) == nil || c.Admin || c.UID == i.n.Attr.UID {
		return nil
	}
	return fmt.Errorf("%s is for the owner of the file and administrators: %w", name, syscall.EPERM)
}

// checkPolicy refuses a value that no policy has.
func checkPolicy(name string, value []byte) error {
	if a := policyAttributeOf(name); a != nil && !slices.Contains(a.values, string(value)) {
		return fmt.Errorf("%s is one of %s: %w", name, strings.Join(a.values, ", "), syscall.EINVAL)
	}
	return nil
}

// policySet notes that an attribute was set; value nil: removed. It needs mu exclusive.
func (i *inode) policySet(name string, value []byte) {
	if a := policyAttributeOf(name); a != nil {
		a.set(&i.policies, slices.Index(a.values, string(value)))
	}
}

// loadPolicies reads what a file says of itself, when it comes into the cache: a change does not ask the store for it.
func (i *inode) loadPolicies(v *volume.Volume) error {
	if i.n.Attr.Xattrs == 0 {
		return nil
	}
	for _, a := range policyAttributes() {
		value, err := v.Xattr(i.ino, policyPrefix+a.name)
		switch {
		case err == nil:
			i.policySet(policyPrefix+a.name, value)
		case !errors.Is(err, syscall.ENODATA):
			return err
		}
	}
	return nil
}

// Policies returns what a file says is to be done about those who hold it.
func (f *FS) Policies(ino extent.Ino) (p Policies, err error) {
	err = f.withInode(ino, func(i *inode) error {
		i.mu.RLock()
		defer i.mu.RUnlock()
		p = i.policies
		return nil
	})
	return p, err
}

// byPolicy gives a caller who asked for no policy that of the file. It needs mu, shared suffices.
func (i *inode) byPolicy(c Caller) Caller {
	if c.OnHold == 0 {
		c.OnHold = i.policies.OnHold
	}
	return c
}
