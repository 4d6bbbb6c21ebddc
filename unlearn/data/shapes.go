package data

import (
	"context"
	"fmt"
	"math/rand/v2"

	"l2ul/unlearn/seed"
)

func init() {
	Register(Dataset{
		Name:    "shapes",
		Summary: "10 classes of drawn 32x32 figures, generated from a seed; needs no files",
		Open:    openShapes,
	})
}

const (
	shapesSide  = 32
	shapesTrain = 5000
	shapesTest  = 1000
)

// figures are the classes, by name. A figure is a test whether the point (u, v), v downwards, lies inside; one is the
// radius of the circle around the figure.
var figures = []struct {
	name   string
	inside func(u, v int) bool
}{
	{"arrow", func(u, v int) bool {
		head := v >= -one && v <= 0 && abs(u)*one <= (v+one)*820
		shaft := v >= 0 && v <= 940 && abs(u) <= 270
		return head || shaft
	}},
	{"circle", func(u, v int) bool { return inDisc(u, v, 900) }},
	{"crescent", func(u, v int) bool { return inDisc(u, v, one) && !inDisc(u-420, v, 780) }},
	{"cross", func(u, v int) bool { return min(abs(u), abs(v)) <= 290 && max(abs(u), abs(v)) <= 970 }},
	{"heart", func(u, v int) bool {
		lobes := inDisc(abs(u)-460, v+330, 520)
		point := v >= -330 && abs(u)*1330 <= (one-24-v)*975
		return lobes || point
	}},
	{"hexagon", func(u, v int) bool { return abs(v) <= 850 && 512*abs(v)+887*abs(u) <= 850*one }},
	{"ring", func(u, v int) bool { return inDisc(u, v, 980) && !inDisc(u, v, 560) }},
	{"square", func(u, v int) bool { return max(abs(u), abs(v)) <= 760 }},
	{"star", func(u, v int) bool {
		// A pentagram is what lies on the inner side of at least four of its five lines.
		inner := 0
		for _, n := range [5][2]int{{602, 828}, {-602, 828}, {974, -316}, {-974, -316}, {0, -one}} {
			if n[0]*u+n[1]*v <= 340*one {
				inner++
			}
		}
		return inner >= 4
	}},
	{"triangle", func(u, v int) bool { return v <= 520 && 887*abs(u)-512*v <= 520*one }},
}

// one is the unit of figure coordinates. Everything here is integer arithmetic, so that the pixels are the same on
// every machine.
const one = 1024

func abs(x int) int { return max(x, -x) }

func inDisc(u, v, r int) bool { return u*u+v*v <= r*r }

// openShapes draws the splits "train" (5,000 images) and "test" (1,000), 500 and 100 of each class. Image i depends on
// the seed, the split and i alone.
func openShapes(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		n, ok := map[string]int{"train": shapesTrain, "test": shapesTest}[split]
		if !ok {
			return nil, usagef("dataset shapes has no split %q: choose train or test", split)
		}
		var err error
		if sets[i], err = drawShapes(ctx, src, split, n); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

func drawShapes(ctx context.Context, src Source, split string, n int) (*Set, error) {
	s := &Set{
		Dataset: "shapes", Split: split, C: 3, H: shapesSide, W: shapesSide,
		Pixels: make([]byte, n*3*shapesSide*shapesSide), Labels: make([]int, n),
	}
	for _, f := range figures {
		s.Classes = append(s.Classes, f.name)
	}
	err := src.each(ctx, n, func(i int) error {
		s.Labels[i] = figureOf(i)
		draw(s.Image(i), s.Labels[i], newDice(seed.For(src.Seed, "shapes/"+split, i)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("drawing shapes: %w", err)
	}
	return s, nil
}

// figureOf is the class of image i: the sum of the decimal digits, modulo 10. Any ten images from a multiple of ten on are
// of ten classes, and so are evenly spaced ones, every tenth, say, where i itself modulo 10 would give but one class.
func figureOf(i int) int {
	sum := 0
	for ; i > 0; i /= 10 {
		sum += i % 10
	}
	return sum % len(figures)
}

// dice draws integers. PCG's stream is fixed by its definition; the methods of rand.Rand may change between Go
// versions.
type dice struct{ pcg *rand.PCG }

func newDice(s int64) dice { return dice{rand.NewPCG(uint64(s), 0)} }

// between returns a value in [lo, hi].
func (d dice) between(lo, hi int) int {
	return lo + int(d.pcg.Uint64()>>32*uint64(hi-lo+1)>>32)
}

// bell returns a value of mean 0 and standard deviation close to sigma/16, the sum of four uniform ones.
func (d dice) bell(sigma int) int {
	x := d.pcg.Uint64()
	sum := int(x&0xffff+x>>16&0xffff+x>>32&0xffff+x>>48) - 2*0xffff
	return sum * sigma / (37837 * 16)
}

type colour [3]int

func (d dice) colour() colour {
	return colour{d.between(20, 235), d.between(20, 235), d.between(20, 235)}
}

// near returns a colour at most r away in each channel.
func (d dice) near(c colour, r int) colour {
	for i := range c {
		c[i] = min(max(c[i]+d.between(-r, r), 0), 255)
	}
	return c
}

func (c colour) distance(o colour) int {
	return abs(c[0]-o[0]) + abs(c[1]-o[1]) + abs(c[2]-o[2])
}

// blend mixes c and o by weight of 256ths of o.
func (c colour) blend(o colour, weight int) colour {
	for i := range c {
		c[i] += (o[i] - c[i]) * weight / 256
	}
	return c
}

// frame maps pixels to figure coordinates. Positions are in eighths of a pixel.
type frame struct {
	x, y     int // centre
	radius   int
	cos, sin int // of the rotation, times 2^16 * one / radius
}

// frame draws a centre that keeps most of the figure inside the image, and a rotation by an angle whose half has a
// tangent of at most turn/one: 90 degrees for one, 24 for 220.
func (d dice) frame(radius, turn int) frame {
	// The rational points ((1-t^2)/(1+t^2), 2t/(1+t^2)) of the circle; t = tan(angle/2).
	t := d.between(-turn, turn)
	norm := one*one + t*t
	cos, sin := one*one-t*t, 2*one*t
	margin := radius * 7 / 8
	f := frame{radius: radius, cos: cos * one * 65536 / (norm * radius), sin: sin * one * 65536 / (norm * radius)}
	f.x = d.between(margin, 8*shapesSide-margin)
	f.y = d.between(margin, 8*shapesSide-margin)
	return f
}

func (f frame) at(x, y int) (u, v int) {
	dx, dy := x-f.x, y-f.y
	return (dx*f.cos + dy*f.sin) >> 16, (dy*f.cos - dx*f.sin) >> 16
}

// cover calls paint for every pixel that the figure touches, with the covered part in 256ths of 4x4 samples.
func (f frame) cover(inside func(u, v int) bool, paint func(x, y, weight int)) {
	reach := f.radius + 8
	x0, x1 := max((f.x-reach)/8, 0), min((f.x+reach)/8, shapesSide-1)
	y0, y1 := max((f.y-reach)/8, 0), min((f.y+reach)/8, shapesSide-1)
	for y := y0; y <= y1; y++ {
		for x := x0; x <= x1; x++ {
			hits := 0
			for s := range 16 {
				if inside(f.at(8*x+2*(s%4)+1, 8*y+2*(s/4)+1)) {
					hits++
				}
			}
			if hits > 0 {
				paint(x, y, 16*hits)
			}
		}
	}
}

// texture gives the share of the second of two colours, in 256ths, at a point of its own frame.
type texture func(x, y int) int

func (d dice) texture() texture {
	f := d.frame(8*d.between(5, 9), one)
	switch d.between(0, 3) {
	case 0: // plain
		return func(_, _ int) int { return 0 }
	case 1: // a gradient
		return func(x, y int) int {
			u, _ := f.at(8*x, 8*y)
			return min(max(128+u/16, 0), 256)
		}
	case 2: // stripes
		return func(x, y int) int {
			u, _ := f.at(8*x, 8*y)
			return (u >> 9 & 1) * 256
		}
	default: // checks
		return func(x, y int) int {
			u, v := f.at(8*x, 8*y)
			return ((u>>9 ^ v>>9) & 1) * 256
		}
	}
}

// draw paints one image: a textured ground, scraps of other colours, the textured figure, a bar that may hide part of
// it, and noise. Planes go to dst.
func draw(dst []byte, class int, d dice) {
	var canvas [shapesSide * shapesSide]colour
	ground := d.colour()
	ground2, groundTexture := d.near(ground, 40), d.texture()
	for i := range canvas {
		canvas[i] = ground.blend(ground2, groundTexture(i%shapesSide, i/shapesSide))
	}
	over := func(c colour) func(x, y, weight int) {
		return func(x, y, weight int) {
			p := &canvas[y*shapesSide+x]
			*p = p.blend(c, weight)
		}
	}
	for range d.between(0, 3) {
		scrap := d.between(0, 1)
		d.frame(d.between(12, 32), one).cover(func(u, v int) bool {
			return scrap == 0 && inDisc(u, v, 800) || scrap == 1 && abs(u) <= 980 && abs(v) <= 240
		}, over(d.colour()))
	}

	ink := d.colour()
	for ink.distance(ground) < 180 {
		ink = d.colour()
	}
	ink2, inkTexture := d.near(ink, 40), d.texture()
	d.frame(d.between(72, 112), 220).cover(figures[class].inside, func(x, y, weight int) {
		over(ink.blend(ink2, inkTexture(x, y)))(x, y, weight)
	})
	if d.between(0, 4) == 0 {
		d.frame(d.between(60, 120), one).cover(func(u, v int) bool { return abs(u) <= 980 && abs(v) <= 90 }, over(d.colour()))
	}

	noise := 16 * d.between(2, 12)
	for i, c := range canvas {
		for channel, value := range c {
			dst[channel*len(canvas)+i] = byte(min(max(value+d.bell(noise), 0), 255))
		}
	}
}
