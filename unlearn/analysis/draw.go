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
)

// okabeIto are colours for a few series, told apart with every kind of colour blindness (Okabe and Ito 2008).
var okabeIto = []color.NRGBA{
	{0x00, 0x72, 0xB2, 255}, {0xD5, 0x5E, 0x00, 255}, {0x00, 0x9E, 0x73, 255}, {0xCC, 0x79, 0xA7, 255},
}

// tol are colours for classes, from Paul Tol's palette of twelve for colour-blind readers. Classes beyond them share grey.
var tol = []color.NRGBA{
	{0x33, 0x22, 0x88, 255}, {0xDD, 0xCC, 0x77, 255}, {0x11, 0x77, 0x33, 255}, {0xCC, 0x66, 0x77, 255}, {0x88, 0xCC, 0xEE, 255}, {0x88, 0x22, 0x55, 255},
	{0x44, 0xAA, 0x99, 255}, {0x66, 0x11, 0x00, 255}, {0x99, 0x99, 0x33, 255}, {0xAA, 0x44, 0x99, 255}, {0x66, 0x99, 0xCC, 255}, {0xAA, 0x44, 0x66, 255},
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

// key is an entry of a legend.
type key struct {
	name  string
	color color.NRGBA
	glyph draw.GlyphDrawer // nil for a box
}

// keyHeight is what a line of a legend takes.
const keyHeight = vg.Length(14)

// legend writes entries in lines from the top of c on, and returns the height that takes, also where c is nil.
func legend(c *draw.Canvas, width vg.Length, keys []key) vg.Length {
	const box, gap = vg.Length(9), vg.Length(14)
	sty := style(smallSize, text.XLeft, text.YCenter)
	at := vg.Point{X: 0, Y: keyHeight / 2}
	for _, k := range keys {
		w := box + 4 + sty.Width(k.name)
		if at.X > 0 && at.X+w > width {
			at = vg.Point{X: 0, Y: at.Y + keyHeight}
		}
		if c != nil {
			left, middle := c.Min.X+at.X, c.Max.Y-at.Y
			if k.glyph != nil {
				c.DrawGlyphNoClip(draw.GlyphStyle{Color: k.color, Radius: box / 2.4, Shape: k.glyph}, vg.Point{X: left + box/2, Y: middle})
			} else {
				c.FillPolygon(k.color, rectangle(left, middle-box/2, left+box, middle+box/2))
			}
			c.FillText(sty, vg.Point{X: left + box + 4, Y: middle}, k.name)
		}
		at.X += w + gap
	}
	return at.Y + keyHeight/2
}

func rectangle(left, bottom, right, top vg.Length) []vg.Point {
	return []vg.Point{{X: left, Y: bottom}, {X: right, Y: bottom}, {X: right, Y: top}, {X: left, Y: top}}
}

// sideBySide draws panels beside each other below a title, with a legend below.
func sideBySide(title string, panels []*plot.Plot, keys []key) (Picture, error) {
	const side, margin, head = vg.Length(330), vg.Length(10), vg.Length(22)
	width := vg.Length(len(panels))*side + 2*margin
	foot := legend(nil, width-2*margin, keys) + margin
	return picture(title, width, side+head+foot, func(c draw.Canvas) {
		c.FillText(style(titleSize, text.XCenter, text.YTop), vg.Point{X: c.Center().X, Y: c.Max.Y - 5}, title)
		for i, p := range panels {
			left := margin + vg.Length(i)*side
			p.Draw(draw.Crop(c, left, left+side-width-8, foot, -head))
		}
		below := draw.Crop(c, margin, -margin, 0, foot-c.Max.Y)
		legend(&below, width-2*margin, keys)
	})
}

// line is a series over categories, with gaps where a value is nil.
type line struct {
	name   string
	y      []*float64
	color  color.NRGBA
	dashed bool
}

// categories draws series from 0 to 1 over named places.
func categories(title, y string, names []string, lines []line) (Picture, error) {
	p := newPlot(title, "", y)
	p.Y.Min, p.Y.Max = 0, 1
	p.X.Min, p.X.Max = -0.4, float64(len(names))-0.6
	p.Add(plotter.NewGrid())
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
		drawn.Color, drawn.Width = l.color, 1.6
		if l.dashed {
			drawn.Dashes = []vg.Length{5, 3}
		}
		marks.Color, marks.Radius, marks.Shape = l.color, 3, []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}}[i%2]
		p.Add(drawn, marks)
		p.Legend.Add(l.name, drawn, marks)
	}
	p.Legend.YOffs, p.Legend.XOffs, p.Legend.Left = 6, 10, true
	p.NominalX(names...)
	p.X.Tick.Label.Rotation, p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = math.Pi/4, text.XRight, text.YTop
	if len(names) > 24 { // upright, to have room
		p.X.Tick.Label.Rotation, p.X.Tick.Label.YAlign = math.Pi/2, text.YCenter
	}
	width := max(520, 60+vg.Length(len(names))*16)
	return picture(title, width, 340, func(c draw.Canvas) { p.Draw(draw.Crop(c, 8, -14, 8, -8)) })
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

// enlarged draws every point of a map as a square of so many pixels, so that viewers do not blur it.
func enlarged(width, height, zoom int, at func(x, y int) color.NRGBA) image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, width*zoom, height*zoom))
	for y := range height * zoom {
		for x := range width * zoom {
			img.SetNRGBA(x, y, at(x/zoom, y/zoom))
		}
	}
	return img
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
