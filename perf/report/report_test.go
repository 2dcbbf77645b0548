package report

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() *Report {
	fig := func(path string, limit float64, s ...float64) Figure {
		return Figure{Name: "cpu per packet", Unit: "ns", Better: Lower, Labels: map[string]string{"path": path}, Samples: s, Limit: limit}
	}
	return &Report{
		Schema: Schema, Started: time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC), Command: "sluice perf run cost",
		Machine: Machine{CPU: "a <CPU>", CPUs: 2, Kernel: "6.18"},
		Results: []Result{{
			Scenario: "cost", About: "What a packet costs.", Again: "sluice perf run cost",
			Figures: []Figure{fig("kernel", 700, 600, 610, 620), fig("user", 3000, 4000, 4100)},
			Curves: []Curve{
				{Plot: "cost against flows", Name: "GCM", XName: "flows", YName: "ns", LogX: true, X: []float64{1, 100, 10000}, Y: []float64{600, 700, 1500}},
				{Plot: "cost against flows", Name: "CM", XName: "flows", YName: "ns", LogX: true, X: []float64{1, 100, 10000}, Y: []float64{900, 950, 1700}},
			},
			Absent: []Absent{{"rtpengine", "apt-get install rtpengine-daemon"}},
		}},
	}
}

func TestWriteReadAgain(t *testing.T) {
	dir := t.TempDir()
	want := sample()
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	html, err := os.ReadFile(dir + "/report.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a &lt;CPU&gt;", "not reached", "apt-get install rtpengine-daemon", "<polyline", "interrupted"} {
		if has := strings.Contains(string(html), want); has != (want != "interrupted") {
			t.Errorf("page: %q present is %v", want, has)
		}
	}
	if strings.Contains(string(html), "src=") || strings.Contains(string(html), "http") {
		t.Error("the page loads something")
	}
	if strings.Contains(string(html), "NaN") {
		t.Error("the page shows NaN")
	}
}

func TestReadRefusesOtherSchema(t *testing.T) {
	path := t.TempDir() + "/report.json"
	if err := os.WriteFile(path, []byte(`{"schema": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "schema 99") {
		t.Errorf("got %v", err)
	}
}

func TestCompare(t *testing.T) {
	a, b := sample(), sample()
	b.Results[0].Figures[0].Samples = []float64{800, 810, 805} // +32 %
	b.Results[0].Figures[1].Samples = []float64{4100, 4050}    // within noise
	b.Results[0].Figures = append(b.Results[0].Figures, Figure{Name: "new", Samples: []float64{1}})
	got := map[string]Verdict{}
	for _, c := range Compare(a, b) {
		got[c.Key] = c.Verdict
	}
	want := map[string]Verdict{"cpu per packet path=kernel": Worse, "cpu per packet path=user": Same, "new": OnlyLast}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := Regressions(Compare(a, b)); n != 1 {
		t.Errorf("%d regressions", n)
	}
	if n := Regressions(Compare(b, a)); n != 0 {
		t.Errorf("an improvement counts as %d regressions", n)
	}
}

func TestQuantile(t *testing.T) {
	f := Figure{Samples: []float64{4, 1, 3, 2}}
	if f.Median() != 2.5 || f.Quantile(0) != 1 || f.Quantile(1) != 4 {
		t.Errorf("%v %v %v", f.Median(), f.Quantile(0), f.Quantile(1))
	}
}
