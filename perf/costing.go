package perf

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicegw/sluice/perf/report"
	"github.com/sluicegw/sluice/perf/rig"
	"github.com/sluicegw/sluice/perf/traffic"
)

// costing measures what the gateway adds to a packet: the time on the traffic's
// processor, softirq included, less that of a gateway which drops everything at
// its door, plus the time of the engine's process.
type costing struct {
	bench, empty *rig.Bench
	rounds       int
}

// nanoseconds of one packet.
type nanoseconds struct {
	softirq, process float64
}

func (n nanoseconds) total() float64 { return n.softirq + n.process }

// packetsPerSample is long enough that timer ticks and the tail of a batch do
// not show, and short enough to repeat.
const packetsPerSample = 60_000

func startCost(ctx context.Context, exe string, s rig.Spec) (_ *costing, err error) {
	c := &costing{rounds: max(4, packetsPerSample/s.Calls)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
			c = nil
		}
	}()
	if c.empty, err = rig.StartBaseline(s); err != nil {
		return c, err
	}
	if c.bench, err = rig.Start(ctx, exe, s); err != nil {
		return c, err
	}
	if err = c.bench.Lab.Sink(); err != nil {
		return c, err
	}
	return c, c.bench.Settle(ctx)
}

func (c *costing) close() error {
	var errs []error
	for _, b := range []*rig.Bench{c.bench, c.empty} {
		if b != nil {
			errs = append(errs, b.Close())
		}
	}
	return errors.Join(errs...)
}

// verify sends some packets of every call both ways and adds what was lost; any
// fault fails the point.
func (c *costing) verify(ctx context.Context, m *Measurement) error {
	for name, w := range map[string]*rig.Way{"to phones": c.bench.ToPhones, "to browsers": c.bench.ToBrowsers} {
		const rounds = 4
		tally, _, err := w.Verify(ctx, rounds, max(1000, min(20_000, 50*float64(c.bench.Spec.Calls))))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if want := uint64(rounds * c.bench.Spec.Calls); tally != (traffic.Tally{Good: want, Octets: tally.Octets}) {
			return fmt.Errorf("%s: of %d packets %+v", name, want, tally)
		}
	}
	m.Add(report.Figure{Name: "packets lost, damaged or doubled in the checked run", Unit: "packets", Better: report.Lower,
		Labels: c.bench.Spec.Label(), Samples: []float64{0}})
	return nil
}

// sample floods one way and then the other, at pps each or as fast as it goes,
// beside the same flood of an empty gateway.
func (c *costing) sample(ctx context.Context, pps float64) (nanoseconds, error) {
	var sum nanoseconds
	for i, w := range []*rig.Way{c.bench.ToPhones, c.bench.ToBrowsers} {
		idle := []*rig.Way{c.empty.ToPhones, c.empty.ToBrowsers}[i]
		frames, err := w.Frames(c.rounds)
		if err != nil {
			return sum, err
		}
		blank, err := idle.Frames(c.rounds)
		if err != nil {
			return sum, err
		}
		base, err := idle.Flood(ctx, blank, pps, c.empty.CPU)
		if err != nil {
			return sum, err
		}
		got, err := w.Flood(ctx, frames, pps, c.bench.CPU)
		if err != nil {
			return sum, err
		}
		if got.Received < got.Sent {
			return sum, &lossError{got.Sent, got.Received}
		}
		n := float64(got.Sent)
		sum.softirq += (float64(got.Busy) - float64(base.Busy)) / n / 2
		sum.process += float64(got.Engine) / n / 2
	}
	return sum, ctx.Err()
}

// lossError is a sample in which not every packet came out: the rate was too high.
type lossError struct{ sent, received uint64 }

func (e *lossError) Error() string {
	return fmt.Sprintf("%d of %d packets came out", e.received, e.sent)
}

// peak finds the highest rate one way at which everything comes out, in packets
// a second, within about 5 %: as fast as one processor sends, or the limit found
// by halving. The traffic itself shares the kernel path's processor.
func (c *costing) peak(ctx context.Context) (float64, error) {
	rate, lossless, err := c.try(ctx, 0)
	if err != nil || lossless {
		return rate, err
	}
	low, high := 0.0, rate
	for low == 0 || high/low > 1.05 {
		at := (low + high) / 2
		if low == 0 {
			at = high / 2
		}
		if at < 1000 {
			return 0, fmt.Errorf("packets are lost at %.0f packets/s already", at)
		}
		rate, lossless, err := c.try(ctx, at)
		switch {
		case err != nil:
			return 0, err
		case lossless:
			low = max(rate, low)
			if rate < at*0.95 {
				return rate, nil // the traffic's processor does not send faster
			}
		default:
			high = at
		}
	}
	return low, nil
}

// try floods the way to the phones once.
func (c *costing) try(ctx context.Context, pps float64) (rate float64, lossless bool, err error) {
	w := c.bench.ToPhones
	frames, err := w.Frames(c.rounds)
	if err != nil {
		return 0, false, err
	}
	got, err := w.Flood(ctx, frames, pps, c.bench.CPU)
	if err == nil {
		err = ctx.Err()
	}
	return float64(got.Sent) / got.Took.Seconds(), got.Received >= got.Sent, err
}

// sampleLossless is sample at a rate that a noisy machine may fail now and then.
func (c *costing) sampleLossless(ctx context.Context, pps float64) (n nanoseconds, err error) {
	for range 4 {
		var lost *lossError
		if n, err = c.sample(ctx, pps); !errors.As(err, &lost) {
			return n, err
		}
	}
	return n, fmt.Errorf("at %.0f packets/s, four times over: %w", pps, err)
}
