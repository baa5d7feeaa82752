package local

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/arbiter"
	"holdfast/internal/fdscan"
	"holdfast/layout"
	"holdfast/wire"
)

// A Process is one that has copies of handles, or of the descriptors that contexts stand
// for, by the word of the kernel. That with the number 0 stands for elsewhere: copies
// that are under way between processes, or where this server may not look.
type Process struct {
	PID         int32  `json:"pid"`
	Program     string `json:"program,omitempty"`
	Descriptors []Copy `json:"descriptors"`
}

// A Copy is one descriptor of a process.
type Copy struct {
	FD      int              `json:"fd"` // -1 elsewhere
	Handle  bool             `json:"handle"`
	Context layout.ContextID `json:"context,omitempty"`
	Lease   layout.LeaseID   `json:"lease,omitempty"`
	Name    string           `json:"name"`
	Files   []string         `json:"files"` // that are held by it
}

// thing is what copies are looked for of.
type thing struct {
	Copy
	ring *ring // of an io_uring; all have the same name
	seen bool
}

// ring is where copies of an io_uring were when it was registered: all rings have the
// same name, and no copy is kept here that others could be compared with.
type ring struct {
	pid int32
	fds []int
}

// ringOf finds the copies of the ring in its process.
func ringOf(pid int32, fd int) *ring {
	r := &ring{pid, []int{fd}}
	for _, f := range fdscan.ScanProcess(pid, func(name string) bool { return name == ringName }) {
		if f.FD != fd && fdscan.Same(pid, fd, pid, f.FD) {
			r.fds = append(r.fds, f.FD)
		}
	}
	return r
}

// is reports whether the descriptor is a copy of the ring.
func (r *ring) is(f fdscan.Found) bool {
	return slices.ContainsFunc(r.fds, func(fd int) bool {
		return f.PID == r.pid && f.FD == fd || fdscan.Same(r.pid, fd, f.PID, f.FD)
	})
}

// scanTime bounds a look through all of /proc.
const scanTime = 5 * time.Second

// holders lists who has copies, by process.
func (r *request) holders() ([]Process, error) {
	things := r.things()
	ctx, cancel := context.WithTimeout(r.ctx, scanTime)
	defer cancel()
	names := make(map[string]bool, len(things))
	for name := range things {
		names[name] = true
	}
	found, err := r.srv.scan(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("who has copies is not known: %w", err)
	}
	byPID := map[int32][]Copy{}
	for _, f := range found {
		for _, t := range things[f.Name] {
			if t.ring != nil && !t.ring.is(f) {
				continue
			}
			t.seen = true
			if c := t.Copy; r.maySee(f.PID) {
				c.FD = f.FD
				byPID[f.PID] = append(byPID[f.PID], c)
			}
		}
	}
	for _, ts := range things {
		for _, t := range ts {
			if !t.seen {
				byPID[0] = append(byPID[0], t.Copy)
			}
		}
	}
	list := []Process{}
	for pid, copies := range byPID {
		slices.SortFunc(copies, func(a, b Copy) int {
			return cmp.Or(cmp.Compare(a.FD, b.FD), cmp.Compare(a.Context, b.Context), cmp.Compare(a.Lease, b.Lease), cmp.Compare(a.Name, b.Name))
		})
		list = append(list, Process{pid, programOf(pid), copies})
	}
	slices.SortFunc(list, func(a, b Process) int { // elsewhere comes last
		return cmp.Or(cmp.Compare(min(b.PID, 1), min(a.PID, 1)), cmp.Compare(a.PID, b.PID))
	})
	return list, nil
}

// scan looks through /proc, one caller at a time. One that hangs, because a process in
// execve waits for the filesystem, ends with that.
func (s *Server) scan(ctx context.Context, names map[string]bool) ([]fdscan.Found, error) {
	select {
	case s.scanning <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var found []fdscan.Found
	var err error
	done := make(chan struct{})
	s.wg.Go(func() {
		defer func() { <-s.scanning }()
		defer close(done)
		found, err = fdscan.Scan(ctx, func(name string) bool { return names[name] })
	})
	select {
	case <-done:
		return found, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// things lists handles and what contexts stand for, by what /proc calls their copies.
func (r *request) things() map[string][]*thing {
	peers, err := fdscan.Peers()
	if err != nil {
		r.srv.cfg.Log.Warn("copies of handles are not found", "err", err)
	}
	files := map[layout.ContextID][]string{}
	for _, p := range r.srv.cfg.Arbiter.Pins(arbiter.Filter{}) {
		path := r.shownPath(p.Session, p.Path, uint64(p.File))
		if !slices.Contains(files[p.Context], path) {
			files[p.Context] = append(files[p.Context], path)
		}
	}
	things := map[string][]*thing{}
	handles := r.srv.attachedHandles()
	add := func(name string, t *thing) {
		if t.Files == nil {
			t.Files = []string{}
		}
		things[name] = append(things[name], t)
	}
	for _, c := range r.srv.cfg.Arbiter.Contexts(arbiter.Filter{}) {
		t := Copy{FD: -1, Context: c.ID, Name: c.Name, Files: files[c.ID]}
		for _, h := range handles[object{wire.ObjectContext, uint64(c.ID)}] {
			copied := t
			copied.Handle, copied.Name = true, fmt.Sprintf("handle of context %d (%s)", c.ID, c.Name)
			add(h.clientName(peers), &thing{Copy: copied})
			if name, real := realName(c); real {
				add(name, &thing{Copy: t, ring: h.ring})
			}
		}
	}
	for _, l := range r.srv.cfg.Arbiter.Leases(arbiter.Filter{}) {
		path := []string{r.shownPath(l.Session, l.Path, uint64(l.File))}
		for _, h := range handles[object{wire.ObjectLease, uint64(l.ID)}] {
			add(h.clientName(peers), &thing{Copy: Copy{
				FD: -1, Handle: true, Lease: l.ID, Name: fmt.Sprintf("handle of lease %d", l.ID), Files: path,
			}})
		}
	}
	return things
}

// realName returns what /proc calls the descriptor that the context stands for.
func realName(c arbiter.ContextInfo) (string, bool) {
	if c.Kind == contextNames[wire.ContextMemory] {
		return "", false
	}
	name, _, _ := strings.Cut(c.Name, " ") // a socket's has its family, too
	return name, true
}

func (r *request) shownPath(s layout.SessionID, path string, ino uint64) string {
	if path = r.path(s, path); path == "" {
		return fmt.Sprintf("inode %d", ino)
	}
	return path
}

// attachedHandles returns all that clients may have copies of.
func (s *Server) attachedHandles() map[object][]*handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[object][]*handle, len(s.objects))
	for key, h := range s.objects {
		all[key] = []*handle{h}
		if g := h.groupOf(); g != nil {
			all[key] = g.all()
		}
	}
	return all
}

// clientName is what /proc calls the client's end of a handle; "" if that is not known.
func (h *handle) clientName(peers map[uint64]uint64) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var st unix.Stat_t
	if h.ended || h.fd < 0 || unix.Fstat(h.fd, &st) != nil || peers[st.Ino] == 0 {
		return ""
	}
	return fdscan.Socket(peers[st.Ino])
}

// maySee reports whether the caller may know what a process has.
func (r *request) maySee(pid int32) bool {
	if r.caller.admin {
		return true
	}
	st, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Uid == r.caller.uid
}
