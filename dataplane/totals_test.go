package dataplane

import (
	"slices"
	"testing"
)

func TestTotalsOnlyGrow(t *testing.T) {
	p := &Plane{transports: map[*Transport]struct{}{}}
	p.totals.user(160)
	p.totals.user(160)
	p.totals.forwarder("kernel:tc", Counters{Packets: 10, Octets: 1600})
	want := []PathTotal{{"kernel:tc", 10, 1600}, {"user", 2, 320}}
	if got := p.Totals(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// A flow on its way between the two sums is missing for a moment.
	p.totals.gone = nil
	if got := p.Totals(); !slices.Equal(got, want) {
		t.Errorf("the figures fell: %v after %v", got, want)
	}
	p.totals.forwarder("kernel:tc", Counters{Packets: 11, Octets: 1760})
	want[0] = PathTotal{"kernel:tc", 11, 1760}
	if got := p.Totals(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
