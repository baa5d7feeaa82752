package server_test

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"holdfast/client"
	"holdfast/internal/testserver"
	"holdfast/server"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

func wantMetric(t *testing.T, body, name string, least float64) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(body)
	if found == nil {
		t.Errorf("no %s in\n%s", name, body)
		return
	}
	if got, err := strconv.ParseFloat(found[1], 64); err != nil || got < least {
		t.Errorf("%s is %s (%v), want %v or more", name, found[1], err, least)
	}
}

func withMetrics(c *server.Config) { c.Metrics = "0" }

// TestMetrics: a running server says what is there; nothing else is served.
func TestMetrics(t *testing.T) {
	s := testserver.Mounted(t, testserver.With(withMetrics))
	writeSynced(t, s.Mount+"/file", randomBytes(1<<20))
	f, err := os.OpenFile(s.Mount+"/file", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	c, err := client.Dial(t.Context(), s.Socket)
	must(t, err)
	defer c.Close()
	lease, err := c.Lease(t.Context(), f, client.Range{End: 1 << 20}, client.Options{Access: client.Write})
	must(t, err)
	_, err = lease.Map(t.Context())
	must(t, err)

	if !strings.HasPrefix(s.Metrics, "127.0.0.1:") {
		t.Errorf("metrics at %s, want the loopback", s.Metrics)
	}
	status, body := get(t, "http://"+s.Metrics+"/metrics")
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	wantMetric(t, body, "holdfast_leases", 1)
	wantMetric(t, body, "holdfast_sessions", 1)
	wantMetric(t, body, "holdfast_window_bytes", 1<<20)
	wantMetric(t, body, "holdfast_commit_seconds_count", 1)
	wantMetric(t, body, "holdfast_cut_seconds_count", 0)
	wantMetric(t, body, `holdfast_breaks_total{outcome="asked"}`, 0)
	if status, _ := get(t, "http://"+s.Metrics+"/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("another path: %d", status)
	}
}

// TestHealthReadOnly: health says ok, until the volume is read-only, and then why.
func TestHealthReadOnly(t *testing.T) {
	s := testserver.Mounted(t, testserver.With(withMetrics))
	if status, body := get(t, "http://"+s.Metrics+"/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("health: %d %q", status, body)
	}
	must(t, os.Truncate(s.Config.Dir+"/device", 1<<20))
	f, err := os.Create(s.Mount + "/file")
	must(t, err)
	defer f.Close()
	_, err = f.Write(randomBytes(1 << 20))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		t.Fatal("a write to a device that has shrunk succeeded")
	}
	if status, body := get(t, "http://"+s.Metrics+"/healthz"); status != http.StatusServiceUnavailable || !strings.HasPrefix(body, "read-only: ") {
		t.Errorf("health: %d %q", status, body)
	}
	_, body := get(t, "http://"+s.Metrics+"/metrics")
	wantMetric(t, body, "holdfast_read_only", 1)
}

// TestMetricsAddressTaken: a port that is another's is an error at start.
func TestMetricsAddressTaken(t *testing.T) {
	s := testserver.Start(t, testserver.With(withMetrics))
	_, err := testserver.TryStart(t, testserver.With(func(c *server.Config) { c.Metrics = s.Metrics }))
	if err == nil || !strings.Contains(err.Error(), "metrics: ") {
		t.Errorf("a second server on the port: %v", err)
	}
}
