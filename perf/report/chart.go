package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Charts are written as SVG by hand: they take their colours from the page (light
// and dark) and keep font files out of the appliance's one binary.

const (
	chartW, chartH              = 720.0, 300.0
	left, right, top, bottom    = 76.0, 30.0, 14.0, 56.0
	barHeight, barGap, barLabel = 22.0, 8.0, 260.0
)

// lines draws the curves of one plot.
func lines(curves []Curve) string {
	var b strings.Builder
	x := axis{log: curves[0].LogX, lo: math.Inf(1), hi: math.Inf(-1), from: left, to: chartW - right}
	y := axis{lo: 0, hi: math.Inf(-1), from: chartH - bottom, to: top}
	for _, c := range curves {
		for i := range c.X {
			x.include(c.X[i])
			y.include(c.Y[i])
		}
	}
	height := chartH + 18*float64((len(curves)+1)/2)
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, chartW, height, html.EscapeString(curves[0].Plot))
	for _, v := range y.ticks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text class="tick end" x="%g" y="%.1f">%s</text>`,
			left, chartW-right, y.at(v), y.at(v), left-8, y.at(v)+4, Number(v))
	}
	for _, v := range x.ticks() {
		fmt.Fprintf(&b, `<text class="tick mid" x="%.1f" y="%g">%s</text>`, x.at(v), chartH-bottom+18, Number(v))
	}
	fmt.Fprintf(&b, `<text class="name mid" x="%g" y="%g">%s</text>`, (left+chartW-right)/2, chartH-bottom+38, html.EscapeString(curves[0].XName))
	fmt.Fprintf(&b, `<text class="name mid" transform="translate(14 %g) rotate(-90)">%s</text>`, (top+chartH-bottom)/2, html.EscapeString(curves[0].YName))
	for n, c := range curves {
		var p strings.Builder
		for i := range c.X {
			fmt.Fprintf(&p, "%.1f,%.1f ", x.at(c.X[i]), y.at(c.Y[i]))
		}
		fmt.Fprintf(&b, `<polyline class="s%d" points="%s"/>`, n%6, p.String())
		for i := range c.X {
			fmt.Fprintf(&b, `<circle class="s%d" cx="%.1f" cy="%.1f" r="3"><title>%s: %s, %s</title></circle>`,
				n%6, x.at(c.X[i]), y.at(c.Y[i]), html.EscapeString(c.Name), Number(c.X[i]), Number(c.Y[i]))
		}
		kx, ky := left+float64(n%2)*320, chartH+18*float64(n/2)-4
		fmt.Fprintf(&b, `<rect class="s%d" x="%g" y="%g" width="12" height="4"/><text class="tick" x="%g" y="%g">%s</text>`,
			n%6, kx, ky, kx+18, ky+6, html.EscapeString(c.Name))
	}
	b.WriteString(`</svg>`)
	return b.String()
}

// bars draws figures of one unit side by side, with whiskers from the least to
// the greatest sample and a mark at the limit.
func bars(fs []Figure) string {
	hi := 0.0
	for i := range fs {
		hi = max(hi, fs[i].Quantile(1), fs[i].Limit)
	}
	if hi == 0 {
		hi = 1
	}
	scale := (chartW - barLabel - 110) / hi
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, chartW, float64(len(fs))*(barHeight+barGap)+4, html.EscapeString(fs[0].Name))
	for i := range fs {
		f, y := &fs[i], float64(i)*(barHeight+barGap)+2
		w := max(1, f.Median()*scale)
		fmt.Fprintf(&b, `<text class="tick end" x="%g" y="%.1f">%s</text>`, barLabel-8, y+15, html.EscapeString(labels(f)))
		class := "s0"
		if !f.Reached() {
			class = "s1"
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%g" y="%.1f" width="%.1f" height="%g"/>`, class, barLabel, y, w, barHeight)
		lo, top := barLabel+f.Quantile(0)*scale, barLabel+f.Quantile(1)*scale
		fmt.Fprintf(&b, `<line class="whisker" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, lo, top, y+barHeight/2, y+barHeight/2)
		if f.Limit > 0 {
			fmt.Fprintf(&b, `<line class="limit" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"><title>to reach: %s</title></line>`,
				barLabel+f.Limit*scale, barLabel+f.Limit*scale, y-3, y+barHeight+3, Number(f.Limit))
		}
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f">%s</text>`, max(top, barLabel+w)+8, y+15, Number(f.Median()))
	}
	b.WriteString(`</svg>`)
	return b.String()
}

// axis maps values to pixels.
type axis struct {
	log      bool
	lo, hi   float64
	from, to float64
}

func (a *axis) include(v float64) { a.lo, a.hi = min(a.lo, v), max(a.hi, v) }

func (a *axis) at(v float64) float64 {
	lo, hi := a.lo, a.hi
	if a.log {
		lo, hi, v = math.Log10(max(lo, 1e-9)), math.Log10(max(hi, 1e-9)), math.Log10(max(v, 1e-9))
	}
	if hi == lo {
		return (a.from + a.to) / 2
	}
	return a.from + (v-lo)/(hi-lo)*(a.to-a.from)
}

// ticks returns about five round values inside the axis.
func (a *axis) ticks() (out []float64) {
	if a.log {
		for v := math.Pow(10, math.Floor(math.Log10(max(a.lo, 1e-9)))); v <= a.hi*1.001; v *= 10 {
			if v >= a.lo*0.999 {
				out = append(out, v)
			}
		}
		return out
	}
	span := a.hi - a.lo
	if span <= 0 || math.IsInf(span, 0) {
		return []float64{a.hi}
	}
	step := math.Pow(10, math.Floor(math.Log10(span/5)))
	for _, m := range []float64{1, 2, 5, 10} {
		if span/(step*m) <= 6 {
			step *= m
			break
		}
	}
	for v := math.Ceil(a.lo/step) * step; v <= a.hi+step/1e6; v += step {
		out = append(out, v)
	}
	return out
}
