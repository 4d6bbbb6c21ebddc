package jpeg

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
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

// The sums are of Pillow's pixels, printed by testdata/make.py.
var samples = []struct{ name, sum string }{
	{"420.jpg", "41bb93e488a875294bc0feec1a01fc7030638b08972cf0b8bf9b7a6be20cbcd9"},
	{"422.jpg", "7327e675a9eb2f04a3315ebffb5b288eaa8f5e4d55a8b9a9b58dbc76e956021b"},
	{"444.jpg", "3a5e446b153dc31c4823b1348f4a442982587703876fe96e94c2429312b8b4d7"},
	{"progressive.jpg", "fdde123a86c77d03e9d1c42521796f43800553ae1484b7b83e41930ad9c790b3"},
	{"restart.jpg", "41bb93e488a875294bc0feec1a01fc7030638b08972cf0b8bf9b7a6be20cbcd9"},
	{"grey.jpg", "9d94c17e66f58000f1b271ab51369768f0f497b579b51a97c0aa80e25859eba3"},
	{"cmyk.jpg", "0d641bc5405a17217fce46f5b0a4ee3fe25182931f36e23ebc63a2de454e6c94"},
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
		dst := make([]byte, 3*37*23)
		if err := Decode(dst, content, 37, 23); err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		sum := sha256.Sum256(dst)
		if got := hex.EncodeToString(sum[:]); got != s.sum {
			t.Errorf("%s: sha256 of the pixels %s, Pillow's %s", s.name, got, s.sum)
		}
	}
}

func TestDecodeTruncated(t *testing.T) {
	for _, name := range []string{"420.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"} {
		content := read(t, name)
		dst := make([]byte, 3*37*23)
		// The last two bytes are the end marker; all pixels of a sequential image are there without it.
		for n := range len(content) - 2 {
			var broken *Error
			if err := Decode(dst, content[:n], 37, 23); !errors.As(err, &broken) {
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
		{"another size", edit("420.jpg", func(b []byte, at int) []byte {
			binary.BigEndian.PutUint16(b[at+5:], 24)
			return b
		}), "37 x 24 pixels, need 37 x 23"},
		{"12 bits", edit("420.jpg", func(b []byte, at int) []byte { b[at+4] = 12; return b }), "precision"},
		{"no tables", edit("420.jpg", func(b []byte, at int) []byte { return append(b[:2:2], b[at:]...) }), "not defined"},
		{"zeros for data", edit("420.jpg", func(b []byte, _ int) []byte {
			clear(b[bytes.Index(b, []byte{0xff, 0xda})+14:])
			return b
		}), "Premature end"},
	} {
		var broken *Error
		err := Decode(make([]byte, 3*37*23), tc.content, 37, 23)
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
	dst := make([]byte, 3*8*8)
	if err := Decode(dst, progressive(400), 8, 8); err != nil {
		t.Errorf("400 scans: %v", err)
	}
	if err := Decode(dst, progressive(700), 8, 8); err == nil || !strings.Contains(err.Error(), "more than 500 scans") {
		t.Errorf("700 scans: %v", err)
	}
}

func TestTrailingBytesAreIgnored(t *testing.T) {
	content := append(read(t, "420.jpg"), "appended by a camera"...)
	if err := Decode(make([]byte, 3*37*23), content, 37, 23); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range samples {
		f.Add(read(f, s.name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		width, height, err := Size(content)
		if err != nil || width*height > 1<<16 {
			return
		}
		const guard = 64
		buffer := bytes.Repeat([]byte{0xa5}, guard+3*width*height+guard)
		dst := buffer[guard : guard+3*width*height]
		_ = Decode(dst, content, width, height)
		edges := append(bytes.Clone(buffer[:guard]), buffer[guard+3*width*height:]...)
		if !bytes.Equal(edges, bytes.Repeat([]byte{0xa5}, 2*guard)) {
			t.Error("wrote outside the destination")
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	content := read(b, "420.jpg")
	dst := make([]byte, 3*37*23)
	for b.Loop() {
		if err := Decode(dst, content, 37, 23); err != nil {
			b.Fatal(err)
		}
	}
}
