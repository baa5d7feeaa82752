package arbiter

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"holdfast/layout"
)

// Limit names what a user can use up.
type Limit uint8

const (
	// LimitLeases and LimitPins are charged to who took them, whoever has them now.
	LimitLeases Limit = iota
	LimitPins
	LimitUnbreakable // leases that are
	LimitSessions
	LimitWindows  // bytes; each of a file once for a user, however many of his leases map it
	LimitOrphaned // bytes; counted, and limited for all together, by the storage
	numLimits

	hotLimits = LimitPins + 1 // those before are counted at each acquire or pin
)

var limitNames = [numLimits]string{"leases", "pins", "unbreakable", "sessions", "windows", "orphaned"}

// limitUnits says in words what is limited.
var limitUnits = [numLimits]string{"leases", "pins", "unbreakable leases", "sessions", "bytes of windows", "orphaned bytes"}

var limitErrnos = [numLimits]syscall.Errno{
	syscall.ENOLCK, syscall.ENOLCK, syscall.ENOLCK, syscall.EUSERS, syscall.EDQUOT, syscall.EDQUOT,
}

var limitDefaults = [numLimits]int64{1 << 20, 1 << 20, 1 << 12, 1 << 12, Unlimited, Unlimited} // the server knows the memory that windows are of

func (l Limit) String() string {
	if l < numLimits {
		return limitNames[l]
	}
	return fmt.Sprintf("invalid(%d)", uint8(l))
}

// MarshalText writes the name.
func (l Limit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a name.
func (l *Limit) UnmarshalText(b []byte) error {
	i := slices.Index(limitNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("limit %q is not one of %q: %w", b, limitNames, syscall.EINVAL)
	}
	*l = Limit(i)
	return nil
}

// Bytes reports whether what is limited is counted in bytes.
func (l Limit) Bytes() bool { return l == LimitWindows || l == LimitOrphaned }

const (
	// Unlimited as the value of a limit is none.
	Unlimited int64 = math.MaxInt64
	// Everyone as the user of a limit is each user but 0, who has no limit that does not name him.
	Everyone uint32 = math.MaxUint32
)

// UserLimit says whose limit it is, and of what.
type UserLimit struct {
	User  uint32
	Limit Limit
}

// MarshalText writes NAME@USER.
func (u UserLimit) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%v@%d", u.Limit, u.User), nil
}

// UnmarshalText reads NAME@USER.
func (u *UserLimit) UnmarshalText(b []byte) error {
	name, user, _ := strings.Cut(string(b), "@")
	uid, err := strconv.ParseUint(user, 10, 32)
	if err != nil {
		return fmt.Errorf("limit %q: user: %w", b, err)
	}
	u.User = uint32(uid)
	return u.Limit.UnmarshalText([]byte(name))
}

// Limits are what users can use up. What is not there has its default.
type Limits map[UserLimit]int64

// Of returns what a user can use up.
func (ls Limits) Of(uid uint32, l Limit) int64 {
	if v, ok := ls[UserLimit{uid, l}]; ok {
		return v
	}
	if uid == 0 {
		return Unlimited
	}
	if v, ok := ls[UserLimit{Everyone, l}]; ok {
		return v
	}
	return limitDefaults[l]
}

const (
	accountCells = 16
	maxGrab      = 64 // what a cell takes from the pool at a time
)

// account counts what one user has. What is left of a limit lies in a pool; of
// leases and pins, cells have taken some of it in advance, so that acquiring on
// different files writes to no common place. Nothing is refused before all cells
// were emptied into the pool.
type account struct {
	uid   uint32
	max   [numLimits]int64
	cells [accountCells]accountCell

	mu   sync.Mutex // a leaf; guards what follows
	pool [numLimits]int64
}

// accountCell fills a cache line.
type accountCell struct {
	free [hotLimits]atomic.Int64
	_    [64 - 8*hotLimits]byte
}

// account returns that of a user.
func (a *Arbiter) account(uid uint32) *account {
	if v, ok := a.accounts.Load(uid); ok {
		return v.(*account)
	}
	u := &account{uid: uid}
	for l := range numLimits {
		u.max[l] = a.cfg.Limits.Of(uid, l)
	}
	u.pool = u.max
	v, _ := a.accounts.LoadOrStore(uid, u)
	return v.(*account)
}

// take charges n, or refuses, naming the limit. cell is any number that spreads.
func (u *account) take(l Limit, cell int, n int64) error {
	if l >= hotLimits {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.pool[l] < n {
			return u.exceeded(l, n)
		}
		u.pool[l] -= n
		return nil
	}
	free := &u.cells[cell%accountCells].free[l]
	for {
		v := free.Load()
		if v < n {
			return u.refill(l, free, n)
		}
		if free.CompareAndSwap(v, v-n) {
			return nil
		}
	}
}

// refill is take where the cell is empty.
func (u *account) refill(l Limit, free *atomic.Int64, n int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pool[l] < n {
		for i := range u.cells {
			u.pool[l] += u.cells[i].free[l].Swap(0)
		}
	}
	if u.pool[l] < n {
		return u.exceeded(l, n)
	}
	u.pool[l] -= n
	grab := min(max(u.pool[l], 0)/(2*accountCells), maxGrab)
	u.pool[l] -= grab
	free.Add(grab)
	return nil
}

// put undoes take.
func (u *account) put(l Limit, cell int, n int64) {
	if l < hotLimits {
		free := &u.cells[cell%accountCells].free[l]
		if free.Add(n) <= 2*maxGrab {
			return
		}
		n = free.Swap(0)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pool[l] += n
}

// force charges what cannot be refused any more; the limit may be passed.
func (u *account) force(l Limit, n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pool[l] -= n
}

// exceeded is the error of the limit. u.mu is held.
func (u *account) exceeded(l Limit, n int64) error {
	return fmt.Errorf("limit of %d %s of user %d (serve --limit %v): %d are in use, %d more are asked for: %w",
		u.max[l], limitUnits[l], u.uid, l, u.used(l), n, limitErrnos[l])
}

// used returns what is charged. u.mu is held.
func (u *account) used(l Limit) int64 {
	free := u.pool[l]
	if l < hotLimits {
		for i := range u.cells {
			free += u.cells[i].free[l].Load()
		}
	}
	return max(u.max[l]-free, 0)
}

// charge charges one to the session's user, or notes the refusal as an event.
func (a *Arbiter) charge(s *session, l Limit, sh *shard, about rawEvent) error {
	err := s.account.take(l, sh.index, 1)
	if err != nil {
		about.session, about.pid = s.id, s.info.PID
		a.refusedBy(l, sh, about, err)
	}
	return err
}

// refusedBy notes what a limit has refused.
func (a *Arbiter) refusedBy(l Limit, sh *shard, about rawEvent, err error) {
	about.kind, about.errno, about.reason = EventDeny, limitErrnos[l], err.Error()
	a.recordRefusal(sh, about, "limit of "+l.String())
}

// tally notes what an effect does to accounts. What is asked for was charged before the step.
// Preconditions: sh.mu is held.
func (a *Arbiter) tally(sh *shard, e *layout.Effect) {
	switch e.Kind {
	case layout.Granted, layout.Modified:
		a.tallyUnbreakable(sh, e)
	case layout.Released:
		if u := payer(a, e.Session, sh.leasePayers, e.Lease); u != nil {
			u.put(LimitLeases, sh.index, 1)
		}
		a.tallyUnbreakable(sh, e)
	case layout.Joined:
		if l, ok := sh.m.Lease(e.Lease); ok && sh.leasePayers[e.Lease] == nil {
			sh.leasePayers[e.Lease] = a.accountOf(l.Session)
		}
	case layout.Unpinned:
		if u := payer(a, e.Session, sh.pinPayers, e.Pin); u != nil {
			u.put(LimitPins, sh.index, 1)
		}
	case layout.Moved:
		if c, ok := a.contexts.Load(e.Context); ok && sh.pinPayers[e.Pin] == nil {
			sh.pinPayers[e.Pin] = c.(*contextEntry).session().account // its owner until the claim is complete
		}
	}
}

// tallyUnbreakable keeps who pays for an unbreakable lease.
// Preconditions: sh.mu is held.
func (a *Arbiter) tallyUnbreakable(sh *shard, e *layout.Effect) {
	is := e.Unbreakable && e.Kind != layout.Released
	u := sh.unbreakable[e.Lease]
	switch {
	case is && u == nil:
		if u = a.accountOf(e.Session); u != nil {
			u.force(LimitUnbreakable, 1) // whoever asked for it has reserved it until he is answered
			sh.unbreakable[e.Lease] = u
		}
	case !is && u != nil:
		u.put(LimitUnbreakable, sh.index, 1)
		delete(sh.unbreakable, e.Lease)
	}
}

// payer returns to whom something of the session is charged, and forgets that it is another.
func payer[ID comparable](a *Arbiter, s layout.SessionID, others map[ID]*account, id ID) *account {
	if u := others[id]; u != nil {
		delete(others, id)
		return u
	}
	return a.accountOf(s)
}

// accountOf returns that of the session's user.
func (a *Arbiter) accountOf(id layout.SessionID) *account {
	if v, ok := a.sessions.Load(id); ok {
		return v.(*session).account
	}
	return nil
}

// ChargeWindows charges bytes of windows to a user, or refuses; DischargeWindows undoes it.
func (a *Arbiter) ChargeWindows(uid uint32, n int64) error {
	err := a.account(uid).take(LimitWindows, 0, n)
	if err != nil {
		a.refusedBy(LimitWindows, a.shards[0], rawEvent{}, err)
	}
	return err
}

// AdoptWindows charges what cannot be refused: it was mapped before the server was started.
func (a *Arbiter) AdoptWindows(uid uint32, n int64) { a.account(uid).force(LimitWindows, n) }

// DischargeWindows undoes ChargeWindows.
func (a *Arbiter) DischargeWindows(uid uint32, n int64) { a.account(uid).put(LimitWindows, 0, n) }

// LimitUse says what a user has used up.
type LimitUse struct {
	User  uint32 `json:"user"`
	Limit Limit  `json:"limit"`
	Used  int64  `json:"used"`
	Max   *int64 `json:"max"` // nil: unlimited
}

// Uses lists what the users have used up that have, or had, sessions or orphans. orphaned says how many bytes of orphans each has.
func (a *Arbiter) Uses(orphaned map[uint32]int64) []LimitUse {
	var users []*account
	for uid := range orphaned {
		a.account(uid)
	}
	a.accounts.Range(func(_, v any) bool {
		users = append(users, v.(*account))
		return true
	})
	slices.SortFunc(users, func(x, y *account) int { return cmp.Compare(x.uid, y.uid) })
	uses := []LimitUse{}
	for _, u := range users {
		u.mu.Lock()
		for l := range numLimits {
			use := LimitUse{User: u.uid, Limit: l, Used: u.used(l)}
			if l == LimitOrphaned {
				use.Used = orphaned[u.uid]
			}
			if u.max[l] != Unlimited {
				limit := u.max[l]
				use.Max = &limit
			}
			uses = append(uses, use)
		}
		u.mu.Unlock()
	}
	return uses
}
