package fuse

import (
	"sync"
	"sync/atomic"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"holdfast/fs"
)

const (
	// defaultMaxFiles is how many files the kernel may know before it is asked to
	// forget some. Each takes about 850 bytes of this process.
	defaultMaxFiles = 1 << 20
	// pruneBatch is how many files one notification names.
	pruneBatch = 512
)

// pruner asks the kernel to forget files when it knows too many. What is in use it
// keeps, and a kernel before Linux 6.18 does not listen at all: there, the memory of
// the machine is the bound, as the kernel forgets by itself when it runs short.
type pruner struct {
	fs     *fs.FS
	limit  int64
	notify func(nodes []uint64) gofuse.Status
	above  atomic.Int64  // how many files it takes to begin
	wake   chan struct{} // capacity 1
	stop   chan struct{}
	idle   sync.WaitGroup
}

func newPruner(f *fs.FS, limit int64) *pruner {
	if limit == 0 {
		limit = defaultMaxFiles
	}
	p := &pruner{fs: f, limit: limit, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	p.above.Store(limit)
	return p
}

// met is called after each lookup that the kernel is told of.
func (p *pruner) met() {
	known := p.fs.Known()
	switch above := p.above.Load(); {
	case known > above:
		select {
		case p.wake <- struct{}{}:
		default:
		}
	case above > p.limit && known <= p.limit:
		p.above.Store(p.limit)
	}
}

func (p *pruner) start(notify func([]uint64) gofuse.Status) {
	p.notify = notify
	p.idle.Go(func() {
		for {
			select {
			case <-p.stop:
				return
			case <-p.wake:
				p.prune()
			}
		}
	})
}

// prune asks for an eighth less than the limit. The kernel answers by and by, with what
// it forgets, so that the next time is when there are an eighth more than now.
func (p *pruner) prune() {
	known := p.fs.Known()
	p.above.Store(max(known, p.limit) + p.limit/8)
	if known <= p.limit {
		return
	}
	nodes := p.fs.Idle(int(known - p.limit + p.limit/8))
	for len(nodes) > 0 {
		some := nodes[:min(pruneBatch, len(nodes))]
		if !p.notify(some).Ok() {
			return
		}
		nodes = nodes[len(some):]
	}
}

// close ends the goroutine. The mount must be gone, as for the invalidator.
func (p *pruner) close() {
	close(p.stop)
	p.idle.Wait()
}
