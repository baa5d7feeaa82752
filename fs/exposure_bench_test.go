package fs

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/arbiter"
	"holdfast/device"
	"holdfast/extent"
	"holdfast/layout"
	"holdfast/store"
	"holdfast/volume"
)

// diskRig is a rig whose store is on disk, too: a sync costs what it costs.
func diskRig(b *testing.B) *rig {
	b.Helper()
	r := &rig{t: b, dir: b.TempDir(), size: 1 << 30, ticks: make(chan time.Time), now: time.Unix(1e9, 0)}
	r.opts = Options{Ticks: r.ticks, Now: r.clock}
	var err error
	r.dev, err = device.Create(filepath.Join(r.dir, "device"), r.size)
	r.must(err)
	r.st, err = store.Create(filepath.Join(r.dir, "meta"), store.Options{})
	r.must(err)
	r.must(volume.Create(r.dev, r.st, r.vopts))
	r.start()
	b.Cleanup(r.finish)
	return r
}

// BenchmarkExposed grants a lease, exposes a window durably and gives it back, for some clients with a file each, in turns with
// as many who have the store make nothing durable.
func BenchmarkExposed(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			r := diskRig(b)
			files := make([]extent.Ino, clients)
			holders, plain := make([]*holder, clients), make([]*holder, clients)
			for c := range clients {
				files[c] = r.file(fmt.Sprint("f", c), make([]byte, extent.BlockSize))
				id, err := r.arb.OpenSession(arbiter.SessionInfo{Kind: "bench", PID: int32(c + 1), Start: 1})
				r.must(err)
				holders[c] = &holder{r: r, id: id, events: make(chan arbiter.Event, 64)}
				plain[c] = r.session(0) // of no process, so nothing is recorded
			}
			r.must(r.Sync(ctx))
			b.ResetTimer()
			grant := func(h *holder, file extent.Ino) error {
				l := h.lease(file, rng(0, extent.BlockSize), layout.Read)
				_, err := r.Map(ctx, l, file, rng(0, extent.BlockSize), false)
				h.release(l)
				return err
			}
			granted := perSecond(b, clients, func(c int) error { return grant(holders[c], files[c]) })
			unrecorded := perSecond(b, clients, func(c int) error { return grant(plain[c], files[c]) })
			bare := perSecond(b, clients, func(int) error { return r.st.Sync() })
			b.ReportMetric(granted, "grants/s")
			b.ReportMetric(unrecorded, "unrecorded/s")
			b.ReportMetric(bare, "syncs/s")
		})
	}
}

// perSecond runs fn as often as the benchmark says, spread over clients.
func perSecond(b *testing.B, clients int, fn func(client int) error) float64 {
	begin := b.Elapsed()
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := c; i < b.N; i += clients {
				if err := fn(c); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(b.N) / (b.Elapsed() - begin).Seconds()
}

// BenchmarkRestore starts on a volume with 100,000 exposures of pinned leases, of a thousand files and processes.
func BenchmarkRestore(b *testing.B) {
	const files, of = 1000, 100
	r := diskRig(b)
	var all []volume.Exposure
	for i := range files {
		ino := r.file(fmt.Sprint("f", i), make([]byte, of*extent.BlockSize))
		shard := uint64(ino) % 64
		for k := range of {
			lease := uint64(i*of+k+1)*64 + shard
			p := rng(int64(k)*extent.BlockSize, int64(k+1)*extent.BlockSize)
			who, err := json.Marshal(formerHolder{r.boot, arbiter.Exposed{
				Lease: layout.LeaseID(lease), File: ino, Ranges: []arbiter.Range{arbiter.RangeOf(p)}, Access: layout.Write,
				Session:  arbiter.Process{Session: layout.SessionID(2*i + 1), PID: int32(i + 1), Start: 1, Kind: "local", Name: "bench"},
				Contexts: []arbiter.ContextInfo{{ID: layout.ContextID(2*i + 2), Kind: "io_uring", Name: "anon_inode:[io_uring]"}},
			}})
			r.must(err)
			all = append(all, volume.Exposure{
				Segment: extent.Segment(len(all) + 10), Lease: lease, File: ino, Range: p, Holder: who,
				Window: volume.WindowID{Off: p.Off, Size: p.Len(), Dev: 1, Ino: uint64(len(all) + 1)},
			})
		}
	}
	r.must(r.Sync(ctx))
	r.must(r.vol.Expose(all, nil))
	r.must(r.vol.SyncStore(ctx))
	for b.Loop() {
		b.StopTimer()
		r.FS.stop()
		<-r.FS.stopped
		r.arb.Close()
		r.start()
		b.StartTimer()
		r.must(r.Restore(ctx))
	}
	b.StopTimer()
	if n := len(r.arb.Pins(arbiter.Filter{})); n != files*of {
		b.Errorf("%d pins are there", n)
	}
	for _, p := range r.arb.Unclaimed() {
		r.must(r.arb.Forsake(ctx, p.Session))
	}
	if n := r.exposures(); n != 0 {
		b.Errorf("%d exposures are left", n)
	}
}
