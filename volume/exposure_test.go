package volume

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"holdfast/extent"
)

func exposure(seg extent.Segment, lease uint64, off int64) Exposure {
	return Exposure{
		Segment: seg, Lease: lease, File: extent.RootIno + 1, Range: extent.Range{Off: off, End: off + extent.BlockSize},
		Window: WindowID{Off: 0, Size: off + extent.BlockSize, Dev: 1, Ino: uint64(seg) + 100}, Holder: []byte(fmt.Sprint("holder ", lease)),
	}
}

func (r *rig) exposures() (all []Exposure) {
	r.t.Helper()
	if err := r.v.Exposures(func(e Exposure) error { all = append(all, e); return nil }); err != nil {
		r.t.Fatal(err)
	}
	return all
}

// Exposures are there after a restart, and their ends; check and repair take them for what they are.
func TestExposures(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	seg, err := r.v.NewSegment()
	if err != nil {
		t.Fatal(err)
	}
	var put []Exposure
	for i := range 200 { // more than one batch
		put = append(put, exposure(seg, uint64(1+i/2), int64(i)*extent.BlockSize))
	}
	if err := r.v.Expose(put, nil); err != nil {
		t.Fatal(err)
	}
	var end []ExposureKey
	for i := range put[100:] {
		end = append(end, put[100+i].Key())
	}
	if err := r.v.Expose(nil, end); err != nil {
		t.Fatal(err)
	}
	if err := r.v.SyncStore(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.powerCut()
	if got := r.exposures(); !reflect.DeepEqual(got, put[:100]) {
		t.Errorf("after a restart there are %d exposures, want the first 100 as they were", len(got))
	}
	sum := r.check()
	if sum.Exposures != 100 {
		t.Errorf("check counts %d exposures", sum.Exposures)
	}
}

// An exposure whose record is damaged keeps nobody from being served; repair removes it.
func TestExposureDamaged(t *testing.T) {
	r := newRig(t, dataStart+4*mib)
	seg, err := r.v.NewSegment()
	if err != nil {
		t.Fatal(err)
	}
	good, bad := exposure(seg, 1, 0), exposure(seg, 2, 0)
	if err := r.v.Expose([]Exposure{good, bad}, nil); err != nil {
		t.Fatal(err)
	}
	r.putRaw(bad.Key().encode(), []byte("what is this"))
	if got := r.exposures(); len(got) != 1 || got[0].Lease != 1 {
		t.Errorf("exposures are %+v", got)
	}
	if fixed := r.repair(); len(fixed) != 1 || fixed[0].Kind != BadRecord {
		t.Errorf("repaired: %v", fixed)
	}
}

// A record that any bytes make is refused, or is one that makes the same bytes again.
func FuzzExposure(f *testing.F) {
	e := exposure(7, 1, 4096)
	f.Add(e.Key().encode(), e.encode())
	f.Fuzz(func(t *testing.T, k, b []byte) {
		e, err := decodeExposure(k, b)
		if err == nil && (string(e.encode()) != string(b) || string(e.Key().encode())[1:] != string(k)[1:]) {
			t.Errorf("%x %x is not what it was made of", k, b)
		}
	})
}

// BenchmarkExpose is a durable exposure, beside a batch of one record and a sync of the store: as many clients at once.
func BenchmarkExpose(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			v := onDisk(b, 1<<30)
			run := func(fn func(i int) error) float64 {
				before := b.Elapsed()
				var wg sync.WaitGroup
				errs := make([]error, clients)
				for c := range clients {
					wg.Go(func() {
						for i := c; i < b.N && errs[c] == nil; i += clients {
							errs[c] = fn(i)
						}
					})
				}
				wg.Wait()
				for _, err := range errs {
					if err != nil {
						b.Fatal(err)
					}
				}
				return float64(b.N) / (b.Elapsed() - before).Seconds()
			}
			bare := run(func(i int) error {
				raw := v.batch()
				raw.Put(key(prefixWindow, 1<<40, uint64(i), 0), make([]byte, 200))
				if _, err := v.apply(raw); err != nil {
					return err
				}
				return v.st.Sync()
			})
			got := run(func(i int) error {
				if err := v.Expose([]Exposure{exposure(2, uint64(i), 0)}, nil); err != nil {
					return err
				}
				return v.SyncStore(context.Background())
			})
			b.ReportMetric(got, "exposures/s")
			b.ReportMetric(bare, "group-commits/s")
		})
	}
}
