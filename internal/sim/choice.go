package sim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Choice says what a crash leaves of what was not flushed.
type Choice struct {
	kind choiceKind
	n    uint64
}

type choiceKind uint8

const (
	none choiceKind = iota
	all
	deviceOnly
	storeOnly
	seeded
	masked
	torn
)

// The choices that need no number: nothing of it is left, all of it, or all of one
// half and nothing of the other, which is what an order between the two that was
// forgotten does not survive.
var (
	None       = Choice{kind: none}
	All        = Choice{kind: all}
	DeviceOnly = Choice{kind: deviceOnly}
	StoreOnly  = Choice{kind: storeOnly}
)

// Seeded leaves what a random generator with this seed says.
func Seeded(seed uint64) Choice { return Choice{seeded, seed} }

// Masked leaves the sectors and names whose bit is set, in the order of their
// first being written. It goes through all choices where Cursor.Atoms is small.
func Masked(bits uint64) Choice { return Choice{masked, bits} }

// Torn leaves the first n sectors that the store wrote, and all that was written to
// the device: a disk that writes in order, cut off in the middle of a log.
func Torn(n int) Choice { return Choice{torn, uint64(n)} }

var choiceNames = [...]string{"none", "all", "device", "store", "seed:", "mask:", "torn:"}

// String is what ParseChoice understands.
func (c Choice) String() string {
	if c.kind < seeded {
		return choiceNames[c.kind]
	}
	return fmt.Sprintf("%s%d", choiceNames[c.kind], c.n)
}

// ParseChoice reads what String has written.
func ParseChoice(s string) (Choice, error) {
	for kind, name := range choiceNames {
		rest, ok := strings.CutPrefix(s, name)
		switch kind := choiceKind(kind); {
		case !ok:
		case kind >= seeded:
			n, err := strconv.ParseUint(rest, 10, 64)
			return Choice{kind, n}, err
		case rest == "":
			return Choice{kind: kind}, nil
		}
	}
	return Choice{}, fmt.Errorf("choice %q: want none, all, device, store, seed:N, mask:N or torn:N", s)
}

// decision carries out a Choice.
type decision struct {
	Choice
	rng   *rand.Rand
	odds  [2]int // of a sector to be left, in 8, of the store and of the device
	spare int    // the atom that is decided the other way; -1 is none
	atom  int
	store int // sectors of the store so far
}

func (c Choice) decide(atoms int) *decision {
	d := &decision{Choice: c, spare: -1}
	if c.kind != seeded {
		return d
	}
	d.rng = rand.New(rand.NewPCG(c.n, 0x6f6c64))
	// Extremes find most: all or nothing of a half, and but for one atom.
	for i := range d.odds {
		d.odds[i] = [...]int{0, 8, d.rng.IntN(9), d.rng.IntN(9)}[d.rng.IntN(4)]
	}
	if atoms > 0 && d.rng.IntN(2) == 0 {
		d.spare = d.rng.IntN(atoms)
	}
	return d
}

// versions says how many of the n writes to a sector have reached it.
func (d *decision) versions(device bool, n int) int {
	atom := d.atom
	d.atom++
	left := false
	switch d.kind {
	case all:
		left = true
	case deviceOnly:
		left = device
	case storeOnly:
		left = !device
	case torn:
		if left = device || uint64(d.store) < d.n; !device {
			d.store++
		}
	case masked:
		left = atom < 64 && d.n>>atom&1 != 0
	case seeded:
		half := 0
		if device {
			half = 1
		}
		left = d.rng.IntN(8) < d.odds[half] != (atom == d.spare)
		if left && n > 1 && d.rng.IntN(4) == 0 {
			return d.rng.IntN(n)
		}
	}
	if left {
		return n
	}
	return 0
}

// names says of n changes of names which are left, in order, and whether names may
// go.
func (d *decision) names(n int) (left func(int) bool, removals bool) {
	if d.kind == seeded {
		k := d.rng.IntN(n + 1)
		return func(i int) bool { return i < k }, d.rng.IntN(3) > 0
	}
	if d.kind == torn {
		return func(int) bool { return true }, true
	}
	k := 0
	for k < n && d.versions(false, 1) > 0 {
		k++
	}
	return func(i int) bool { return i < k }, true
}

// sizesAhead says whether files have the size that they were written to, with
// zeros for what is lost.
func (d *decision) sizesAhead() bool {
	return d.kind == all || d.kind == storeOnly || d.kind == seeded && d.rng.IntN(2) == 0
}
