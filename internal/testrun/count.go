package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "fail"
	skipped outcome = "skip"
)

// test names one test of one package; an empty name is the package itself.
type test struct{ pkg, name string }

func (t test) String() string {
	if t.name == "" {
		return t.pkg
	}
	return t.pkg + " " + t.name
}

// count holds the outcome of every test. A test with subtests counts as its
// subtests do, unless it alone failed.
type count struct {
	outcomes map[test]outcome
	output   map[test][]string
	reasons  map[test]string
}

func newCount() *count {
	return &count{outcomes: map[test]outcome{}, output: map[test][]string{}, reasons: map[test]string{}}
}

// event is one line of go test -json (cmd/test2json).
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

func (c *count) set(pkg, name string, o outcome) { c.outcomes[test{pkg, name}] = o }

// read takes the events of one go test run; the output of failed tests and one
// line per package go to w.
func (c *count) read(events io.Reader, w io.Writer) error {
	s := bufio.NewScanner(events)
	s.Buffer(nil, 8<<20)
	for s.Scan() {
		var e event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			fmt.Fprintln(w, s.Text())
			continue
		}
		c.take(e, w)
	}
	return s.Err()
}

func (c *count) take(e event, w io.Writer) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(w, e.Output)
	case "output":
		c.output[t] = append(c.output[t], e.Output)
	case "pass", "fail", "skip":
		o := outcome(e.Action)
		if t.name == "" {
			c.endPackage(t, o, e.Elapsed, w)
			return
		}
		c.outcomes[t] = o
		switch o {
		case failed:
			fmt.Fprint(w, strings.Join(c.output[t], ""))
		case skipped:
			c.reasons[t] = reason(c.output[t])
		}
		delete(c.output, t)
	}
}

// endPackage counts a package that failed without a failing test (it did not
// build, panicked, or ran out of time) as one failure.
func (c *count) endPackage(t test, o outcome, seconds float64, w io.Writer) {
	if o == failed {
		alone := true
		for other, oo := range c.outcomes {
			if other.pkg == t.pkg && oo == failed {
				alone = false
			}
		}
		if alone {
			c.outcomes[t] = failed
			for other, out := range c.output {
				if other.pkg == t.pkg && other.name != "" {
					fmt.Fprint(w, strings.Join(out, ""))
				}
			}
			fmt.Fprint(w, strings.Join(c.output[t], ""))
		}
	}
	delete(c.output, t)
	if o != skipped {
		fmt.Fprintf(w, "%-4s %s (%.1fs)\n", o, t.pkg, seconds)
	}
}

// reason is what a skipped test said, without file and line.
func reason(output []string) string {
	for _, o := range output {
		o = strings.TrimSpace(o)
		if o == "" || strings.HasPrefix(o, "=== ") || strings.HasPrefix(o, "--- ") {
			continue
		}
		if _, said, ok := strings.Cut(o, ": "); ok {
			return said
		}
		return o
	}
	return ""
}

// leaves are the tests that count.
func (c *count) leaves() map[test]outcome {
	hasChild := map[test]bool{}
	hasFailedChild := map[test]bool{}
	for t, o := range c.outcomes {
		for i := strings.LastIndexByte(t.name, '/'); i > 0; i = strings.LastIndexByte(t.name[:i], '/') {
			parent := test{t.pkg, t.name[:i]}
			hasChild[parent] = true
			if o == failed {
				hasFailedChild[parent] = true
			}
		}
	}
	leaves := map[test]outcome{}
	for t, o := range c.outcomes {
		if !hasChild[t] || (o == failed && !hasFailedChild[t]) {
			leaves[t] = o
		}
	}
	return leaves
}

func (c *count) tally() (pass, fail, skip int) {
	for _, o := range c.leaves() {
		switch o {
		case passed:
			pass++
		case failed:
			fail++
		case skipped:
			skip++
		}
	}
	return pass, fail, skip
}

func (c *count) failures() int {
	_, n, _ := c.tally()
	return n
}

// OK tells whether the run may be called green; strict forbids skips too. A run
// that passed nothing is not green.
func (c *count) OK(strict bool) bool {
	pass, fail, skip := c.tally()
	return pass > 0 && fail == 0 && (!strict || skip == 0)
}

func (c *count) String() string {
	pass, fail, skip := c.tally()
	return fmt.Sprintf("%d passed, %d failed, %d skipped", pass, fail, skip)
}

func (c *count) list(want outcome) []string {
	var l []string
	for t, o := range c.leaves() {
		if o == want {
			s := t.String()
			if r := c.reasons[t]; r != "" {
				s += ": " + r
			}
			l = append(l, s)
		}
	}
	slices.Sort(l)
	return l
}

func (c *count) skips() []string  { return c.list(skipped) }
func (c *count) failed() []string { return c.list(failed) }
