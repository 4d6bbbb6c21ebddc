package jpeg

import (
	"archive/tar"
	"bytes"
	"errors"
	"image"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// same compares pixels of four bytes, of which the last has no meaning.
func same(a, b []byte) bool {
	for i := range a {
		if a[i] != b[i] && i%4 != 3 {
			return false
		}
	}
	return len(a) == len(b)
}

// cut is a part of the pixels of an image.
func cut(pixels []byte, width int, part image.Rectangle) []byte {
	var rows []byte
	for y := part.Min.Y; y < part.Max.Y; y++ {
		rows = append(rows, pixels[4*(y*width+part.Min.X):4*(y*width+part.Max.X)]...)
	}
	return rows
}

// compare decodes parts of an image ourselves, with AVX2 and without, and the whole of it by libjpeg.
func compare(t *testing.T, name string, content []byte, width, height int, parts ...image.Rectangle) {
	t.Helper()
	want := make([]byte, 4*width*height)
	whole := image.Rect(0, 0, width, height)
	if err := libjpeg(want, content, whole); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	before := avx2
	defer func() { avx2 = before }()
	for _, part := range append(parts, whole) {
		for avx2 = range before + 1 {
			got := make([]byte, 4*part.Dx()*part.Dy())
			if !baseline(got, content, part) {
				t.Fatalf("%s: %v: left to libjpeg (AVX2 %d)", name, part, avx2)
			}
			if !same(got, cut(want, width, part)) {
				t.Fatalf("%s: %v: pixels other than libjpeg's (AVX2 %d)", name, part, avx2)
			}
		}
	}
}

// agree checks that, whatever the bytes are, what we decode ourselves is what libjpeg makes of them, with AVX2 and without,
// and that nothing is written beside it.
func agree(t *testing.T, content []byte, part image.Rectangle, height int) {
	t.Helper()
	want, err := guarded(t, part, func(dst []byte) error { return libjpeg(dst, content, part) })
	before := avx2
	defer func() { avx2 = before }()
	var done [2]bool
	for avx2 = range before + 1 {
		got, _ := guarded(t, part, func(dst []byte) error {
			done[avx2] = baseline(dst, content, part)
			return nil
		})
		switch {
		case avx2 == 1 && done[0] != done[1]:
			t.Errorf("the part %v: decoded %v without AVX2, %v with it", part, done[0], done[1])
		case !done[avx2]: // libjpeg decides
		case err != nil:
			// Of a part that ends above the image, libjpeg may read a row of MCUs more, and find what is wrong there.
			if part.Max.Y == height {
				t.Errorf("the part %v: decoded (AVX2 %d), but libjpeg says: %v", part, avx2, err)
			}
		case !same(got, want):
			t.Errorf("the part %v: pixels other than libjpeg's (AVX2 %d)", part, avx2)
		}
	}
}

// guarded has a part decoded between bytes that must stay.
func guarded(t *testing.T, part image.Rectangle, decode func(dst []byte) error) ([]byte, error) {
	t.Helper()
	const guard = 64
	size := 4 * part.Dx() * part.Dy()
	buffer := bytes.Repeat([]byte{0xa5}, guard+size+guard)
	err := decode(buffer[guard : guard+size])
	edges := append(bytes.Clone(buffer[:guard]), buffer[guard+size:]...)
	if !bytes.Equal(edges, bytes.Repeat([]byte{0xa5}, 2*guard)) {
		t.Errorf("wrote outside the destination of %v", part)
	}
	return buffer[guard : guard+size], err
}

// What is unusual or broken is libjpeg's to judge.
func TestLeftToLibjpeg(t *testing.T) {
	edit := func(name string, change func(b []byte, frame, scan int) []byte) []byte {
		b := bytes.Clone(read(t, name))
		frame, scan := bytes.Index(b, []byte{0xff, 0xc0}), bytes.Index(b, []byte{0xff, 0xda})
		return change(b, frame, scan)
	}
	for name, content := range map[string][]byte{
		"progressive":      read(t, "progressive.jpg"),
		"CMYK":             read(t, "cmyk.jpg"),
		"4:1:1":            resampled(t, "420.jpg", 0x41, 60, 22),
		"12 bits":          edit("420.jpg", func(b []byte, frame, _ int) []byte { b[frame+4] = 12; return b }),
		"narrow":           edit("420.jpg", func(b []byte, frame, _ int) []byte { b[frame+8] = 4; return b }),
		"no quantisation":  edit("grey.jpg", func(b []byte, frame, _ int) []byte { b[frame+12] = 3; return b }),
		"no Huffman table": edit("grey.jpg", func(b []byte, _, scan int) []byte { b[scan+6] = 0x11; return b }),
		"no end marker":    edit("grey.jpg", func(b []byte, _, _ int) []byte { return b[:len(b)-2] }),
		"RGB": edit("444.jpg", func(b []byte, frame, scan int) []byte {
			for i, id := range []byte("RGB") {
				b[frame+10+3*i], b[scan+5+2*i] = id, id
			}
			app0 := bytes.Index(b, []byte{0xff, 0xe0})
			b[app0+1] = 0xe1 // no longer JFIF
			return b
		}),
		"RGB, as Adobe says": edit("444.jpg", func(b []byte, _, _ int) []byte {
			app0 := bytes.Index(b, []byte{0xff, 0xe0})
			b[app0+1] = 0xe1
			return slices.Insert(b, app0, []byte("\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00")...)
		}),
		"a scan of some coefficients": edit("grey.jpg", func(b []byte, _, scan int) []byte { b[scan+8] = 62; return b }),
		"a frame with a byte more": edit("grey.jpg", func(b []byte, frame, _ int) []byte {
			b[frame+3]++
			return slices.Insert(b, frame+13, 0)
		}),
		"the code of ones alone": edit("grey.jpg", func(b []byte, _, _ int) []byte {
			dht := bytes.Index(b, []byte{0xff, 0xc4})
			end, longest := dht+21, 0
			for i, n := range b[dht+5 : dht+21] {
				end += int(n)
				if n > 0 {
					longest = i
				}
			}
			b[dht+3]++
			b[dht+5+longest]++
			return slices.Insert(b, end, 11)
		}),
		"a byte before a restart marker": edit("restart.jpg", func(b []byte, _, scan int) []byte {
			return slices.Insert(b, scan+bytes.Index(b[scan:], []byte{0xff, 0xd1}), 0x55)
		}),
		"more codes than there can be": edit("grey.jpg", func(b []byte, _, _ int) []byte {
			b[bytes.Index(b, []byte{0xff, 0xc4})+5] += 2 // codes of one bit
			return b
		}),
		"0xff before a stuffed one": edit("444.jpg", func(b []byte, _, scan int) []byte {
			at := scan + bytes.Index(b[scan:], []byte{0xff, 0})
			return slices.Insert(b, at, 0xff)
		}),
		"another restart marker": edit("restart.jpg", func(b []byte, _, scan int) []byte {
			b[scan+bytes.Index(b[scan:], []byte{0xff, 0xd1})+1] = 0xd2
			return b
		}),
	} {
		width, height, err := Size(content)
		if err != nil {
			width, height = 37, 23
		}
		part := image.Rect(0, 0, width, height)
		got, want := make([]byte, 4*width*height), make([]byte, 4*width*height)
		if baseline(got, content, part) {
			t.Errorf("%s: not left to libjpeg", name)
		}
		ours, theirs := Decode(got, content, part), libjpeg(want, content, part)
		if (ours == nil) != (theirs == nil) || ours != nil && ours.Error() != theirs.Error() {
			t.Errorf("%s: error %v, libjpeg's %v", name, ours, theirs)
		} else if ours == nil && !same(got, want) {
			t.Errorf("%s: pixels other than libjpeg's", name)
		}
	}
}

// A last coefficient behind the block, which libjpeg takes for the last in it: with codes of two bits for 16 zeros, for 13 zeros
// and a value of one bit, and for a zero and a value of ten, all ones.
func TestCoefficientBehindTheBlock(t *testing.T) {
	d := &drawing{rng: rand.New(rand.NewPCG(7, 8)), file: []byte{0xff, 0xd8}}
	d.segment(0xdb, append([]byte{0}, bytes.Repeat([]byte{8}, 64)...)...)
	d.segment(0xc0, 8, 0, 8, 0, 8, 1, 1, 0x11, 0)
	d.segment(0xc4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	d.segment(0xc4, 0x10, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xd1, 0x1a)
	d.segment(0xda, 1, 1, 0, 0, 63, 0)
	d.put(0b0_000000_011_10_1111111111, 22)
	d.flush()
	agree(t, append(d.file, 0xff, 0xd9), image.Rect(0, 0, 8, 8), 8)
}

func TestDamagedImages(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	n := drawings()
	refused := 0
	for seed := range n {
		content, _, _ := draw(seed)
		for range 1 + rng.IntN(3) {
			if len(content) < 2 {
				break
			}
			switch at := rng.IntN(len(content)); rng.IntN(5) {
			case 0:
				content = content[:at+1]
			case 1:
				content = slices.Delete(content, at, at+1)
			case 2:
				content = slices.Insert(content, at, 0xff)
			default:
				content[at] ^= 1 << rng.IntN(8)
			}
		}
		width, height, err := Size(content)
		if err != nil || width*height > 1<<16 {
			continue
		}
		whole := image.Rect(0, 0, width, height)
		agree(t, content, whole, height)
		agree(t, content, randomPart(rng, width, height), height)
		if !baseline(make([]byte, 4*width*height), content, whole) {
			refused++
		}
		if t.Failed() {
			t.Fatalf("of seed %d", seed)
		}
	}
	if refused < int(n)/4 {
		t.Errorf("%d of %d damaged images were left to libjpeg; the damage is too small to test anything", refused, n)
	}
}

// drawings is how many images tests draw: none where libjpeg-turbo has another arithmetic than on x86 for coefficients that no
// encoder makes.
func drawings() uint64 {
	if runtime.GOARCH != "amd64" {
		return 0
	}
	if testing.Short() {
		return 300
	}
	return 3000
}

func randomPart(rng *rand.Rand, width, height int) image.Rectangle {
	x, y := rng.IntN(width), rng.IntN(height)
	return image.Rect(x, y, x+1+rng.IntN(width-x), y+1+rng.IntN(height-y))
}

func TestBaselineIsLibjpegs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"420.jpg", "422.jpg", "444.jpg", "grey.jpg", "restart.jpg", "rotated.jpg"} {
		compare(t, name, read(t, name), 37, 23, randomPart(rng, 37, 23), randomPart(rng, 37, 23))
	}
	for seed := range drawings() {
		content, width, height := draw(seed)
		compare(t, "drawing", content, width, height, randomPart(rng, width, height), randomPart(rng, width, height))
		if t.Failed() {
			t.Fatalf("of seed %d", seed)
		}
	}
}

// photographs are every step-th of an archive of the shared test material.
func photographs(t testing.TB, name string, step int) [][]byte {
	t.Helper()
	dir := os.Getenv("L2UL_SHARED")
	if dir == "" {
		dir = "../../../../shared"
	}
	file, err := os.Open(filepath.Join(dir, "data", name))
	if err != nil {
		t.Skipf("real images are not here: %v; set L2UL_SHARED to the folder that holds data/%s", err, name)
	}
	defer file.Close()
	var archive io.Reader = file
	if strings.HasSuffix(name, ".zst") {
		plain, err := zstd.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		archive = plain
	}
	var images [][]byte
	count := 0
	for members := tar.NewReader(archive); ; {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			return images
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(members)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg && bytes.HasPrefix(content, []byte{0xff, 0xd8}) {
			if count++; count%step == 0 {
				images = append(images, content)
			}
		}
	}
}

func TestPhotographs(t *testing.T) {
	for _, tc := range []struct {
		archive     string
		step, least int
	}{{"imagenet-samples.tar", 1, 61}, {"cifar10-jpeg.tar.zst", 20, 3000}} {
		t.Run(tc.archive, func(t *testing.T) {
			images := photographs(t, tc.archive, tc.step)
			rng := rand.New(rand.NewPCG(3, 4))
			for _, content := range images {
				width, height, err := Size(content)
				if err != nil {
					t.Fatal(err)
				}
				middle := image.Rect(width/4, height/4, width/4*3, height/4*3)
				compare(t, tc.archive, content, width, height, middle, randomPart(rng, width, height))
			}
			if len(images) < tc.least {
				t.Errorf("%d images, want %d", len(images), tc.least)
			}
		})
	}
}

func BenchmarkPhotographs(b *testing.B) {
	images := photographs(b, "imagenet-samples.tar", 1)
	var wholes []image.Rectangle
	most, size := 0, 0
	for _, content := range images {
		width, height, err := Size(content)
		if err != nil {
			b.Fatal(err)
		}
		wholes = append(wholes, image.Rect(0, 0, width, height))
		most, size = max(most, 4*width*height), size+len(content)
	}
	pixels := make([]byte, most)
	before := avx2
	defer func() { avx2 = before }()
	for _, by := range []struct {
		name   string
		avx2   bool
		decode func(dst, data []byte, part image.Rectangle) error
	}{
		{"libjpeg", true, libjpeg},
		{"ours", true, Decode},
		{"portable", false, Decode},
	} {
		b.Run(by.name, func(b *testing.B) {
			if avx2 = before; !by.avx2 {
				avx2 = 0
			}
			b.SetBytes(int64(size))
			for b.Loop() {
				for i, content := range images {
					if err := by.decode(pixels[:4*wholes[i].Dx()*wholes[i].Dy()], content, wholes[i]); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
