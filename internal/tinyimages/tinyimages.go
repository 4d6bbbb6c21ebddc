// Package tinyimages draws image folders that a network learns in a second, for tests of whole jobs.
package tinyimages

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Images of each class in each split.
const (
	Train = 12
	Test  = 5
)

// Write makes train/classC/NN.png and test/classC/NN.png in dir, 8x8 pixels of noise in which a bright quarter tells the
// class, 4 classes at most. The files are the same each time.
func Write(dir string, classes int) error {
	random := rand.New(rand.NewPCG(1, 2))
	for _, split := range []struct {
		name string
		n    int
	}{{"train", Train}, {"test", Test}} {
		for class := range classes {
			folder := filepath.Join(dir, split.name, fmt.Sprintf("class%d", class))
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
			for i := range split.n {
				if err := write(filepath.Join(folder, fmt.Sprintf("%02d.png", i)), class, random); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func write(path string, class int, random *rand.Rand) error {
	m := image.NewRGBA(image.Rect(0, 0, 8, 8))
	for y := range 8 {
		for x := range 8 {
			v := uint8(random.IntN(100))
			if x/4+2*(y/4) == class {
				v += 130
			}
			m.Set(x, y, color.RGBA{v, uint8(random.IntN(200)), 255 - v, 255})
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(png.Encode(f, m), f.Close())
}
