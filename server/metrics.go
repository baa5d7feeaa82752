package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/arbiter"
)

// stuckCut is how long a cut may last before the server calls itself unhealthy.
const stuckCut = time.Minute

// metricsRun is the HTTP server of metrics and health.
type metricsRun struct {
	addr net.Addr
	http *http.Server
	done chan error
}

// commitTimes is the one metric that is not looked up when somebody asks.
func commitTimes() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "holdfast_commit_seconds", Help: "How long commits of the volume took: fsync, and what makes things durable by itself.",
		Buckets: []float64{0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5},
	})
}

func (s *server) startMetrics(commits prometheus.Histogram) error {
	if s.cfg.Metrics == "" {
		return nil
	}
	l, err := net.Listen("tcp", metricsAddress(s.cfg.Metrics))
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(commits, &collector{s})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", s.healthz)
	m := &metricsRun{addr: l.Addr(), done: make(chan error, 1), http: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
	}}
	s.metrics = m
	go func() { m.done <- m.http.Serve(l) }()
	return nil
}

// metricsAddress completes an address: without a host it is the loopback.
func metricsAddress(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil && !strings.Contains(addr, ":") {
		host, port = "", addr
	} else if err != nil {
		return addr
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (m *metricsRun) stop(ctx context.Context) error {
	err := m.http.Shutdown(ctx)
	if served := <-m.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// healthz says ok, or what is wrong.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	status, text := http.StatusOK, health(s.vol.FailReason(), s.arb.Counts().OldestCut)
	if text != "ok" {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // who asked may have gone
}

func health(failed error, oldestCut time.Duration) string {
	switch {
	case failed != nil:
		return fmt.Sprintf("read-only: %v", failed)
	case oldestCut > stuckCut:
		return fmt.Sprintf("stuck cut: a lease is being cut for %v", oldestCut.Round(time.Second))
	}
	return "ok"
}

// collector looks at the server when somebody asks.
type collector struct{ s *server }

type metric struct {
	name, help string
	label      string
	kind       prometheus.ValueType
}

// metrics are all that collector tells but the histogram.
func metrics() map[string]metric {
	all := map[string]metric{}
	add := func(name, help, label string, kind prometheus.ValueType) {
		all[name] = metric{"holdfast_" + name, help, label, kind}
	}
	add("leases", "Leases.", "", prometheus.GaugeValue)
	add("pins", "Pins.", "", prometheus.GaugeValue)
	add("contexts", "Registered contexts.", "", prometheus.GaugeValue)
	add("sessions", "Sessions that have not ended.", "", prometheus.GaugeValue)
	add("waiting_requests", "Requests and changes that wait for others.", "", prometheus.GaugeValue)
	add("window_bytes", "Memory of all windows.", "", prometheus.GaugeValue)
	add("orphaned_bytes", "Blocks that files have given up and somebody still reaches.", "", prometheus.GaugeValue)
	add("read_only", "1 if the volume has failed and is read-only.", "", prometheus.GaugeValue)
	add("oldest_cut_seconds", "How long the oldest cut has lasted that is not complete, or 0.", "", prometheus.GaugeValue)
	add("breaks_total", "Ranges of holders that were asked, gave back, ran out of time, or were cut.", "outcome", prometheus.CounterValue)
	add("refusals_total", "What was refused, by reason.", "reason", prometheus.CounterValue)
	return all
}

func (m metric) desc() *prometheus.Desc {
	var labels []string
	if m.label != "" {
		labels = []string{m.label}
	}
	return prometheus.NewDesc(m.name, m.help, labels, nil)
}

func cutDesc() *prometheus.Desc {
	return prometheus.NewDesc("holdfast_cut_seconds", "How long cuts took.", nil, nil)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics() {
		ch <- m.desc()
	}
	ch <- cutDesc()
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	all, n := metrics(), c.s.arb.Counts()
	tell := func(name string, v float64, label ...string) {
		ch <- prometheus.MustNewConstMetric(all[name].desc(), all[name].kind, v, label...)
	}
	tell("leases", float64(n.Leases))
	tell("pins", float64(n.Pins))
	tell("contexts", float64(n.Contexts))
	tell("sessions", float64(n.Sessions))
	tell("waiting_requests", float64(n.Waiting))
	tell("window_bytes", float64(c.s.fs.WindowBytes()))
	tell("orphaned_bytes", float64(c.s.orphanedBytes()))
	readOnly := 0.0
	if c.s.vol.FailReason() != nil {
		readOnly = 1
	}
	tell("read_only", readOnly)
	tell("oldest_cut_seconds", n.OldestCut.Seconds())
	tell("breaks_total", float64(n.Asked), "asked")
	tell("breaks_total", float64(n.Returned), "returned")
	tell("breaks_total", float64(n.TimedOut), "timed-out")
	tell("breaks_total", float64(n.Revoked), "revoked")
	for reason, count := range n.Refusals {
		tell("refusals_total", float64(count), reason)
	}
	c.cuts(ch, n)
}

func (c *collector) cuts(ch chan<- prometheus.Metric, n arbiter.Counts) {
	ch <- prometheus.MustNewConstHistogram(cutDesc(), n.Cuts, n.CutSum.Seconds(), n.CutTimes)
}

func (s *server) orphanedBytes() (sum int64) {
	for _, n := range s.fs.OrphanedBytes() {
		sum += n
	}
	return sum
}
