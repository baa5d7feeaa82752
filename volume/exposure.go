package volume

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"holdfast/extent"
	"holdfast/store"
)

// Exposure says that a part of a file lies in memory that somebody outside reaches and
// keeps when the server dies. It is durable before he gets it, so that the next server
// knows of it.
type Exposure struct {
	Segment extent.Segment // of the window
	Lease   uint64         // under which it was handed out
	File    extent.Ino
	Range   extent.Range // of the file, whole blocks
	Window  WindowID
	Holder  []byte // who he is; the volume does not look at it
}

// WindowID is what is known of the memory of a window.
type WindowID struct {
	Off  int64 // in the file, of its first byte
	Size int64
	Dev  uint64 // by which the kernel knows the object
	Ino  uint64
}

// ExposureKey names an exposure.
type ExposureKey struct {
	Segment extent.Segment
	Lease   uint64
	Off     int64
}

// Key returns the name of the exposure.
func (e *Exposure) Key() ExposureKey { return ExposureKey{e.Segment, e.Lease, e.Range.Off} }

func (k ExposureKey) encode() []byte {
	return key(prefixWindow, uint64(k.Segment), k.Lease, uint64(k.Off))
}

const exposureFixed = 6 * 8

// maxHolder bounds Exposure.Holder.
const maxHolder = 32 << 10

func (e *Exposure) encode() []byte {
	b := make([]byte, 0, exposureFixed+len(e.Holder))
	for _, v := range [...]uint64{
		uint64(e.File), uint64(e.Range.End), uint64(e.Window.Off), uint64(e.Window.Size), e.Window.Dev, e.Window.Ino,
	} {
		b = le.AppendUint64(b, v)
	}
	return append(b, e.Holder...)
}

func decodeExposure(k, b []byte) (Exposure, error) {
	n, ok := numbers(k, 3)
	if !ok || len(b) < exposureFixed || len(b) > exposureFixed+maxHolder {
		return Exposure{}, fmt.Errorf("exposure record %x of %d bytes: %w", k, len(b), ErrCorrupt)
	}
	v := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	e := Exposure{
		Segment: extent.Segment(n[0]), Lease: n[1], File: extent.Ino(v(0)), Range: extent.Range{Off: int64(n[2]), End: int64(v(1))},
		Window: WindowID{Off: int64(v(2)), Size: int64(v(3)), Dev: v(4), Ino: v(5)},
		Holder: append([]byte(nil), b[exposureFixed:]...),
	}
	w := extent.Range{Off: e.Window.Off, End: e.Window.Off + e.Window.Size}
	ok = e.Segment > extent.Device && e.Window.Off >= 0 && e.Window.Size > 0 && e.Window.Size <= extent.MaxSize && w.End <= extent.MaxSize &&
		e.Range.Off >= 0 && !e.Range.Empty() && e.Range.RoundOut() == e.Range && w.RoundOut() == w && w.Contains(e.Range)
	if !ok {
		return Exposure{}, fmt.Errorf("exposure of %v in window %d of %v: %w", e.Range, e.Segment, w, ErrCorrupt)
	}
	return e, nil
}

// Expose notes exposures, and that others are over. SyncStore makes that durable: an
// exposure before the memory is handed out, the end of one before its part of the
// memory is taken back while another part of it is still in use.
func (v *Volume) Expose(put []Exposure, end []ExposureKey) error {
	b := v.batch()
	room := func() error {
		if b.Ops() < store.MaxOps && b.b.Bytes() < store.MaxBytes-2*maxHolder {
			return nil
		}
		_, err := v.apply(b)
		b.Reset()
		return err
	}
	for _, k := range end {
		b.Delete(k.encode())
		if err := room(); err != nil {
			return fmt.Errorf("end of exposures: %w", err)
		}
	}
	for i := range put {
		e := &put[i]
		if len(e.Holder) > maxHolder {
			return fmt.Errorf("exposure with a holder of %d bytes: %w", len(e.Holder), syscall.E2BIG)
		}
		b.Put(e.Key().encode(), e.encode())
		if err := room(); err != nil {
			return fmt.Errorf("exposures: %w", err)
		}
	}
	if b.Ops() == 0 {
		return nil
	}
	if _, err := v.apply(b); err != nil {
		return fmt.Errorf("exposures: %w", err)
	}
	return nil
}

// Exposures calls fn for all exposures, by window and lease, until it returns an error. Of
// one whose record is damaged nobody knows whose it was: it is logged.
func (v *Volume) Exposures(fn func(Exposure) error) error {
	return v.st.Reader.Scan([]byte{prefixWindow}, after(prefixWindow), func(k, b []byte) (bool, error) {
		b, err := unseal(k, b)
		var e Exposure
		if err == nil {
			e, err = decodeExposure(k, b)
		}
		if err != nil {
			v.log.Error("an exposure is not known any more: what was in that memory and not committed is lost", "err", err)
			return true, nil
		}
		err = fn(e)
		return err == nil, err
	})
}

// readExposures checks them. That a file is gone is no damage: one without a name is
// deleted at the next open, and its exposures are dropped by who reads them then.
func (c *checker) readExposures() error {
	return c.scan(prefixWindow, func(k, b []byte) error {
		e, err := decodeExposure(k, b)
		if err == nil {
			c.sum.Exposures++
			c.maxSegment = max(c.maxSegment, uint64(e.Segment))
		}
		return err
	})
}

// usedSegment returns the highest number of a segment that any record names.
func (r *repairer) usedSegment() (segment uint64, err error) {
	err = r.scan(prefixWindow, func(k, _ []byte, _ bool) error {
		if n, whole := numbers(k, 3); whole && n[0] < 1<<62 {
			segment = max(segment, n[0])
		}
		return nil
	})
	return segment, err
}

// exposures removes those that make no sense: nobody could give that memory back.
func (r *repairer) exposures() error {
	return r.scan(prefixWindow, func(k, b []byte, ok bool) error {
		if _, err := decodeExposure(k, b); ok && err == nil {
			return nil
		}
		k = append([]byte(nil), k...)
		return r.fix(BadRecord, 0, func(b batcher) { b.Delete(k) }, "removed an exposure that makes no sense: %x", k)
	})
}
