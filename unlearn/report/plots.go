package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"l2ul/unlearn"
	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// Plot is one drawing.
type Plot struct {
	Name  string // of its file, without suffix
	Title string
	Alt   string // what it shows, for those who cannot see it

	plot          *plot.Plot
	width, height vg.Length
}

// The colours of series tell them apart for colour-blind eyes too (Okabe and Ito), on white and on black.
var series = []color.NRGBA{
	{0x2b, 0x83, 0xc4, 255}, {0xd5, 0x5e, 0x00, 255}, {0x00, 0x9e, 0x73, 255}, {0xcc, 0x79, 0xa7, 255}, {0xb8, 0x86, 0x0b, 255}, {0x80, 0x80, 0x80, 255},
}

var shapes = []draw.GlyphDrawer{
	draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}, draw.BoxGlyph{}, draw.CrossGlyph{}, draw.PlusGlyph{},
}

// ink is the colour of axes and letters. In HTML it becomes that of the text around.
var ink = color.NRGBA{0x1a, 0x1b, 0x1c, 255}

const inkText = "#1A1B1C"

// A curve longer than this is thinned: no screen shows more.
const maxPoints = 200

// A curve of no more points than this has them marked.
const maxMarked = 20

// maxDrawn is the largest number of a curve: of those beyond, ranges and ticks overflow.
const maxDrawn = 1e100

// Plots draws the trade-off of all rows, and the curves of each.
func (r *Report) Plots() ([]Plot, error) {
	if len(r.Runs) == 0 {
		return nil, nil
	}
	plots := []Plot{r.tradeOff()}
	for i := range r.Table.Rows {
		curves, err := r.curves(i)
		if err != nil {
			return nil, err
		}
		plots = append(plots, curves...)
	}
	return plots, nil
}

// WritePlots writes each plot into a folder, as PNG and as SVG.
func (r *Report) WritePlots(dir string) error {
	plots, err := r.Plots()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range plots {
		for suffix, draw := range map[string]func() ([]byte, error){".png": p.PNG, ".svg": p.SVG} {
			image, err := draw()
			if err != nil {
				return err
			}
			if err := run.WriteFile(filepath.Join(dir, p.Name+suffix), image); err != nil {
				return err
			}
		}
	}
	return nil
}

// inside leaves room for the half of the last tick's label that stands beyond the axis.
func (p Plot) inside(c draw.Canvas) draw.Canvas {
	return draw.Crop(c, 0, -vg.Points(14), 0, -vg.Points(4))
}

// SVG returns the drawing as a file of its own.
func (p Plot) SVG() ([]byte, error) {
	c := vgsvg.New(p.width, p.height)
	p.plot.Draw(p.inside(draw.New(c)))
	var b bytes.Buffer
	_, err := c.WriteTo(&b)
	return b.Bytes(), err
}

// PNG returns the drawing at 144 points an inch on white.
func (p Plot) PNG() ([]byte, error) {
	c := vgimg.NewWith(vgimg.UseWH(p.width, p.height), vgimg.UseDPI(144))
	p.plot.BackgroundColor = color.White
	p.plot.Draw(p.inside(draw.New(c)))
	p.plot.BackgroundColor = color.Transparent
	var b bytes.Buffer
	_, err := vgimg.PngCanvas{Canvas: c}.WriteTo(&b)
	return b.Bytes(), err
}

var (
	styles = regexp.MustCompile(`style="([^"]*)"`)
	sizes  = regexp.MustCompile(`<svg width="[^"]*" height="[^"]*"`)
)

// inline returns the drawing as an element of an HTML page, whose rules forbid style attributes.
func (p Plot) inline() (string, error) {
	data, err := p.SVG()
	if err != nil {
		return "", err
	}
	_, body, _ := strings.Cut(string(data), "<svg") // behind the declaration of XML
	svg := "<svg" + body
	svg = styles.ReplaceAllStringFunc(svg, func(style string) string {
		var b strings.Builder
		for i, rule := range strings.Split(styles.FindStringSubmatch(style)[1], ";") {
			if name, value, ok := strings.Cut(rule, ":"); ok {
				if i > 0 {
					b.WriteByte(' ')
				}
				fmt.Fprintf(&b, `%s="%s"`, strings.TrimSpace(name), strings.TrimSpace(value))
			}
		}
		return b.String()
	})
	svg = sizes.ReplaceAllString(svg, `<svg role="presentation" focusable="false"`)
	return strings.ReplaceAll(svg, inkText, "currentColor"), nil
}

// newPlot makes an empty plot of our looks.
func newPlot(name, title, x, y string, width, height vg.Length) Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = ink, ink
		axis.Width, axis.Tick.Width = vg.Points(0.6), vg.Points(0.6)
		face(&axis.Label.TextStyle, 9)
		face(&axis.Tick.Label, 8)
	}
	face(&p.Legend.TextStyle, 8)
	p.Legend.Top, p.Legend.Padding = true, vg.Points(2)
	p.Legend.ThumbnailWidth = vg.Points(14)
	p.Add(&plotter.Grid{Vertical: hairline(), Horizontal: hairline()})
	return Plot{Name: name, Title: title, plot: p, width: width, height: height}
}

func hairline() draw.LineStyle {
	return draw.LineStyle{Color: color.NRGBA{0x80, 0x80, 0x80, 0x50}, Width: vg.Points(0.4)}
}

func face(s *text.Style, size float64) {
	s.Color, s.Font.Variant, s.Font.Size = ink, "Sans", vg.Points(size)
}

// tradeOff shows for each row what was kept.
func (r *Report) tradeOff() Plot {
	p := newPlot("tradeoff", "What was kept", "D_r accuracy (%)", "D_test accuracy (%)", 420, 280)
	methods := map[string]int{}
	var said []string
	for _, row := range r.Table.Rows {
		if row.Retain.N == 0 || row.Test.N == 0 {
			continue
		}
		i, known := methods[row.Method]
		if !known {
			i = len(methods)
			methods[row.Method] = i
		}
		at := plotter.XYs{{X: row.Retain.Mean, Y: row.Test.Mean}}
		points := &plotter.Scatter{XYs: at, GlyphStyle: draw.GlyphStyle{Color: series[i%len(series)], Radius: vg.Points(3.5), Shape: shapes[i%len(shapes)]}}
		p.plot.Add(points)
		if !known {
			p.plot.Legend.Add(plain(row.Method), points)
		}
		label := &plotter.Labels{XYs: at, Labels: []string{fmt.Sprintf("k=%d", row.K)}, TextStyle: []text.Style{p.plot.Legend.TextStyle}, Offset: vg.Point{X: 5, Y: 3}}
		p.plot.Add(label)
		said = append(said, fmt.Sprintf("%s, k %d: %s %% of D_r and %s %% of D_test", row.Method, row.K, percent(row.Retain.Mean), percent(row.Test.Mean)))
	}
	p.plot.Legend.Left = true
	for _, axis := range []*plot.Axis{&p.plot.X, &p.plot.Y} { // room for the labels and the legend
		room := max(axis.Max-axis.Min, 1)
		axis.Min, axis.Max = axis.Min-0.1*room, axis.Max+0.15*room
	}
	p.Alt = "Accuracy on D_test against accuracy on D_r. " + strings.Join(said, "; ") + "."
	return p
}

// curves are the plots of one row over its seeds.
func (r *Report) curves(i int) ([]Plot, error) {
	row := r.Table.Rows[i]
	if len(row.Runs) == 0 {
		return nil, nil
	}
	hits := "D_f accuracy by step, where it was counted"
	hitsAxis := "D_f accuracy (%)"
	if row.Runs[0].Forget.Goal == string(unlearn.Relabel) {
		hits, hitsAxis = "Images with their new label by step, where they were counted", "with the new label (%)"
	}
	kinds := []struct{ name, title, x, axis, value string }{
		{"forget-loss", "Loss on the images to forget by step", "step", "loss", "forget_loss"},
		{"driver-loss", "Loss on the images that drive the steps", "step", "loss", "driver_loss"},
		{"hits", hits, "step", hitsAxis, "hits"},
		{"test", "Accuracy on test images after each request", "request", "accuracy (%)", "test"},
	}
	var plots []Plot
	metrics := make([][]results.Metric, len(row.Runs))
	for j, run := range row.Runs {
		var err error
		if metrics[j], err = run.Metrics(); err != nil {
			return nil, err
		}
	}
	for _, kind := range kinds {
		p := newPlot(r.slug(i)+"-"+kind.name, kind.title, kind.x, kind.axis, 300, 180)
		var said []string
		for j, run := range row.Runs {
			scale := 1.0
			if kind.value == "hits" {
				scale = 100 / float64(max(run.K(), 1))
			}
			points := curve(metrics[j], kind.value, scale)
			if kind.x == "request" {
				points = requestCurve(run)
			}
			if len(points) == 0 {
				continue
			}
			line := &plotter.Line{XYs: thin(points), LineStyle: draw.LineStyle{Color: series[j%len(series)], Width: vg.Points(1.1)}}
			p.plot.Add(line)
			if len(points) <= maxMarked { // of which one alone has no line
				p.plot.Add(&plotter.Scatter{XYs: points, GlyphStyle: draw.GlyphStyle{Color: line.Color, Radius: vg.Points(1.8), Shape: draw.CircleGlyph{}}})
			}
			p.plot.Legend.Add(fmt.Sprintf("seed %d ", run.Seed()), line)
			first, last := points[0], points[len(points)-1]
			said = append(said, fmt.Sprintf("seed %d: %.4g at %s %.0f, %.4g at %s %.0f", run.Seed(), first.Y, kind.x, first.X, last.Y, kind.x, last.X))
		}
		if len(said) == 0 {
			continue
		}
		p.plot.X.Min, p.plot.X.Max = 0, 1.25*p.plot.X.Max // room for the legend
		if kind.value == "hits" || kind.value == "test" {
			p.plot.Y.Min, p.plot.Y.Max = 0, 100
		}
		p.Alt = kind.title + ". " + strings.Join(said, "; ") + "."
		plots = append(plots, p)
	}
	return append(plots, r.slopes(i)), nil
}

// curve picks one number of the steps.
func curve(metrics []results.Metric, value string, scale float64) (points plotter.XYs) {
	for _, m := range metrics {
		y := m.Values[value]
		if m.Phase == "unlearn" && y != nil && math.Abs(*y) <= maxDrawn && m.Step >= 0 {
			points = append(points, plotter.XY{X: float64(m.Step), Y: *y * scale})
		}
	}
	return points
}

// requestCurve is the accuracy on D_test along a stream, of the network as it was and after each request; nil of other runs.
func requestCurve(r *results.Run) (points plotter.XYs) {
	if r.Stream == nil || r.Forget.Before.Test == nil {
		return nil
	}
	points = plotter.XYs{{X: 0, Y: 100 * r.Forget.Before.Test.Accuracy}}
	for i, e := range r.Stream.Requests {
		if e.After.Test != nil {
			points = append(points, plotter.XY{X: float64(i + 1), Y: 100 * e.After.Test.Accuracy})
		}
	}
	return points
}

// thin keeps the ends of a curve and of each stretch between them the lowest and the highest point. Losses go up and down with
// the slices of a pass: every n-th point would draw waves that are not there.
func thin(points plotter.XYs) plotter.XYs {
	if len(points) <= maxPoints {
		return points
	}
	kept := plotter.XYs{points[0]}
	inner := points[1 : len(points)-1]
	const stretches = maxPoints/2 - 1
	for i := range stretches {
		from, to := i*len(inner)/stretches, (i+1)*len(inner)/stretches
		low, high := from, from
		for j := from; j < to; j++ {
			if inner[j].Y < inner[low].Y {
				low = j
			}
			if inner[j].Y > inner[high].Y {
				high = j
			}
		}
		kept = append(kept, inner[min(low, high)])
		if low != high {
			kept = append(kept, inner[max(low, high)])
		}
	}
	return append(kept, points[len(points)-1])
}

// slopes shows the accuracies before and after.
func (r *Report) slopes(i int) Plot {
	row := r.Table.Rows[i]
	var was Row
	for _, other := range r.Table.Rows {
		if other.Block == row.Block && other.Runs == nil {
			was = other
		}
	}
	p := newPlot(r.slug(i)+"-accuracies", "Accuracies before and after", "", "accuracy (%)", 300, 180)
	var said []string
	for j, s := range []struct {
		name string
		a, b results.Stat
	}{{"D_f", was.Forget, row.Forget}, {"D_r", was.Retain, row.Retain}, {"D_test", was.Test, row.Test}} {
		if s.a.N == 0 || s.b.N == 0 {
			continue
		}
		ends := plotter.XYs{{X: 0, Y: s.a.Mean}, {X: 1, Y: s.b.Mean}}
		line := &plotter.Line{XYs: ends, LineStyle: draw.LineStyle{Color: series[j], Width: vg.Points(1.1)}}
		points := &plotter.Scatter{XYs: ends, GlyphStyle: draw.GlyphStyle{Color: series[j], Radius: vg.Points(3), Shape: shapes[j]}}
		p.plot.Add(line, points)
		p.plot.Legend.Add(s.name+" ", line, points)
		said = append(said, fmt.Sprintf("%s from %s %% to %s %%", s.name, percent(s.a.Mean), percent(s.b.Mean)))
	}
	p.plot.NominalX("before", "after")
	face(&p.plot.X.Tick.Label, 8)
	p.plot.X.Min, p.plot.X.Max, p.plot.Y.Min, p.plot.Y.Max = -0.4, 1.9, 0, 100
	p.Alt = "Accuracies before and after: " + strings.Join(said, "; ") + "."
	return p
}

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

// slug names a row in file names and in links.
func (r *Report) slug(i int) string {
	row := r.Table.Rows[i]
	name := notSlug.ReplaceAllString(strings.ToLower(fmt.Sprintf("k%d-%s", row.K, row.Method)), "-")
	return fmt.Sprintf("%02d-%s", i+1, strings.Trim(name[:min(len(name), 40)], "-"))
}

// plain keeps a text from what drawings cannot show.
func plain(text string) string {
	text = oneLine(text)
	return string([]rune(text)[:min(len([]rune(text)), 40)])
}
