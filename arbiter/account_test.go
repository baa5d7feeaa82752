package arbiter

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"

	"holdfast/extent"
	"holdfast/layout"
)

func limited(limits map[Limit]int64) Config {
	cfg := Config{Limits: Limits{}}
	for l, v := range limits {
		cfg.Limits[UserLimit{Everyone, l}] = v
	}
	return cfg
}

func (w *world) openAs(uid uint32) layout.SessionID {
	w.t.Helper()
	id, err := w.OpenSession(SessionInfo{UID: uid, Name: "prog"})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// wantExceeded checks that the error names the limit, its value and who is charged.
func wantExceeded(t *testing.T, err error, errno syscall.Errno, words ...string) {
	t.Helper()
	if !errors.Is(err, errno) {
		t.Fatalf("%v, want %v", err, errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func (w *world) used(uid uint32, l Limit) int64 {
	for _, u := range w.Uses(nil) {
		if u.User == uid && u.Limit == l {
			return u.Used
		}
	}
	return 0
}

func (w *world) wantUsed(uid uint32, l Limit, n int64) {
	w.t.Helper()
	if got := w.used(uid, l); got != n {
		w.t.Errorf("user %d has used %d of %v, want %d", uid, got, l, n)
	}
}

func (w *world) tryLease(s layout.SessionID, file extent.Ino, opt ...func(*AcquireRequest)) (layout.LeaseID, error) {
	req := AcquireRequest{File: file, Range: whole, Access: layout.Write, MayUnbreakable: true}
	for _, o := range opt {
		o(&req)
	}
	l, err := w.Acquire(w.t.Context(), s, req, nil)
	return l.ID, err
}

// TestLimitOfLeases: a user's leases, of all his sessions and on whatever file, are
// as many as the limit says and not one more; another user and root have theirs; what is
// given back, and what ends with a session, can be had again.
func TestLimitOfLeases(t *testing.T) {
	w := newWorld(t, limited(map[Limit]int64{LimitLeases: 100}))
	one, two, other, root := w.openAs(1000), w.openAs(1000), w.openAs(1001), w.openAs(0)
	var last layout.LeaseID
	for i := range 100 {
		l, err := w.tryLease([]layout.SessionID{one, two}[i%2], extent.Ino(i+1))
		if err != nil {
			t.Fatalf("lease %d: %v", i+1, err)
		}
		last = l
	}
	for i := range 70 {
		_, err := w.tryLease(one, extent.Ino(i+1))
		wantExceeded(t, err, syscall.ENOLCK, "limit of 100 leases", "user 1000", "--limit leases")
	}
	for _, s := range []layout.SessionID{other, root} {
		for i := range 100 {
			if _, err := w.tryLease(s, extent.Ino(i+1)); err != nil {
				t.Fatalf("session %d: %v", s, err)
			}
		}
	}
	if _, err := w.tryLease(root, 5); err != nil {
		t.Errorf("root: %v", err)
	}
	w.wantUsed(1000, LimitLeases, 100)
	if err := w.CloseLease(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tryLease(one, 999); err != nil {
		t.Errorf("after one was given back: %v", err)
	}
	refs, _ := w.storage.count()
	for _, l := range w.Leases(Filter{Session: one}) {
		if err := w.CloseLease(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	w.wantUsed(1000, LimitLeases, 49)
	if now, _ := w.storage.count(); now != refs-51 {
		t.Errorf("%d files are kept, want %d: a refused lease keeps one", now, refs-51)
	}
}

// TestLimitRaced: many at once get exactly what there is.
func TestLimitRaced(t *testing.T) {
	const limit = 150
	w := newWorld(t, limited(map[Limit]int64{LimitLeases: limit}))
	var mu sync.Mutex
	var got []layout.LeaseID
	var wg sync.WaitGroup
	for g := range 8 {
		s := w.openAs(1000)
		wg.Go(func() {
			for i := range 50 {
				if l, err := w.tryLease(s, extent.Ino(g*50+i+1)); err == nil {
					mu.Lock()
					got = append(got, l)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(got) != limit {
		t.Errorf("%d leases under a limit of %d", len(got), limit)
	}
	for _, l := range got {
		wg.Go(func() {
			if err := w.CloseLease(t.Context(), l); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.wantUsed(1000, LimitLeases, 0)
}

// TestLimitOfUnbreakable: by asking and by upgrade, and a wait that was for nothing costs nothing.
func TestLimitOfUnbreakable(t *testing.T) {
	w := newWorld(t, limited(map[Limit]int64{LimitUnbreakable: 2}))
	s := w.openAs(1000)
	first, err := w.tryLease(s, 1, unbreakable)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := w.tryLease(s, 2)
	if err != nil {
		t.Fatal(err)
	}
	up := ModifyRequest{Access: layout.Write, Unbreakable: true, MayUnbreakable: true}
	for range 2 { // what is so already is not charged again
		if _, err := w.Modify(t.Context(), s, plain, up); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.tryLease(s, 3, unbreakable)
	wantExceeded(t, err, syscall.ENOLCK, "limit of 2 unbreakable leases", "user 1000")
	third, err := w.tryLease(s, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Modify(t.Context(), s, third, up)
	wantExceeded(t, err, syscall.ENOLCK, "limit of 2 unbreakable leases")
	if _, err := w.Modify(t.Context(), s, plain, ModifyRequest{Access: layout.Write}); err != nil {
		t.Fatal(err)
	}
	w.wantUsed(1000, LimitUnbreakable, 1)
	if _, err := w.Modify(t.Context(), s, third, up); err != nil {
		t.Errorf("after a downgrade: %v", err)
	}
	if err := w.CloseLease(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.wantUsed(1000, LimitUnbreakable, 1)
	w.wantUsed(1000, LimitLeases, 2)
}

// TestLimitOfPins: they go with their context; a pin that fails is not charged; the refusal is an event.
func TestLimitOfPins(t *testing.T) {
	w := newWorld(t, limited(map[Limit]int64{LimitPins: 3}))
	sub := w.Subscribe(100)
	defer sub.Close()
	s := w.openAs(1000)
	c := w.context(s)
	l := w.lease(s, whole, nil)
	pin := func() (layout.PinID, error) {
		return w.Pin(t.Context(), s, c, l, blocks(0, 1), layout.Write)
	}
	w.storage.hold = func() error { return syscall.ENOMEM }
	if _, err := pin(); !errors.Is(err, syscall.ENOMEM) {
		t.Fatal(err)
	}
	w.storage.hold = nil
	if _, err := w.Pin(t.Context(), s, c, l+64, blocks(0, 1), layout.Write); err == nil {
		t.Fatal("a pin under no lease")
	}
	w.wantUsed(1000, LimitPins, 0)
	for range 3 {
		if _, err := pin(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := pin()
	wantExceeded(t, err, syscall.ENOLCK, "limit of 3 pins", "user 1000")
	for ev := range sub.C {
		if ev.Kind == EventDeny && ev.Reason == err.Error() {
			if ev.Session != s || ev.Errno != syscall.ENOLCK {
				t.Errorf("event %+v", ev)
			}
			break
		}
	}
	if err := w.CloseContext(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.wantUsed(1000, LimitPins, 0)
}

// TestLimitsPassedOn: what was taken stays charged to who took it.
func TestLimitsPassedOn(t *testing.T) {
	w := newWorld(t, limited(map[Limit]int64{LimitPins: 1, LimitLeases: 1}))
	s, to := w.openAs(1000), w.openAs(1001)
	c := w.context(s)
	l := w.lease(s, whole, nil)
	if _, err := w.Pin(t.Context(), s, c, l, blocks(0, 1), layout.Write); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Share(t.Context(), to, l, layout.Share); err != nil {
		t.Fatal(err)
	}
	if err := w.Claim(t.Context(), to, c); err != nil {
		t.Fatal(err)
	}
	if err := w.LeaveLease(t.Context(), s, l); err != nil {
		t.Fatal(err)
	}
	w.wantUsed(1000, LimitPins, 1)
	w.wantUsed(1000, LimitLeases, 1)
	w.wantUsed(1001, LimitPins, 0)
	w.EndSession(s)
	if err := w.CloseContext(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := w.LeaveLease(t.Context(), to, l); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{1000, 1001} {
		w.wantUsed(uid, LimitPins, 0)
		w.wantUsed(uid, LimitLeases, 0)
	}
}

// TestLimitOfSessions: and one that has ended counts no more.
func TestLimitOfSessions(t *testing.T) {
	w := newWorld(t, limited(map[Limit]int64{LimitSessions: 2}))
	one := w.openAs(1000)
	w.openAs(1000)
	_, err := w.OpenSession(SessionInfo{UID: 1000})
	wantExceeded(t, err, syscall.EUSERS, "limit of 2 sessions", "user 1000")
	w.openAs(1001)
	w.EndSession(one)
	w.openAs(1000)
}

// TestLimitsOf: who has which limit.
func TestLimitsOf(t *testing.T) {
	ls := Limits{{Everyone, LimitPins}: 5, {0, LimitLeases}: 6, {1000, LimitPins}: Unlimited}
	for _, c := range []struct {
		uid  uint32
		l    Limit
		want int64
	}{
		{0, LimitPins, Unlimited}, {0, LimitLeases, 6}, {1000, LimitPins, Unlimited}, {1001, LimitPins, 5}, {1001, LimitLeases, 1 << 20},
	} {
		if got := ls.Of(c.uid, c.l); got != c.want {
			t.Errorf("user %d: %d %v, want %d", c.uid, got, c.l, c.want)
		}
	}
}

// BenchmarkAcquireUsers acquires on different files by two sessions of one user at once: accounting must not make them meet.
func BenchmarkAcquireUsers(b *testing.B) {
	a := New(Config{})
	a.Attach(&noStorage{})
	defer a.Close()
	var next sync.Mutex
	file := extent.Ino(0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		s, err := a.OpenSession(SessionInfo{UID: 1000})
		if err != nil {
			b.Fatal(err)
		}
		next.Lock()
		file++
		mine := file
		next.Unlock()
		for pb.Next() {
			l, err := a.Acquire(b.Context(), s, AcquireRequest{File: mine, Range: whole}, nil)
			if err != nil {
				b.Fatal(err)
			}
			if err := a.CloseLease(b.Context(), l.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestLimitOfWaiting: a lease that is waited for counts, and no more when nobody waits for it.
func TestLimitOfWaiting(t *testing.T) {
	w := newWorld(t, limited(map[Limit]int64{LimitLeases: 1}))
	sub := w.Subscribe(100)
	defer sub.Close()
	s := w.openAs(1000)
	w.lease(w.openAs(1001), whole, newHolder())
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := w.Acquire(ctx, s, AcquireRequest{File: 5, Range: whole, Mode: layout.Exclusive}, nil)
		asked <- err
	}()
	for ev := range sub.C {
		if ev.Kind == EventWait {
			break
		}
	}
	_, err := w.tryLease(s, 6)
	wantExceeded(t, err, syscall.ENOLCK, "limit of 1 leases")
	cancel()
	if err := <-asked; !errors.Is(err, syscall.EINTR) {
		t.Errorf("the wait ends with %v", err)
	}
	w.wantUsed(1000, LimitLeases, 0)
	if _, err := w.tryLease(s, 6); err != nil {
		t.Error(err)
	}
}
