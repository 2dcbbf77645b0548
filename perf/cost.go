package perf

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/perf/report"
	"github.com/sluicegw/sluice/perf/rig"
)

// cost: processor time of a packet at part of the load a path can take.
func cost() Scenario {
	return Scenario{
		Name: "cost",
		About: "Processor time of a packet at 10, 50 and 90 % of the path's highest lossless rate: softirq by the idle time it takes away, " +
			"less that of an empty gateway, plus all threads of the daemon with its keystream filler.",
		Run: func(ctx context.Context, m *Measurement) error {
			paths := []string{rig.PathNative, rig.PathGeneric, rig.PathTC, rig.PathUser}
			if m.Short {
				paths = []string{rig.PathNative, rig.PathUser}
			}
			profiles := []srtp.Profile{srtp.ProfileAEADAES128GCM, srtp.ProfileAES128CMHMACSHA1_80}
			var errs []error
			for i, path := range paths {
				for j, p := range profiles {
					m.Progress((float64(i)+float64(j)/2)/float64(len(paths)), "%s, %s", path, p)
					s := rig.Spec{Path: path, Transform: rig.SRTPtoRTP, Profile: p, Calls: 500, Payload: 160, Seed: 2}
					if err := costAgainstLoad(ctx, m, s); err != nil {
						errs = append(errs, fmt.Errorf("%s, %s: %w", path, p, err))
					}
				}
			}
			return errors.Join(errs...)
		},
	}
}

func costAgainstLoad(ctx context.Context, m *Measurement, s rig.Spec) error {
	c, err := startCost(ctx, m.Executable, s)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.verify(ctx, m); err != nil {
		return err
	}
	peak, err := c.peak(ctx)
	if err != nil {
		return err
	}
	curve := report.Curve{Plot: "cost against load", Name: s.Path + ", " + s.Profile.String(), XName: "load, % of the highest lossless rate", YName: "ns per packet"}
	for _, load := range []int{10, 50, 90} {
		all := report.Figure{Name: "cost of a packet", Unit: "ns", Better: report.Lower, Labels: s.Label()}
		daemon := report.Figure{Name: "of it daemon and filler", Unit: "ns", Better: report.Lower, Labels: s.Label()}
		for _, f := range []*report.Figure{&all, &daemon} {
			f.Labels["load"] = fmt.Sprintf("%d %%", load)
		}
		for range m.Repeats() {
			ns, err := c.sampleLossless(ctx, peak*float64(load)/100)
			if err != nil {
				return err
			}
			all.Samples = append(all.Samples, ns.total())
			daemon.Samples = append(daemon.Samples, ns.process)
		}
		curve.X, curve.Y = append(curve.X, float64(load)), append(curve.Y, all.Median())
		m.Add(all)
		m.Add(daemon)
	}
	m.Result.Curves = append(m.Result.Curves, curve)
	return nil
}
