package perf

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/perf/report"
	"github.com/sluicegw/sluice/perf/rig"
)

// scale: what many flows do to the cost of a packet.
func scale() Scenario {
	return Scenario{
		Name: "scale",
		About: "Cost of a packet with 2 to 20,000 flows that take turns, so that with many each finds its keys and state cold; " +
			"and the share of packets that found their keystream ready.",
		Run: func(ctx context.Context, m *Measurement) error {
			calls := []int{1, 10, 100, 1000, 5000, 10_000}
			if m.Short {
				calls = []int{1, 100, 5000}
			}
			limits := map[srtp.Profile]float64{srtp.ProfileAEADAES128GCM: 3, srtp.ProfileAES128CMHMACSHA1_80: 2}
			var errs []error
			done := 0
			for p, limit := range limits {
				curve := report.Curve{Plot: "cost against flows", Name: p.String(), XName: "flows", YName: "ns per packet", LogX: true}
				var one, many report.Figure
				for _, n := range calls {
					m.Progress(float64(done)/float64(2*len(calls)), "%s, %d flows", p, 2*n)
					done++
					s := rig.Spec{Path: rig.PathNative, Transform: rig.SRTPtoRTP, Profile: p, Calls: n, Payload: 160, Seed: 3}
					f, err := costOf(ctx, m, s)
					if err != nil {
						errs = append(errs, fmt.Errorf("%d flows, %s: %w", 2*n, p, err))
						continue
					}
					curve.X, curve.Y = append(curve.X, float64(2*n)), append(curve.Y, f.Median())
					switch n {
					case 1:
						one = f
					case 5000:
						many = f
					}
				}
				m.Result.Curves = append(m.Result.Curves, curve)
				if len(one.Samples) > 0 && len(many.Samples) > 0 {
					m.Add(report.Figure{Name: "10,000 flows by 2 flows", Unit: "ratio", Better: report.Lower, Limit: limit,
						Labels: map[string]string{"profile": p.String()}, Samples: []float64{many.Median() / one.Median()}})
				}
			}
			return errors.Join(errs...)
		},
	}
}

// costOf measures one point at 50 packets a second and flow, or as fast as the
// processor sends with many.
func costOf(ctx context.Context, m *Measurement, s rig.Spec) (report.Figure, error) {
	f := report.Figure{Name: "cost of a packet", Unit: "ns", Better: report.Lower, Labels: s.Label()}
	c, err := startCost(ctx, m.Executable, s)
	if err != nil {
		return f, err
	}
	defer c.close()
	before, err := c.bench.Stats()
	if err != nil {
		return f, err
	}
	peak, err := c.peak(ctx)
	if err != nil {
		return f, err
	}
	for range m.Repeats() {
		ns, err := c.sampleLossless(ctx, 0.9*peak)
		if err != nil {
			return f, err
		}
		f.Samples = append(f.Samples, ns.total())
	}
	after, err := c.bench.Stats()
	if err != nil {
		return f, err
	}
	m.Add(f)
	if all := after.Hits + after.Misses - before.Hits - before.Misses; all > 0 {
		m.Add(report.Figure{Name: "keystream found ready", Unit: "%", Better: report.Higher, Labels: s.Label(),
			Samples: []float64{100 * float64(after.Hits-before.Hits) / float64(all)}})
	}
	return f, nil
}
