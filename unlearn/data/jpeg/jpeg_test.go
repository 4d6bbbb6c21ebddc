package jpeg

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// whole decodes all of a 37 x 23 image to three planes.
func whole(content []byte) ([]byte, error) {
	pixels, planes := make([]byte, 4*37*23), make([]byte, 3*37*23)
	err := Decode(pixels, content, image.Rect(0, 0, 37, 23))
	for i := range 37 * 23 {
		for c := range 3 {
			planes[c*37*23+i] = pixels[4*i+c]
		}
	}
	return planes, err
}

// The sums are of Pillow's pixels, printed by testdata/make.py.
var samples = []struct{ name, sum string }{
	{"420.jpg", "41bb93e488a875294bc0feec1a01fc7030638b08972cf0b8bf9b7a6be20cbcd9"},
	{"422.jpg", "7327e675a9eb2f04a3315ebffb5b288eaa8f5e4d55a8b9a9b58dbc76e956021b"},
	{"444.jpg", "3a5e446b153dc31c4823b1348f4a442982587703876fe96e94c2429312b8b4d7"},
	{"progressive.jpg", "fdde123a86c77d03e9d1c42521796f43800553ae1484b7b83e41930ad9c790b3"},
	{"restart.jpg", "41bb93e488a875294bc0feec1a01fc7030638b08972cf0b8bf9b7a6be20cbcd9"},
	{"grey.jpg", "9d94c17e66f58000f1b271ab51369768f0f497b579b51a97c0aa80e25859eba3"},
	{"cmyk.jpg", "0d641bc5405a17217fce46f5b0a4ee3fe25182931f36e23ebc63a2de454e6c94"},
	{"rotated.jpg", "41bb93e488a875294bc0feec1a01fc7030638b08972cf0b8bf9b7a6be20cbcd9"}, // EXIF says so; nobody turns it
	{"ycck.jpg", "aca3c8b2963d87d758c6078265be45a0a0462e6799ae4550ee62ae50c8e283a6"},
}

func TestDecode(t *testing.T) {
	for _, s := range samples {
		content := read(t, s.name)
		width, height, err := Size(content)
		if err != nil || width != 37 || height != 23 {
			t.Errorf("%s: size %d x %d, error %v; want 37 x 23", s.name, width, height, err)
			continue
		}
		planes, err := whole(content)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		sum := sha256.Sum256(planes)
		if got := hex.EncodeToString(sum[:]); got != s.sum {
			t.Errorf("%s: sha256 of the pixels %s, Pillow's %s", s.name, got, s.sum)
		}
	}
}

func TestDecodeTruncated(t *testing.T) {
	for _, name := range []string{"420.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"} {
		content := read(t, name)
		// The last two bytes are the end marker; all pixels of a sequential image are there without it.
		for n := range len(content) - 2 {
			var broken *Error
			if _, err := whole(content[:n]); !errors.As(err, &broken) {
				t.Fatalf("%s cut to %d of %d bytes: error %v", name, n, len(content), err)
			} else if broken.Offset < 0 || broken.Offset > n {
				t.Errorf("%s cut to %d bytes: error at byte %d", name, n, broken.Offset)
			}
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	edit := func(name string, change func(b []byte, frame int) []byte) []byte {
		b := bytes.Clone(read(t, name))
		frame := max(bytes.Index(b, []byte{0xff, 0xc0}), bytes.Index(b, []byte{0xff, 0xc2}))
		return change(b, frame)
	}
	for _, tc := range []struct {
		name    string
		content []byte
		says    string
	}{
		{"no data", nil, "no data"},
		{"text", []byte("hello, world"), "Not a JPEG"},
		{"smaller than the part", edit("420.jpg", func(b []byte, at int) []byte {
			binary.BigEndian.PutUint16(b[at+5:], 22)
			return b
		}), "37 x 22 pixels, need 37 x 23"},
		{"12 bits", edit("420.jpg", func(b []byte, at int) []byte { b[at+4] = 12; return b }), "precision"},
		{"no tables", edit("420.jpg", func(b []byte, at int) []byte { return append(b[:2:2], b[at:]...) }), "not defined"},
		{"zeros for data", edit("420.jpg", func(b []byte, _ int) []byte {
			clear(b[bytes.Index(b, []byte{0xff, 0xda})+14:])
			return b
		}), "Premature end"},
	} {
		var broken *Error
		_, err := whole(tc.content)
		if !errors.As(err, &broken) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: error %v does not say %q", tc.name, err, tc.says)
		}
	}
}

func TestSizeIsBounded(t *testing.T) {
	huge := bytes.Clone(read(t, "420.jpg"))
	at := bytes.Index(huge, []byte{0xff, 0xc0})
	binary.BigEndian.PutUint16(huge[at+5:], 60000)
	binary.BigEndian.PutUint16(huge[at+7:], 60000)
	if _, _, err := Size(huge); err == nil || !strings.Contains(err.Error(), "60000 x 60000") {
		t.Errorf("error %v", err)
	}
}

// progressive returns a valid grey 8x8 image whose coefficients arrive bit by bit in the given number of scans.
func progressive(scans int) []byte {
	table := append([]byte{1}, make([]byte, 16)...) // the one code "0": difference 0, or end of block
	b := []byte{0xff, 0xd8, 0xff, 0xdb, 0, 67, 0}
	b = append(b, bytes.Repeat([]byte{1}, 64)...)
	b = append(b, 0xff, 0xc2, 0, 11, 8, 0, 8, 0, 8, 1, 1, 0x11, 0)
	b = append(append(b, 0xff, 0xc4, 0, 20, 0x00), table...)
	b = append(append(b, 0xff, 0xc4, 0, 20, 0x10), table...)
	const top = 10 // the highest bit that a scan may begin with
	for i := range scans {
		coefficient, low := byte(i/(top+1)), byte(top-i%(top+1))
		high := low + 1
		if low == top {
			high = 0
		}
		b = append(b, 0xff, 0xda, 0, 8, 1, 1, 0x00, coefficient, coefficient, high<<4|low, 0x7f)
	}
	return append(b, 0xff, 0xd9)
}

func TestScansAreBounded(t *testing.T) {
	dst := make([]byte, 4*8*8)
	if err := Decode(dst, progressive(400), image.Rect(0, 0, 8, 8)); err != nil {
		t.Errorf("400 scans: %v", err)
	}
	if err := Decode(dst, progressive(700), image.Rect(0, 0, 8, 8)); err == nil || !strings.Contains(err.Error(), "more than 500 scans") {
		t.Errorf("700 scans: %v", err)
	}
}

func TestTrailingBytesAreIgnored(t *testing.T) {
	content := append(read(t, "420.jpg"), "appended by a camera"...)
	if _, err := whole(content); err != nil {
		t.Error(err)
	}
}

// resampled is an image with sampling factors that Pillow does not write: factors and size of the luminance are changed in
// the header such that the same blocks make another image.
func resampled(t *testing.T, name string, factors byte, width, height uint16) []byte {
	content := bytes.Clone(read(t, name))
	at := bytes.Index(content, []byte{0xff, 0xc0})
	if at < 0 {
		t.Fatalf("%s is no sequential image", name)
	}
	frame := content[at:]
	binary.BigEndian.PutUint16(frame[5:], height)
	binary.BigEndian.PutUint16(frame[7:], width)
	frame[11] = factors
	return content
}

// Every part of an image must have the pixels of the whole image decoded.
func TestDecodePart(t *testing.T) {
	images := map[string][]byte{
		"4:4:0": resampled(t, "422.jpg", 0x12, 24, 45), // 3 x 3 units of 8 x 16 pixels
		"4:1:1": resampled(t, "420.jpg", 0x41, 60, 22), // 2 x 3 units of 32 x 8
		"4:1:0": resampled(t, "420.jpg", 0x14, 22, 60),
	}
	for _, s := range samples {
		images[s.name] = read(t, s.name)
	}
	for name, content := range images {
		width, height, err := Size(content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all := make([]byte, 4*width*height)
		if err := Decode(all, content, image.Rect(0, 0, width, height)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		check := func(part image.Rectangle) {
			t.Helper()
			got := make([]byte, 4*part.Dx()*part.Dy())
			if err := Decode(got, content, part); err != nil {
				t.Fatalf("%s: %v: %v", name, part, err)
			}
			for y := range part.Dy() {
				for x := range part.Dx() {
					p := got[4*(y*part.Dx()+x):][:3]
					if q := all[4*((y+part.Min.Y)*width+x+part.Min.X):][:3]; !bytes.Equal(p, q) {
						t.Fatalf("%s: %v: pixel (%d, %d) of the part is %v, in the whole image %v", name, part, x, y, p, q)
					}
				}
			}
		}
		for from := range max(width, height) {
			for to := from + 1; to <= max(width, height); to++ {
				if to <= width {
					check(image.Rect(from, 0, to, height))
					check(image.Rect(from, height/2, to, height/2+1))
				}
				if to <= height {
					check(image.Rect(0, from, width, to))
					check(image.Rect(width/3, from, width/3+5, to))
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range samples {
		f.Add(read(f, s.name), uint16(3), uint16(17), uint16(1), uint16(20))
	}
	for seed := range uint64(20) {
		content, _, _ := draw(seed)
		f.Add(content, uint16(0), uint16(20), uint16(3), uint16(9))
	}
	f.Fuzz(func(t *testing.T, content []byte, x0, x1, y0, y1 uint16) {
		width, height, err := Size(content)
		if err != nil || width*height > 1<<16 {
			return
		}
		whole := image.Rect(0, 0, width, height)
		agree(t, content, whole, height)
		if part := whole.Intersect(image.Rect(int(x0), int(y0), int(x1), int(y1))); !part.Empty() {
			agree(t, content, part, height)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	content := read(b, "420.jpg")
	for b.Loop() {
		if _, err := whole(content); err != nil {
			b.Fatal(err)
		}
	}
}
