// Package report keeps what a perf run measured: figures with their spread, the
// machine they were taken on, and how to take them again. It writes JSON and one
// self-contained HTML page, and compares two reports.
package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Better says which way a figure improves.
type Better string

const (
	Lower  Better = "lower"
	Higher Better = "higher"
	Plain  Better = "" // neither, e.g. a generator's ceiling
)

// Figure is one measured quantity, as repeated samples of one run.
type Figure struct {
	Name   string            `json:"name"` // e.g. "cpu per packet"
	Unit   string            `json:"unit"` // e.g. "ns", "packets/s", "ratio"
	Better Better            `json:"better,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // path, transform, profile, flows, payload, load
	// Samples in the order taken; at least one.
	Samples []float64 `json:"samples"`
	// Limit is what the figure is to reach, 0 when none is set.
	Limit float64 `json:"limit,omitempty"`
	Note  string  `json:"note,omitempty"`
}

// Median of the samples; NaN without any.
func (f *Figure) Median() float64 { return f.Quantile(0.5) }

// Quantile interpolates between the sorted samples; q in [0,1].
func (f *Figure) Quantile(q float64) float64 {
	if len(f.Samples) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(f.Samples))
	p := q * float64(len(s)-1)
	i := int(p)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (p-float64(i))*(s[i+1]-s[i])
}

// Spread is half of the range between the quartiles, relative to the median: the
// noise that a comparison has to exceed.
func (f *Figure) Spread() float64 {
	m := f.Median()
	if m == 0 || math.IsNaN(m) {
		return 0
	}
	return math.Abs((f.Quantile(0.75) - f.Quantile(0.25)) / (2 * m))
}

// Reached tells whether the median keeps the limit; true without one.
func (f *Figure) Reached() bool {
	switch {
	case f.Limit == 0 || f.Better == Plain:
		return true
	case f.Better == Lower:
		return f.Median() <= f.Limit
	}
	return f.Median() >= f.Limit
}

// Key names the figure within its scenario: the same figure of two reports has
// the same key.
func (f *Figure) Key() string {
	var b strings.Builder
	b.WriteString(f.Name)
	for _, k := range slices.Sorted(maps.Keys(f.Labels)) {
		fmt.Fprintf(&b, " %s=%s", k, f.Labels[k])
	}
	return b.String()
}

// String is the figure for people: median, spread and unit.
func (f *Figure) String() string {
	s := Number(f.Median()) + " " + f.Unit
	if len(f.Samples) > 1 {
		s += fmt.Sprintf(" (%s to %s, n=%d)", Number(f.Quantile(0)), Number(f.Quantile(1)), len(f.Samples))
	}
	return s
}

// Number writes v with three significant digits and grouped thousands.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 1e4:
		return group(int64(math.Round(v)))
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func group(n int64) string {
	if n < 0 {
		return "-" + group(-n)
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
