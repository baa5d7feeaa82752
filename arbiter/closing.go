package arbiter

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"holdfast/extent"
	"holdfast/layout"
)

// Closer is a thread that closes a descriptor, as the kernel shows it while it waits for the close.
type Closer struct {
	Process int32 // of which it is a thread
	Threads int   // of that process
	// Ending: the descriptor is closed because its process ends or becomes another program. That is never held up.
	Ending bool
}

// AwaitUnpinned holds up a close of the file by a thread of this machine until its process has no pins on the file any more: for
// on_close = block. EINTR when ctx is cancelled. EDEADLK when nobody but the closer could unpin.
//
// It does not wait for whom it cannot look at in time.
func (a *Arbiter) AwaitUnpinned(ctx context.Context, thread int32, file extent.Ino) error {
	sh := a.shardOf(file)
	if !sh.pinned(file) || a.noSessions() {
		return nil
	}
	c, ok := a.closer(thread)
	if !ok || c.Ending {
		return nil
	}
	var told bool
	for {
		ids, helped := a.speakers(c.Process)
		gone := sh.awaitLess(file, ids)
		switch {
		case gone == nil:
			return nil
		case c.Threads == 1 && !helped:
			return fmt.Errorf("close of file %d, on which process %d itself has pins, and no other thread that could end them: %w", file, c.Process, syscall.EDEADLK)
		case !told:
			told = true
			a.recordAlone(sh, rawEvent{kind: EventWait, file: file, session: ids[0], pid: c.Process, reason: "a close waits for the pins of its process to go"})
		}
		select {
		case <-gone:
		case <-ctx.Done():
			sh.forgetWait(file, gone)
			return fmt.Errorf("close of file %d, on which process %d has pins: %w", file, c.Process, syscall.EINTR)
		case <-a.ctx.Done():
			return nil
		}
	}
}

// speakers lists the sessions of a process, and whether others may speak on one of them.
func (a *Arbiter) speakers(process int32) (ids []layout.SessionID, helped bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.byPID[process] {
		ids = append(ids, s.id)
		helped = helped || s.info.Shared || len(s.admitted) > 0
	}
	return ids, helped
}

func (sh *shard) pinned(file extent.Ino) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.m.Pinned(file, nil)
}

// awaitLess returns a channel that is closed when the pins on the file have become less, or nil if none of the sessions has any.
func (sh *shard) awaitLess(file extent.Ino, ids []layout.SessionID) chan struct{} {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(ids) == 0 || !sh.m.Pinned(file, ids) {
		return nil
	}
	ch := make(chan struct{})
	sh.closing[file] = append(sh.closing[file], ch)
	return ch
}

// forgetWait takes back what awaitLess returned.
func (sh *shard) forgetWait(file extent.Ino, ch chan struct{}) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rest := slices.DeleteFunc(sh.closing[file], func(o chan struct{}) bool { return o == ch })
	if len(rest) == 0 {
		delete(sh.closing, file)
	} else {
		sh.closing[file] = rest
	}
}

// pinsLess has the closes look again that wait for pins on the file.
// Preconditions: sh.mu is held.
func (sh *shard) pinsLess(file extent.Ino) {
	for _, ch := range sh.closing[file] {
		close(ch)
	}
	delete(sh.closing, file)
}

// closer looks at a thread in /proc, with the limits of every look there.
func (a *Arbiter) closer(thread int32) (Closer, bool) {
	timer := a.cfg.Clock.NewTimer(closerLimit)
	defer timer.Stop()
	return look(a, timer.C(), func() (Closer, error) { return a.cfg.Closer(thread) })
}

// closerLimit is how long a look at a closer may take, that it is not let go unseen on a busy machine.
const closerLimit = time.Second

// procCloser reads what of /proc takes no lock that execve holds when it closes descriptors; "stat" takes one, and would wait for the
// answer to this very close. Who ends has no memory any more by then, and who becomes another program has new memory without
// a program in it yet: there is no code in either.
func procCloser(thread int32) (c Closer, err error) {
	dir := "/proc/" + strconv.Itoa(int(thread))
	sizes, err := os.ReadFile(dir + "/statm")
	if err != nil {
		return c, err
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return c, err
	}
	const text = 3 // in the order of proc(5)
	fields := bytes.Fields(sizes)
	if len(fields) <= text {
		return c, fmt.Errorf("statm of %d has %d fields: %w", thread, len(fields), syscall.EINVAL)
	}
	c.Ending = string(fields[text]) == "0"
	for line := range bytes.Lines(status) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 32)
		switch {
		case err != nil:
		case string(key) == "Tgid":
			c.Process = int32(n)
		case string(key) == "Threads":
			c.Threads = int(n)
		}
	}
	if c.Process == 0 || c.Threads == 0 {
		return c, fmt.Errorf("status of %d names no process: %w", thread, syscall.EINVAL)
	}
	return c, nil
}
