package run

import (
	"encoding/binary"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"l2ul/torch/ckpt"
)

// What predictions.json says must agree with the counts of the result, and the pictures with the tensors they were drawn from.
func TestPredictions(t *testing.T) {
	material, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags("forget", "random:4", "num-adv", "2", "iters", "4", "lr", "0.01")}
	if out := j.run(t.Context(), material, nil); ExitCode(out.err) != ExitOK && ExitCode(out.err) != ExitNotReached {
		t.Fatal(out.err)
	}
	var result Result
	var said Predictions
	readJSON(t, filepath.Join(j.dir, "result.json"), &result)
	readJSON(t, filepath.Join(j.dir, predictionsName), &said)
	var before, after int64
	for i, image := range said.Images {
		if int64(image.Index) != result.Forget.Indices[i] {
			t.Errorf("image %d is %d, in the result %d", i, image.Index, result.Forget.Indices[i])
		}
		if image.Before.Class == image.Label {
			before++
		}
		if image.After.Class == image.Label {
			after++
		}
		for _, p := range []*Prediction{image.Before, image.After} {
			if p.Probability < 1/Number(len(said.Classes)) || p.Probability > 1 {
				t.Errorf("image %d: the likeliest of %d classes has the probability %v", i, len(said.Classes), p.Probability)
			}
		}
	}
	if before != result.Before.Forget.Hits || after != result.After.Forget.Hits || len(said.Images) != 4 {
		t.Errorf("%d images, %d right before and %d after; the result says %d and %d", len(said.Images), before, after,
			result.Before.Forget.Hits, result.After.Forget.Hits)
	}

	file, err := ckpt.Load(filepath.Join(j.dir, "adversarial.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	tensor := func(name string) ckpt.Tensor {
		return file.Tensors[slices.IndexFunc(file.Tensors, func(x ckpt.Tensor) bool { return x.Name == name })]
	}
	shape, bytes := tensor("x_adv").Shape, tensor("x_adv").Data
	pairOf := map[[2]uint64]int{} // by position of the image and repeat
	for i := range int(shape[0]) {
		number := func(name string) uint64 { return binary.LittleEndian.Uint64(tensor(name).Data[8*i:]) }
		pairOf[[2]uint64{number("position"), number("repeat")}] = i
	}
	pixel := func(pair, c, y, x int) float64 {
		offset := ((pair*int(shape[1])+c)*int(shape[2])+y)*int(shape[3]) + x
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(bytes[4*offset:])))
	}
	for i, image := range said.Images {
		picture, source := readPNG(t, j.dir, image.Adversarial.Picture), readPNG(t, j.dir, image.Picture)
		var norm float64
		pair, ok := pairOf[[2]uint64{uint64(i), 0}]
		if !ok {
			t.Fatalf("image %d has no first example", i)
		}
		for y := range picture.H {
			for x := range picture.W {
				for c := range 3 {
					v := pixel(pair, c, y, x)
					if got := float64(picture.at(x, y, c)); math.Abs(got-255*v) > 0.5+1e-4 {
						t.Fatalf("image %d: the picture has %v at %d,%d, the tensor %v", i, got, x, y, 255*v)
					}
					d := v - float64(source.at(x, y, c))/255
					norm += d * d
				}
			}
		}
		if norm = math.Sqrt(norm); math.Abs(norm-image.Adversarial.Norm) > 1e-4 {
			t.Errorf("image %d: its picture and the example are %v apart, the file says %v", i, norm, image.Adversarial.Norm)
		}
		readPNG(t, j.dir, image.Adversarial.Perturbation)
	}
}

type pixels struct {
	W, H int
	at   func(x, y, c int) uint8
}

func readPNG(t *testing.T, dir, name string) pixels {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return pixels{image.Bounds().Dx(), image.Bounds().Dy(), func(x, y, c int) uint8 {
		r, g, b, _ := image.At(x, y).RGBA()
		return uint8([]uint32{r, g, b}[c] >> 8)
	}}
}
