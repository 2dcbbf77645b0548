package report

import "fmt"

// Verdict of one compared figure.
type Verdict string

const (
	Same      Verdict = "same" // within the noise of both
	Improved  Verdict = "better"
	Worse     Verdict = "worse"
	OnlyFirst Verdict = "only in the first"
	OnlyLast  Verdict = "only in the second"
)

// Change is one figure of two reports.
type Change struct {
	Scenario, Key string
	First, Second *Figure
	Ratio         float64 // second by first, of medians; 0 when one is missing
	Noise         float64 // relative; a change below it means nothing
	Verdict       Verdict
}

// noiseFloor is the least relative change that counts: medians of one run repeat
// within about 5 % on a shared machine.
const noiseFloor = 0.05

// Compare sets two reports side by side. A figure is worse only when it changed
// by more than the sum of both spreads and the floor.
func Compare(first, second *Report) []Change {
	type key struct{ scenario, key string }
	seen := map[key]*Figure{}
	for i := range second.Results {
		for j := range second.Results[i].Figures {
			f := &second.Results[i].Figures[j]
			seen[key{second.Results[i].Scenario, f.Key()}] = f
		}
	}
	var out []Change
	for i := range first.Results {
		for j := range first.Results[i].Figures {
			a := &first.Results[i].Figures[j]
			k := key{first.Results[i].Scenario, a.Key()}
			c := Change{Scenario: k.scenario, Key: k.key, First: a, Second: seen[k], Verdict: OnlyFirst}
			if b := seen[k]; b != nil {
				c.judge(a, b)
				delete(seen, k)
			}
			out = append(out, c)
		}
	}
	for i := range second.Results {
		for j := range second.Results[i].Figures {
			b := &second.Results[i].Figures[j]
			k := key{second.Results[i].Scenario, b.Key()}
			if seen[k] == b {
				out = append(out, Change{Scenario: k.scenario, Key: k.key, Second: b, Verdict: OnlyLast})
			}
		}
	}
	return out
}

func (c *Change) judge(a, b *Figure) {
	c.Noise = noiseFloor + a.Spread() + b.Spread()
	c.Verdict = Same
	if a.Median() == 0 {
		if b.Median() != 0 && a.Better != Plain {
			c.Verdict = map[bool]Verdict{true: Worse, false: Improved}[(b.Median() > 0) == (a.Better == Lower)]
		}
		return
	}
	c.Ratio = b.Median() / a.Median()
	grew := c.Ratio > 1+c.Noise
	shrank := c.Ratio < 1-c.Noise
	switch {
	case a.Better == Plain || !grew && !shrank:
	case grew == (a.Better == Higher):
		c.Verdict = Improved
	default:
		c.Verdict = Worse
	}
}

// Regressions counts what got worse.
func Regressions(cs []Change) (n int) {
	for _, c := range cs {
		if c.Verdict == Worse {
			n++
		}
	}
	return n
}

// String is the change on one line.
func (c Change) String() string {
	switch {
	case c.First == nil:
		return fmt.Sprintf("%-8s %s: %s", c.Scenario, c.Key, c.Verdict)
	case c.Second == nil:
		return fmt.Sprintf("%-8s %s: %s", c.Scenario, c.Key, c.Verdict)
	}
	return fmt.Sprintf("%-8s %s: %s -> %s %s, x%.2f (noise %.0f %%): %s", c.Scenario, c.Key,
		Number(c.First.Median()), Number(c.Second.Median()), c.First.Unit, c.Ratio, 100*c.Noise, c.Verdict)
}
