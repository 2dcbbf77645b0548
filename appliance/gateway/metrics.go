package gateway

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/dataplane"
)

// metrics are the gateway's figures. No label holds what a caller chooses, so
// their number is bounded.
type metrics struct {
	registry *prometheus.Registry
	ended    *prometheus.CounterVec
	setup    *prometheus.HistogramVec
	length   prometheus.Histogram
	jitter   prometheus.Histogram
	loss     prometheus.Histogram
}

func newMetrics(g *Gateway, version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_calls_ended_total", Help: "Calls that are over, by direction, cause and class of SIP status.",
		}, []string{"direction", "cause", "class"}),
		setup: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_call_setup_seconds", Help: "Time from the INVITE to a stage of the call.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180},
		}, []string{"stage"}),
		length: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_call_seconds", Help: "Time from answer to end of calls that were answered.",
			Buckets: []float64{1, 10, 30, 60, 180, 600, 1800, 3600, 4 * 3600},
		}),
		jitter: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_line_jitter_seconds", Help: "Interarrival jitter (RFC 3550) of received audio at the end of each call.",
			Buckets: []float64{.001, .0025, .005, .01, .02, .04, .08, .16},
		}),
		loss: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_line_loss_ratio", Help: "Share of received media that was lost on its way here, at the end of each call.",
			Buckets: []float64{0, .001, .0025, .005, .01, .02, .05, .1, .25},
		}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_build_info", Help: "1, with the version of the binary.",
	}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.ended, m.setup, m.length, m.jitter, m.loss, build, live{g},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// timed are the stages whose time from the INVITE is kept.
var timed = map[call.Stage]bool{
	call.StageRouted: true, call.StageRinging: true, call.StageEarly: true,
	call.StageAnswered: true, call.StageConnected: true, call.StageMedia: true,
}

// observe is the calls' Observer.
func (m *metrics) observe(e call.Event) {
	if timed[e.Stage] {
		m.setup.WithLabelValues(string(e.Stage)).Observe(e.Time.Sub(e.Call.Started).Seconds())
	}
	if e.Stage != call.StageEnded {
		return
	}
	m.ended.WithLabelValues(direction(e.Call), string(e.Call.Ending.Cause), class(e.Call.Ending.Code)).Inc()
	if e.Call.Answered.IsZero() {
		return
	}
	m.length.Observe(e.Call.Duration().Seconds())
	for _, leg := range e.Call.Legs {
		for _, l := range leg.Lines {
			m.quality(l)
		}
	}
}

func (m *metrics) quality(l call.LineInfo) {
	r := l.Stats.Received
	if r.Packets == 0 {
		return
	}
	if expected := float64(r.Packets) + float64(r.Lost); expected > 0 {
		m.loss.Observe(max(0, float64(r.Lost)/expected))
	}
	if l.Kind == dataplane.Audio && l.Stats.Codec != "" {
		m.jitter.Observe(float64(r.Jitter) / float64(clockRate(l.Stats.Codec)))
	}
}

// clockRate of the RTP timestamp, in Hz (RFC 3551 6, RFC 7587 4.1).
func clockRate(codec string) int {
	if codec == "opus" {
		return 48000
	}
	return 8000
}

func class(code int) string {
	if code < 100 || code > 699 {
		return "none"
	}
	return strconv.Itoa(code/100) + "xx"
}

// direction is "caller-callee" where each is browser, phone or trunk.
func direction(c call.Info) string {
	if len(c.Legs) == 0 {
		return "none"
	}
	from, to := kind(c.Legs[0].Party), "none"
	for _, l := range c.Legs[1:] {
		if to == "none" || l.State == "connected" || l.State == "answered" {
			to = kind(l.Party)
		}
	}
	return from + "-" + to
}

func kind(p call.Party) string {
	switch {
	case p.Trunk != "":
		return "trunk"
	case p.WebRTC:
		return "browser"
	}
	return "phone"
}

// live reads what is going on when it is asked.
type live struct{ g *Gateway }

var (
	callsDesc   = prometheus.NewDesc("sluice_calls", "Calls under way, by direction and stage.", []string{"direction", "stage"}, nil)
	regsDesc    = prometheus.NewDesc("sluice_registrations", "Bindings of registered users.", nil, nil)
	flowsDesc   = prometheus.NewDesc("sluice_flows", "Media streams under way, by path and the reason for not being in the kernel.", []string{"path", "reason"}, nil)
	packetsDesc = prometheus.NewDesc("sluice_media_packets_total", "Media packets forwarded, by path.", []string{"path"}, nil)
	octetsDesc  = prometheus.NewDesc("sluice_media_octets_total", "RTP payload forwarded, by path.", []string{"path"}, nil)
	verdictDesc = prometheus.NewDesc("sluice_kernel_verdicts_total", "What the kernel programs did with each packet they saw.", []string{"program", "verdict"}, nil)
	eventDesc   = prometheus.NewDesc("sluice_kernel_events_total", "What else the kernel programs noticed, as keystream found or missing.", []string{"program", "event"}, nil)
	readyDesc   = prometheus.NewDesc("sluice_ready", "1 while new calls are taken.", nil, nil)
)

// Describe implements prometheus.Collector.
func (live) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{callsDesc, regsDesc, flowsDesc, packetsDesc, octetsDesc, verdictDesc, eventDesc, readyDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (l live) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	calls := map[[2]string]int{}
	for _, c := range l.g.calls.Calls() {
		calls[[2]string{direction(c), string(c.Stage)}]++
	}
	for k, n := range calls {
		gauge(callsDesc, float64(n), k[0], k[1])
	}
	flows := map[[2]string]int{}
	for _, f := range l.g.plane.Snapshot() {
		flows[[2]string{f.Path, string(f.Why)}]++
	}
	for k, n := range flows {
		gauge(flowsDesc, float64(n), k[0], k[1])
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, t := range l.g.plane.Totals() {
		counter(packetsDesc, t.Packets, t.Path)
		counter(octetsDesc, t.Octets, t.Path)
	}
	l.g.engine.counters(func(kind, program, name string, n uint64) {
		counter(map[string]*prometheus.Desc{"verdict": verdictDesc, "event": eventDesc}[kind], n, program, name)
	})
	gauge(regsDesc, float64(l.g.locations.Len()))
	ready := 0.0
	if l.g.ready.Load() {
		ready = 1
	}
	gauge(readyDesc, ready)
}
