package run

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"strconv"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"

	"l2ul/unlearn/data"
)

// sheet is pictures side by side with a text of two lines below each.
type sheet struct{ *image.NRGBA }

// The looks of a sheet, in pixels.
const (
	leastPicture = 64 // side; smaller images are enlarged by a whole number
	sheetGap     = 6
	lineHeight   = 13 // of basicfont's only face, whose letters are 7 wide
	letterWidth  = 7
	maxSheet     = 1 << 28 // pixels of all
)

// contactSheet draws images of a set, each with its index and its class below. It is about as wide as high.
func contactSheet(set *data.Set, indices []int) (sheet, error) {
	zoom := max(1, (leastPicture+set.W-1)/set.W)
	across := int(math.Ceil(math.Sqrt(float64(len(indices)))))
	down := (len(indices) + across - 1) / across
	cell := image.Pt(zoom*set.W+sheetGap, zoom*set.H+2*lineHeight+sheetGap)
	width, height := across*cell.X+sheetGap, down*cell.Y+sheetGap
	if width > maxSheet/height {
		return sheet{}, Usagef("%d images of %d x %d pixels are too many for one picture of at most %d pixels: choose fewer, or make them smaller with --img-size",
			len(indices), set.W, set.H, maxSheet)
	}
	s := sheet{image.NewNRGBA(image.Rect(0, 0, width, height))}
	for i := range s.Pix {
		s.Pix[i] = 255
	}
	planes := make([]byte, set.C*set.H*set.W)
	for at, i := range indices {
		if err := set.Read(planes, []int{i}); err != nil {
			return sheet{}, err
		}
		corner := image.Pt(sheetGap+at%across*cell.X, sheetGap+at/across*cell.Y)
		s.picture(corner, planes, set.W, set.H, zoom)
		corner.Y += zoom * set.H
		s.text(corner, strconv.Itoa(i), zoom*set.W)
		corner.Y += lineHeight
		s.text(corner, set.Classes[set.Labels[i]], zoom*set.W)
	}
	return s, nil
}

// picture draws three planes of width x height pixels, each pixel as a square.
func (s sheet) picture(corner image.Point, planes []byte, width, height, zoom int) {
	n := width * height
	for y := range height * zoom {
		for x := range width * zoom {
			i := y/zoom*width + x/zoom
			s.SetNRGBA(corner.X+x, corner.Y+y, color.NRGBA{planes[i], planes[n+i], planes[2*n+i], 255})
		}
	}
}

// text writes as much of a line as fits.
func (s sheet) text(corner image.Point, line string, width int) {
	if letters := []rune(line); len(letters)*letterWidth > width {
		line = string(letters[:width/letterWidth])
	}
	pen := font.Drawer{Dst: s, Src: image.Black, Face: basicfont.Face7x13, Dot: fixed.P(corner.X, corner.Y+basicfont.Face7x13.Ascent)}
	pen.DrawString(line)
}

func (s sheet) png() []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, s); err != nil {
		panic(err) // a buffer takes all
	}
	return b.Bytes()
}
