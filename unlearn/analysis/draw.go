package analysis

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The looks of pictures.
const (
	dpi       = 144
	titleSize = vg.Length(12)
	labelSize = vg.Length(10)
	smallSize = vg.Length(8)
	lineWidth = vg.Length(1.8)
	panelSize = vg.Length(330) // of one of two maps beside each other
)

// dashes are those of what was before, or is beside.
var dashes = []vg.Length{5, 3}

// okabeIto are colours for a few series, told apart with every kind of colour blindness (Okabe and Ito 2008).
var okabeIto = []color.NRGBA{
	{0x00, 0x72, 0xB2, 255}, {0xD5, 0x5E, 0x00, 255}, {0x00, 0x9E, 0x73, 255}, {0xCC, 0x79, 0xA7, 255},
}

// tol are colours for classes, from Paul Tol's palette of twelve for colour-blind readers. Classes beyond them share grey.
var tol = []color.NRGBA{
	{0x33, 0x22, 0x88, 255},
	{0xDD, 0xCC, 0x77, 255},
	{0x11, 0x77, 0x33, 255},
	{0xCC, 0x66, 0x77, 255},
	{0x88, 0xCC, 0xEE, 255},
	{0x88, 0x22, 0x55, 255},
	{0x44, 0xAA, 0x99, 255},
	{0x66, 0x11, 0x00, 255},
	{0x99, 0x99, 0x33, 255},
	{0xAA, 0x44, 0x99, 255},
	{0x66, 0x99, 0xCC, 255},
	{0xAA, 0x44, 0x66, 255},
}

var (
	grey  = color.NRGBA{0xBB, 0xBB, 0xBB, 255}
	faint = color.NRGBA{0xDD, 0xDD, 0xDD, 255}
	dark  = color.NRGBA{0x33, 0x33, 0x33, 255}
)

// picture paints once for each format.
func picture(title string, width, height vg.Length, paint func(draw.Canvas)) (Picture, error) {
	p := Picture{Title: title}
	var out bytes.Buffer
	pixels := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi))}
	paint(draw.New(pixels))
	if _, err := pixels.WriteTo(&out); err != nil {
		return p, fmt.Errorf("drawing %s: %w", title, err)
	}
	p.PNG = bytes.Clone(out.Bytes())
	out.Reset()
	vectors := vgsvg.New(width, height)
	paint(draw.New(vectors))
	if _, err := vectors.WriteTo(&out); err != nil {
		return p, fmt.Errorf("drawing %s: %w", title, err)
	}
	p.SVG = out.Bytes()
	return p, nil
}

// sans is the face of all texts.
func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

func style(size vg.Length, x text.XAlignment, y text.YAlignment) text.Style {
	return text.Style{Color: color.Black, Font: sans(size), XAlign: x, YAlign: y, Handler: plot.DefaultTextHandler}
}

// newPlot is a plot in our looks.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font, p.Title.Padding = sans(titleSize), 6
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font, axis.Tick.Label.Font = sans(labelSize), sans(smallSize)
	}
	p.Legend.TextStyle.Font = sans(smallSize)
	return p
}

// key is an entry of a legend: a box, a glyph or a piece of a line.
type key struct {
	name   string
	color  color.NRGBA
	glyph  draw.GlyphDrawer
	line   bool
	dashes []vg.Length
}

// legend writes groups of entries, each from a new line on, from the top of c, and returns the height that takes, also where c
// is nil.
func legend(c *draw.Canvas, width vg.Length, groups ...[]key) vg.Length {
	const box, stroke, gap, height = vg.Length(9), vg.Length(22), vg.Length(14), vg.Length(14)
	sty := style(smallSize, text.XLeft, text.YCenter)
	y := vg.Length(0)
	for _, group := range groups {
		x := vg.Length(0)
		for _, k := range group {
			sample := box
			if k.line {
				sample = stroke
			}
			w := sample + 4 + sty.Width(k.name)
			if x > 0 && x+w > width {
				x, y = 0, y+height
			}
			if c != nil {
				left, middle := c.Min.X+x, c.Max.Y-y-height/2
				switch {
				case k.line:
					c.StrokeLine2(draw.LineStyle{Color: k.color, Width: lineWidth, Dashes: k.dashes}, left, middle, left+sample, middle)
				case k.glyph != nil:
					c.DrawGlyphNoClip(draw.GlyphStyle{Color: k.color, Radius: box / 2.4, Shape: k.glyph}, vg.Point{X: left + box/2, Y: middle})
				default:
					c.FillPolygon(k.color, rectangle(left, middle-box/2, left+box, middle+box/2))
				}
				c.FillText(sty, vg.Point{X: left + sample + 4, Y: middle}, k.name)
			}
			x += w + gap
		}
		if len(group) > 0 {
			y += height
		}
	}
	return y
}

func rectangle(left, bottom, right, top vg.Length) []vg.Point {
	return []vg.Point{{X: left, Y: bottom}, {X: right, Y: bottom}, {X: right, Y: top}, {X: left, Y: top}}
}

// panels draws plots of a size beside each other below a title, with a legend below.
func panels(title string, width, height vg.Length, plots []*plot.Plot, keys ...[]key) (Picture, error) {
	const margin, head = vg.Length(10), vg.Length(26)
	all := vg.Length(len(plots))*width + 2*margin
	foot := legend(nil, all-2*margin, keys...) + margin
	return picture(title, all, height+head+foot, func(c draw.Canvas) {
		c.FillText(style(titleSize, text.XCenter, text.YTop), vg.Point{X: c.Center().X, Y: c.Max.Y - 7}, title)
		for i, p := range plots {
			left := margin + vg.Length(i)*width
			p.Draw(draw.Crop(c, left, left+width-8-all, foot, -head))
		}
		below := draw.Crop(c, margin, -margin, 0, -height-head)
		legend(&below, all-2*margin, keys...)
	})
}

// line is a series over categories, with gaps where a value is nil.
type line struct {
	key
	y []*float64
}

// categories draws series from 0 to 1 over named places.
func categories(title, y string, names []string, lines []line) (Picture, error) {
	p := newPlot("", "", y)
	p.Y.Min, p.Y.Max = 0, 1
	p.X.Min, p.X.Max = -0.4, float64(len(names))-0.6
	p.Add(plotter.NewGrid())
	var keys []key
	for i, l := range lines {
		var points plotter.XYs
		for x, v := range l.y {
			if v != nil {
				points = append(points, plotter.XY{X: float64(x), Y: *v})
			}
		}
		if len(points) == 0 {
			continue
		}
		drawn, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return Picture{}, fmt.Errorf("drawing %s: %w", title, err)
		}
		drawn.Color, drawn.Width, drawn.Dashes = l.color, lineWidth, l.dashes
		marks.Color, marks.Radius, marks.Shape = l.color, 3, []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}}[i%2]
		p.Add(drawn, marks)
		keys = append(keys, l.key)
	}
	p.NominalX(names...)
	p.X.Tick.Label.Rotation, p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = math.Pi/4, text.XRight, text.YTop
	if len(names) > 24 { // upright, to have room
		p.X.Tick.Label.Rotation, p.X.Tick.Label.YAlign = math.Pi/2, text.YCenter
	}
	return panels(title, max(500, 60+vg.Length(len(names))*16), 320, []*plot.Plot{p}, keys)
}

// outlined is a circle with a black outline on white, to be found among many points.
type outlined struct{}

// DrawGlyph draws it.
func (outlined) DrawGlyph(c *draw.Canvas, sty draw.GlyphStyle, at vg.Point) {
	for _, ring := range []struct {
		color  color.Color
		radius vg.Length
	}{{color.White, 1}, {color.Black, 0.85}, {sty.Color, 0.65}} {
		c.SetColor(ring.color)
		draw.CircleGlyph{}.DrawGlyph(c, draw.GlyphStyle{Color: ring.color, Radius: sty.Radius * ring.radius}, at)
	}
}

// matrixPicture draws counts[i][j] as a heat map, with the number in each cell, row i from the top.
func matrixPicture(title, rows, columns string, rowNames, columnNames []string, counts [][]int) (Picture, error) {
	const cell = vg.Length(26)
	small := style(smallSize, text.XRight, text.YCenter)
	left, foot := vg.Length(0), vg.Length(0)
	for _, n := range rowNames {
		left = max(left, small.Width(n))
	}
	for _, n := range columnNames {
		foot = max(foot, small.Width(n))
	}
	left, foot = left+34, foot+34
	const head, right = vg.Length(30), vg.Length(16)
	wide := vg.Length(len(columnNames)) * cell
	width := max(left+wide+right, style(titleSize, 0, 0).Width(title)+20)
	height := head + vg.Length(len(rowNames))*cell + foot
	most := 1
	for _, r := range counts {
		for _, n := range r {
			most = max(most, n)
		}
	}
	return picture(title, width, height, func(c draw.Canvas) {
		c.FillText(style(titleSize, text.XCenter, text.YTop), vg.Point{X: c.Center().X, Y: c.Max.Y - 8}, title)
		for i, row := range counts {
			top := c.Max.Y - head - vg.Length(i)*cell
			c.FillText(small, vg.Point{X: c.Min.X + left - 5, Y: top - cell/2}, rowNames[i])
			for j, n := range row {
				x := c.Min.X + left + vg.Length(j)*cell
				depth := float64(n) / float64(most)
				c.FillPolygon(mix(color.NRGBA{255, 255, 255, 255}, okabeIto[0], depth), rectangle(x, top-cell, x+cell, top))
				c.StrokeLines(draw.LineStyle{Color: faint, Width: 0.5}, append(rectangle(x, top-cell, x+cell, top), vg.Point{X: x, Y: top - cell}))
				if n > 0 {
					number := style(smallSize, text.XCenter, text.YCenter)
					if depth > 0.5 {
						number.Color = color.White
					}
					c.FillText(number, vg.Point{X: x + cell/2, Y: top - cell/2}, fmt.Sprint(n))
				}
			}
		}
		bottom := c.Max.Y - head - vg.Length(len(rowNames))*cell
		upright := small
		upright.Rotation = math.Pi / 2
		for j, n := range columnNames {
			c.FillText(upright, vg.Point{X: c.Min.X + left + (vg.Length(j)+0.5)*cell, Y: bottom - 5}, n)
		}
		label := style(labelSize, text.XCenter, text.YBottom)
		c.FillText(label, vg.Point{X: c.Min.X + left + wide/2, Y: c.Min.Y + 6}, columns)
		label.Rotation, label.YAlign = math.Pi/2, text.YTop
		c.FillText(label, vg.Point{X: c.Min.X + 6, Y: (c.Max.Y - head + bottom) / 2}, rows)
	})
}

// mix goes a part of the way from one colour to another.
func mix(from, to color.NRGBA, part float64) color.NRGBA {
	at := func(a, b uint8) uint8 { return uint8(math.Round(float64(a) + part*(float64(b)-float64(a)))) }
	return color.NRGBA{at(from.R, to.R), at(from.G, to.G), at(from.B, to.B), 255}
}

// raster draws n x n points of a plane, each as a rectangle, that cover -edge to edge on both axes. Rows go up.
type raster struct {
	n    int
	edge float64
	at   func(row, column int) color.NRGBA
}

// Plot draws the points as an image of the place's own proportions, since SVG would keep those of another, and of so many pixels
// that viewers do not blur it.
func (r raster) Plot(c draw.Canvas, p *plot.Plot) {
	const pixels = 2 // a point of the canvas
	x, y := p.Transforms(&c)
	place := vg.Rectangle{Min: vg.Point{X: x(-r.edge), Y: y(-r.edge)}, Max: vg.Point{X: x(r.edge), Y: y(r.edge)}}
	width, height := int(math.Round(pixels*place.Size().X.Points())), int(math.Round(pixels*place.Size().Y.Points()))
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range height {
		for j := range width {
			img.SetNRGBA(j, i, r.at((height-1-i)*r.n/height, j*r.n/width))
		}
	}
	c.DrawImage(place, img)
}

// classColors gives the classes that are most, by their weights, colours of their own, and the others grey. The legend
// has those that are there at all.
func classColors(names []string, weight []int) (colors []color.NRGBA, keys []key) {
	colors = make([]color.NRGBA, len(names))
	own := len(names) <= len(tol) // then a class has the same colour in every picture
	left := append([]int(nil), weight...)
	for i := range colors {
		colors[i] = grey
		if own {
			colors[i] = tol[i]
		}
	}
	for i := 0; !own && i < len(tol); i++ {
		most := 0
		for c, w := range left {
			if w > left[most] {
				most = c
			}
		}
		if left[most] == 0 {
			break
		}
		colors[most], left[most] = tol[i], 0
	}
	others := false
	for c, w := range weight {
		switch {
		case w == 0:
		case colors[c] == grey:
			others = true
		default:
			keys = append(keys, key{name: names[c], color: colors[c]})
		}
	}
	if others {
		keys = append(keys, key{name: "other classes", color: grey})
	}
	return colors, keys
}
