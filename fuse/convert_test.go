package fuse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"syscall"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

func TestTimes(t *testing.T) {
	for _, ns := range []int64{0, 1, -1, 999_999_999, -999_999_999, 1e9, -1e9, 1_700_000_000_123_456_789, math.MaxInt64 - 1e9, math.MinInt64 + 1e9} {
		sec, nsec := splitTime(ns)
		if nsec >= 1e9 {
			t.Errorf("%d ns: %d nanoseconds in a second", ns, nsec)
		}
		if got := joinTime(sec, nsec); got != ns {
			t.Errorf("%d ns became %d", ns, got)
		}
	}
	for _, c := range []struct {
		sec  int64
		nsec uint32
		want int64
	}{
		{math.MaxInt64, 0, math.MaxInt64}, {math.MinInt64, 999_999_999, math.MinInt64}, {1, math.MaxUint32, 1_999_999_999},
	} {
		if got := joinTime(uint64(c.sec), c.nsec); got != c.want {
			t.Errorf("%d s, %d ns became %d, want %d", c.sec, c.nsec, got, c.want)
		}
	}
}

func TestErrno(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	for _, c := range []struct {
		err  error
		want gofuse.Status
	}{
		{nil, gofuse.OK},
		{io.EOF, gofuse.OK},
		{syscall.ETXTBSY, gofuse.Status(syscall.ETXTBSY)},
		{fmt.Errorf("deep: %w", fmt.Errorf("deeper: %w", syscall.EDEADLK)), gofuse.Status(syscall.EDEADLK)},
		{errors.Join(errors.New("x"), syscall.ENOSPC), gofuse.Status(syscall.ENOSPC)},
		{context.Canceled, gofuse.EINTR},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), gofuse.EAGAIN},
		{syscall.ENOSYS, gofuse.ENOTSUP}, // ENOSYS would turn the operation off for good
	} {
		if got := errno(log, c.err); got != c.want {
			t.Errorf("%v became %v, want %v", c.err, got, c.want)
		}
	}
	if logged.Len() > 0 {
		t.Errorf("logged: %s", &logged)
	}
	if got := errno(log, errors.New("mystery")); got != gofuse.EIO || !strings.Contains(logged.String(), "mystery") {
		t.Errorf("an error without a number became %v, logged %q", got, &logged)
	}
}

func TestRequestContext(t *testing.T) {
	cancel := make(chan struct{})
	var ctx context.Context = requestContext(cancel)
	child, stop := context.WithCancel(ctx)
	defer stop()
	if ctx.Err() != nil || child.Err() != nil {
		t.Fatal("cancelled from the start")
	}
	close(cancel)
	<-child.Done()
	if !errors.Is(ctx.Err(), context.Canceled) || !errors.Is(child.Err(), context.Canceled) {
		t.Errorf("after the interrupt: %v, %v", ctx.Err(), child.Err())
	}
	if n := testing.AllocsPerRun(100, func() { use(requestContext(cancel)) }); n != 0 {
		t.Errorf("a context costs %v allocations, want none", n)
	}
}

//go:noinline
func use(ctx context.Context) error { return ctx.Err() }
