package server

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMetricsAddress(t *testing.T) {
	for in, want := range map[string]string{
		"9420": "127.0.0.1:9420", ":9420": "127.0.0.1:9420", "10.0.0.1:9420": "10.0.0.1:9420", "[::1]:0": "[::1]:0", "0.0.0.0:1": "0.0.0.0:1",
		"::1": "::1", // refused by the listener
	} {
		if got := metricsAddress(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestHealth(t *testing.T) {
	for _, c := range []struct {
		failed error
		cut    time.Duration
		want   string
	}{
		{nil, 0, "ok"},
		{nil, stuckCut, "ok"},
		{nil, stuckCut + time.Second, "stuck cut: a lease is being cut for 1m1s"},
		{errors.New("write: i/o error"), time.Hour, "read-only: write: i/o error"},
	} {
		if got := health(c.failed, c.cut); got != c.want {
			t.Errorf("%v %v: %q, want %q", c.failed, c.cut, got, c.want)
		}
	}
}

// TestMetricsDocumented: the table in the documentation names the metrics that there are.
func TestMetricsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(holdfast_[a-z_]+)` ").FindAllStringSubmatch(string(text), -1) {
		documented[row[1]] = true
	}
	names := []string{"holdfast_cut_seconds", "holdfast_commit_seconds"}
	for _, m := range metrics() {
		names = append(names, m.name)
	}
	if !strings.Contains(cutDesc().String(), names[0]) || !strings.Contains(commitTimes().Desc().String(), names[1]) {
		t.Error("the histograms are called otherwise")
	}
	for _, name := range names {
		if !documented[name] {
			t.Errorf("%s is not in the table", name)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("%s is in the table and nowhere else", name)
	}
}
