package perf

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/perf/report"
	"github.com/sluicegw/sluice/perf/rig"
)

// latency: what the gateway adds between the two wires.
func latency() Scenario {
	return Scenario{
		Name: "latency",
		About: "One-way time from before the sender's system call to after the receiver's, with 200 calls at 50 packets a second each, " +
			"by a time stamp in every payload; both ends' own time is in it.",
		Run: func(ctx context.Context, m *Measurement) error {
			paths := []string{rig.PathNative, rig.PathUser}
			if !m.Short {
				paths = []string{rig.PathNative, rig.PathGeneric, rig.PathTC, rig.PathUser}
			}
			var errs []error
			for i, path := range paths {
				m.Progress(float64(i)/float64(len(paths)), "%s", path)
				s := rig.Spec{Path: path, Transform: rig.SRTPtoRTP, Profile: srtp.ProfileAEADAES128GCM, Calls: 200, Payload: 160, Seed: 4}
				if err := latencyOf(ctx, m, s); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", path, err))
				}
			}
			return errors.Join(errs...)
		},
	}
}

var quantiles = []float64{50, 90, 99, 99.9, 99.99}

func latencyOf(ctx context.Context, m *Measurement, s rig.Spec) error {
	b, err := rig.Start(ctx, m.Executable, s)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := errors.Join(b.Lab.Sink(), b.Settle(ctx)); err != nil {
		return err
	}
	rounds := 500 // 10 s
	if m.Short {
		rounds = 150
	}
	tally, checker, err := b.ToPhones.Verify(ctx, rounds, 50*float64(s.Calls))
	if err != nil {
		return err
	}
	if tally.Good == 0 {
		return fmt.Errorf("nothing came out: %+v", tally)
	}
	h := checker.Latency()
	curve := report.Curve{Plot: "latency", Name: s.Path, XName: "per cent of packets at or below", YName: "microseconds"}
	for _, q := range quantiles {
		us := float64(h.ValueAtQuantile(q)) / 1000
		f := report.Figure{Name: fmt.Sprintf("one-way time, p%g", q), Unit: "us", Better: report.Lower, Labels: s.Label(), Samples: []float64{us}}
		if q == 99 && s.Path == rig.PathNative {
			f.Limit = 100
		}
		m.Add(f)
		if q <= 99 {
			curve.X, curve.Y = append(curve.X, q), append(curve.Y, us)
		}
	}
	m.Result.Curves = append(m.Result.Curves, curve)
	m.Add(report.Figure{Name: "packets lost in the checked run", Unit: "packets", Better: report.Lower, Labels: s.Label(),
		Samples: []float64{float64(uint64(rounds*s.Calls) - tally.Good)}})
	return nil
}
