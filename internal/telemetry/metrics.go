// Package telemetry counts what calls did, for Prometheus. What it knows of a
// call it is told when the call has ended: nothing here is on a call's path.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sallyport"
	"sallyport/internal/gateway"
)

// Now is what is counted at the moment somebody asks.
type Now struct {
	// Records is the number of records in the log; Halts of halts in force; InFlight
	// of calls under way; Breakers of circuit breakers that are not closed.
	Records  func() float64
	Breakers func() float64
	Halts    func() float64
	InFlight func() float64
}

// Metrics implements [gateway.Observer]. Its labels come from what people have
// configured, never from what an agent sends.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	refusals *prometheus.CounterVec
	took     *prometheus.HistogramVec
	upstream *prometheus.HistogramVec
}

// New makes metrics. version is that of the program.
func New(version string, now Now) *Metrics {
	// From 1 ms to 30 s, the default deadline, each about twice the one before.
	buckets := []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_calls_total", Help: "Calls that ended, by stage, agent, upstream, kind and outcome (ok, error, refused, unknown).",
		}, []string{"stage", "agent", "upstream", "kind", "outcome"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_refusals_total", Help: "Refused calls by stage and code.",
		}, []string{"stage", "code"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_call_seconds", Help: "From the arrival of a call to its reply, by stage and upstream.", Buckets: buckets,
		}, []string{"stage", "upstream"}),
		upstream: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_upstream_seconds", Help: "What the upstream took of it.", Buckets: buckets,
		}, []string{"stage", "upstream"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	m.registry.MustRegister(m.calls, m.refusals, m.took, m.upstream, build,
		gauge("sallyport_records", "Records in the audit log.", now.Records),
		gauge("sallyport_halts", "Halts in force.", now.Halts),
		gauge("sallyport_breakers_open", "Circuit breakers that are open or half-open.", now.Breakers),
		gauge("sallyport_calls_in_flight", "Calls under way.", now.InFlight),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Ended implements [gateway.Observer].
func (m *Metrics) Ended(x *gateway.Exchange, r gateway.Reply, took time.Duration) {
	stage, upstream := "", ""
	if x.Stage != 0 {
		stage = x.Stage.String()
	}
	if x.Upstream != nil {
		upstream = string(x.Upstream.ID)
	}
	if x.Outcome == 0 { // no record was made: it proved no identity, or nothing was asked of anybody
		m.calls.WithLabelValues(stage, "", upstream, x.Kind.String(), sallyport.OutcomeRefused.String()).Inc()
	} else {
		m.calls.WithLabelValues(stage, string(x.Principal.Agent), upstream, x.Kind.String(), x.Outcome.String()).Inc()
	}
	if r.Refusal != nil {
		m.refusals.WithLabelValues(stage, string(r.Refusal.Code)).Inc()
	}
	if upstream != "" {
		m.took.WithLabelValues(stage, upstream).Observe(took.Seconds())
		if x.UpstreamTime > 0 {
			m.upstream.WithLabelValues(stage, upstream).Observe(x.UpstreamTime.Seconds())
		}
	}
}

// Handler serves the metrics in the formats Prometheus asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
