// Package perf measures the gateway against itself and its peers: one file per
// scenario, traffic that is checked packet by packet, and a report that anyone
// can repeat. It runs in network namespaces of one machine.
package perf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluicegw/sluice/perf/report"
)

// Scenario is one thing that is measured.
type Scenario struct {
	Name  string
	About string // one sentence: what is measured and how
	// Run measures and adds to m.Result. It returns soon after ctx ends; what was
	// added by then is kept.
	Run func(ctx context.Context, m *Measurement) error
}

// Measurement is one run of one scenario.
type Measurement struct {
	Options
	Result   *report.Result
	progress func(done float64, what string)
}

// Options of a run.
type Options struct {
	// Short takes fewer repetitions and points, for make perf.
	Short bool
	// Executable is this program, started again inside the namespaces.
	Executable string
}

// Repeats is how often a point is measured.
func (o Options) Repeats() int {
	if o.Short {
		return 3
	}
	return 7
}

// Add keeps a figure.
func (m *Measurement) Add(f report.Figure) { m.Result.Figures = append(m.Result.Figures, f) }

// Progress tells how far the scenario is, from 0 to 1.
func (m *Measurement) Progress(done float64, format string, args ...any) {
	m.progress(done, fmt.Sprintf(format, args...))
}

// Missing notes what this machine lacks for part of the scenario.
func (m *Measurement) Missing(what, remedy string) {
	m.Result.Absent = append(m.Result.Absent, report.Absent{What: what, Remedy: remedy})
}

// Runner runs scenarios one after the other and reports.
type Runner struct {
	Options
	Progress io.Writer // a terminal gets one line that is rewritten; nil is silent
	Command  string    // as typed, for the report
}

// Run measures the named scenarios, all when there is none. It always returns a
// report of what was measured, also when ctx ended early; the error joins those
// of the scenarios.
func (r *Runner) Run(ctx context.Context, names []string) (*report.Report, error) {
	chosen, err := choose(names)
	if err != nil {
		return nil, err
	}
	rep := &report.Report{Schema: report.Schema, Started: time.Now().UTC().Truncate(time.Second), Command: r.Command, Machine: report.ThisMachine()}
	var errs []error
	for i, s := range chosen {
		if ctx.Err() != nil {
			break
		}
		res := report.Result{Scenario: s.Name, About: s.About, Again: "sluice perf run " + s.Name}
		start := time.Now()
		m := &Measurement{Options: r.Options, Result: &res, progress: r.line(s.Name, i, len(chosen), start)}
		if err := s.Run(ctx, m); err != nil && !errors.Is(err, context.Canceled) {
			res.Failed = err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
		}
		res.Took = time.Since(start).Round(time.Millisecond)
		rep.Results = append(rep.Results, res)
	}
	r.clear()
	rep.Cut = ctx.Err() != nil
	return rep, errors.Join(errs...)
}

func choose(names []string) ([]Scenario, error) {
	all := Scenarios()
	if len(names) == 0 {
		return all, nil
	}
	var out []Scenario
	for _, n := range names {
		i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == n })
		if i < 0 {
			var have []string
			for _, s := range all {
				have = append(have, s.Name)
			}
			return nil, fmt.Errorf("no scenario %q: there are %s", n, strings.Join(have, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// line returns a scenario's progress function: position, time left and what is
// being measured, on one line of a terminal, or a line a step elsewhere.
func (r *Runner) line(name string, i, n int, start time.Time) func(float64, string) {
	return func(done float64, what string) {
		if r.Progress == nil {
			return
		}
		left := ""
		if took := time.Since(start); done > 0.02 && took > time.Second {
			left = ", " + time.Duration(float64(took)*(1-done)/done).Round(time.Second).String() + " left"
		}
		text := fmt.Sprintf("%s (%d of %d) %3.0f %%%s: %s", name, i+1, n, 100*done, left, what)
		if terminal(r.Progress) {
			fmt.Fprintf(r.Progress, "\r\033[K%s", text)
			return
		}
		fmt.Fprintln(r.Progress, text)
	}
}

func (r *Runner) clear() {
	if r.Progress != nil && terminal(r.Progress) {
		fmt.Fprint(r.Progress, "\r\033[K")
	}
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
