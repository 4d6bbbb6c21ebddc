package data

import (
	"strings"
	"testing"
)

func TestSVHN(t *testing.T) {
	files := fixtures(t, "svhn/train_32x32.mat", "svhn/test_32x32.mat") // the second is not compressed
	checkReference(t, "svhn", Source{Dir: writeTree(t, files)}, "svhn", "3")

	const name = "test_32x32.mat"
	plain := files[name]
	labelled := func(y string) string { // with y in place of the first label, 10
		return strings.Replace(plain, "\x00\x00\x24\x40\x00\x00\x00\x00\x00\x00\x08\x40", y+"\x00\x00\x00\x00\x00\x00\x08\x40", 1)
	}
	for _, c := range []struct{ content, says string }{
		{plain[:1000], "unexpected EOF"},
		{plain[:20], "not a little-endian MATLAB 5 file"},
		{strings.Replace(plain, "\x01\x00\x01\x00X\x00\x00\x00", "\x01\x00\x01\x00Z\x00\x00\x00", 1), "it lacks the array of images, X"},
		{labelled("\x00\x00\x26\x40"), "image 0 has label 11"},
		{labelled("\x00\x00\x25\x40"), "image 0 has label 10.5"},
		{strings.Replace(plain, "\x20\x00\x00\x00\x20\x00\x00\x00\x03", "\x10\x00\x00\x00\x40\x00\x00\x00\x03", 1), "array X: class 9 of shape [16 64 3 3], need uint8 of [32 32 3 n]"},
		{files["train_32x32.mat"][:500], "EOF"},
	} {
		refuses(t, "svhn", Source{Dir: writeTree(t, with(files, name, c.content))}, "test", name, c.says)
	}
	refuses(t, "svhn", Source{Dir: t.TempDir()}, "train", "train_32x32.mat: no such file")
}

func FuzzSVHN(f *testing.F) {
	for _, file := range fixtures(f, "svhn/train_32x32.mat", "svhn/test_32x32.mat") {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		pixels, labels, err := parseSVHN(content)
		if err == nil && len(pixels) != len(labels)*3*svhnSize*svhnSize {
			t.Errorf("%d bytes of pixels, %d labels", len(pixels), len(labels))
		}
	})
}
