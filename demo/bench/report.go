package main

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// quartiles returns the median and what lies around it.
func quartiles(values []float64) (lower, median, upper float64) {
	sorted := slices.Sorted(slices.Values(values))
	at := func(q float64) float64 {
		position := q * float64(len(sorted)-1)
		i := int(position)
		if i+1 == len(sorted) {
			return sorted[i]
		}
		return sorted[i] + (position-float64(i))*(sorted[i+1]-sorted[i])
	}
	return at(0.25), at(0.5), at(0.75)
}

// interval returns the 95 % confidence interval of the median, from the order of the values alone.
func interval(values []float64) (low, high float64) {
	sorted := slices.Sorted(slices.Values(values))
	n := float64(len(sorted))
	rank := max(0, int(n/2-0.98*math.Sqrt(n)))
	return sorted[rank], sorted[len(sorted)-1-rank]
}

// ratios compares round by round, so that what slowed a round down cancels out.
func ratios(r, to *route) []float64 {
	all := []float64{}
	for i := range r.cpu {
		all = append(all, r.cpu[i]/to.cpu[i])
	}
	return all
}

func table(out io.Writer, g group) {
	fmt.Fprintf(out, "\n%-30s %9s %18s %8s %18s\n", g.title, "µs", "quartiles", "ratio", "95 % of the ratio")
	for _, r := range g.routes {
		lower, median, upper := quartiles(r.cpu)
		relative := ratios(r, g.routes[0])
		_, ratio, _ := quartiles(relative)
		low, high := interval(relative)
		fmt.Fprintf(out, "%-30s %9.1f %9.1f – %6.1f %8.3f %9.3f – %6.3f\n", r.name, median, lower, upper, ratio, low, high)
	}
}

func startupTable(out io.Writer, startups []*startup) {
	fmt.Fprintf(out, "\n%-30s %9s %18s %8s\n", "starting Traefik", "ms", "quartiles", "MB")
	for _, u := range startups {
		lower, median, upper := quartiles(u.seconds)
		_, memory, _ := quartiles(u.memory)
		fmt.Fprintf(out, "%-30s %9.0f %9.0f – %6.0f %8.1f\n", u.name, 1e3*median, 1e3*lower, 1e3*upper, memory)
	}
}

// draw writes the groups below each other into an SVG file.
func draw(groups []group, file string) error {
	plot.DefaultFont.Variant = "Sans" // what browsers take instead is as wide
	canvas := vgsvg.New(18*vg.Centimeter, 13*vg.Centimeter)
	rows := [][]*plot.Plot{}
	for _, g := range groups {
		p, err := bars(g)
		if err != nil {
			return err
		}
		rows = append(rows, []*plot.Plot{p})
	}
	tiles := vgdraw.Tiles{Rows: len(rows), Cols: 1, PadY: vg.Centimeter / 2}
	for i, row := range plot.Align(rows, tiles, vgdraw.New(canvas)) {
		rows[i][0].Draw(row[0])
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(out); err != nil {
		return err
	}
	return out.Close()
}

// bars draws a group, with the quartiles as whiskers.
func bars(g group) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = g.title
	p.X.Label.Text = "CPU, µs a request"
	p.X.Min = 0
	values, names := plotter.Values{}, []string{}
	spread := errorBars{}
	for i := range g.routes {
		r := g.routes[len(g.routes)-1-i] // the first on top
		lower, median, upper := quartiles(r.cpu)
		values = append(values, median)
		spread.XYs = append(spread.XYs, plotter.XY{X: median, Y: float64(i)})
		spread.XErrors = append(spread.XErrors, struct{ Low, High float64 }{lower - median, upper - median})
		names = append(names, fmt.Sprintf("%s  %.1f\u2003", r.name, median))
	}
	chart, err := plotter.NewBarChart(values, vg.Points(16))
	if err != nil {
		return nil, err
	}
	chart.Horizontal = true
	chart.Color = color.RGBA{R: 0x37, G: 0x96, B: 0xbf, A: 0xff}
	chart.LineStyle.Width = 0
	whiskers, err := plotter.NewXErrorBars(spread)
	if err != nil {
		return nil, err
	}
	p.Add(chart, whiskers)
	p.NominalY(names...)
	return p, nil
}

type errorBars struct {
	plotter.XYs
	plotter.XErrors
}
