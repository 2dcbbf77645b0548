package perf

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/perf/report"
	"github.com/sluicegw/sluice/perf/rig"
)

// forward: how many packets a second one processor forwards on each path.
func forward() Scenario {
	return Scenario{
		Name: "forward",
		About: "Packets per second that one processor forwards, per path, transform and profile: the reciprocal of the whole cost of a packet " +
			"(softirq, daemon and keystream filler), after a checked run of the same calls in which nothing may be lost.",
		Run: func(ctx context.Context, m *Measurement) error {
			specs := forwardSpecs(m.Short)
			var errs []error
			for i, s := range specs {
				m.Progress(float64(i)/float64(len(specs)), "%s, %s, %s", s.Path, s.Transform, s.Profile)
				if err := forwardOne(ctx, m, s); err != nil {
					errs = append(errs, fmt.Errorf("%s, %s, %s: %w", s.Path, s.Transform, s.Profile, err))
				}
				if ctx.Err() != nil {
					break
				}
			}
			return errors.Join(errs...)
		},
	}
}

func forwardSpecs(short bool) (out []rig.Spec) {
	paths := []string{rig.PathNative, rig.PathGeneric, rig.PathTC, rig.PathUser}
	if short {
		paths = []string{rig.PathNative, rig.PathUser}
	}
	for _, path := range paths {
		base := rig.Spec{Path: path, Calls: 500, Payload: 160, Seed: 1}
		for _, p := range []srtp.Profile{srtp.ProfileAEADAES128GCM, srtp.ProfileAES128CMHMACSHA1_80} {
			s := base
			s.Transform, s.Profile = rig.SRTPtoRTP, p
			out = append(out, s)
			if !short {
				s.Transform = rig.SRTPtoSRTP
				out = append(out, s)
			}
		}
		base.Transform = rig.RTPtoRTP
		out = append(out, base)
	}
	return out
}

func forwardOne(ctx context.Context, m *Measurement, s rig.Spec) error {
	c, err := startCost(ctx, m.Executable, s)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.verify(ctx, m); err != nil {
		return err
	}
	peak := report.Figure{Name: "highest lossless rate, traffic on the same processor", Unit: "packets/s", Better: report.Higher, Labels: s.Label()}
	rate := report.Figure{Name: "packets per second and core", Unit: "packets/s", Better: report.Higher, Labels: s.Label(),
		Note: "1 / cost at 90 % of the highest lossless rate"}
	pps, err := c.peak(ctx)
	if err != nil {
		return err
	}
	peak.Samples = []float64{pps}
	for range m.Repeats() {
		ns, err := c.sampleLossless(ctx, 0.9*pps)
		if err != nil {
			return err
		}
		rate.Samples = append(rate.Samples, 1e9/ns.total())
	}
	m.Add(peak)
	m.Add(rate)
	return nil
}
