package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"
)

//go:embed report.html.tmpl
var pageSource string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"number":  Number,
	"labels":  labels,
	"charts":  charts,
	"bars":    groups,
	"percent": func(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) },
	"short":   func(d time.Duration) string { return d.Round(time.Second / 10).String() },
	"when":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
}).Parse(pageSource))

// HTML is the report as one page that loads nothing.
func (r *Report) HTML() ([]byte, error) {
	var b bytes.Buffer
	if err := page.Execute(&b, r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// labels names a figure by its labels alone, for a bar or a row.
func labels(f *Figure) string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(f.Labels)) {
		switch k {
		case "flows", "payload", "load":
			s = append(s, k+" "+f.Labels[k])
		default:
			s = append(s, f.Labels[k])
		}
	}
	if len(s) == 0 {
		return f.Name
	}
	return strings.Join(s, ", ")
}

type chart struct {
	Title string
	SVG   template.HTML
}

// charts draws each plot of a result's curves once.
func charts(r Result) (out []chart) {
	var order []string
	by := map[string][]Curve{}
	for _, c := range r.Curves {
		if len(c.X) == 0 || len(c.X) != len(c.Y) {
			continue
		}
		if by[c.Plot] == nil {
			order = append(order, c.Plot)
		}
		by[c.Plot] = append(by[c.Plot], c)
	}
	for _, p := range order {
		out = append(out, chart{p, template.HTML(lines(by[p]))}) // #nosec G203 -- lines escapes every text
	}
	return out
}

// groups draws figures that share a name side by side.
func groups(r Result) (out []chart) {
	var order []string
	by := map[string][]Figure{}
	for _, f := range r.Figures {
		if len(f.Samples) == 0 {
			continue
		}
		title := f.Name + ", " + f.Unit
		if by[title] == nil {
			order = append(order, title)
		}
		by[title] = append(by[title], f)
	}
	for _, t := range order {
		if len(by[t]) > 1 {
			out = append(out, chart{t, template.HTML(bars(by[t]))}) // #nosec G203 -- bars escapes every text
		}
	}
	return out
}
