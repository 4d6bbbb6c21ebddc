package data

import "testing"

func TestSTL10(t *testing.T) {
	packed := fixture(t, "stl10/stl10_binary.tar.gz")
	dir := writeTree(t, map[string]string{"stl10_binary.tar.gz": packed})
	for _, src := range []Source{{Dir: dir}, {Dir: dir + "/stl10_binary.tar.gz"}} {
		checkReference(t, "stl10", src, "stl10", "cat")
	}
	content, err := readPacked(t.Context(), dir+"/stl10_binary.tar.gz", "stl10_binary", []string{"train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for name, c := range content {
		files[name] = string(c)
	}
	checkReference(t, "stl10", Source{Dir: writeTree(t, files)}, "stl10", "cat")
	checkReference(t, "stl10", Source{Dir: writeTree(t, under("stl10_binary", files))}, "stl10", "cat")

	for _, c := range []struct {
		files map[string]string
		says  string
	}{
		{with(files, "train_X.bin", files["train_X.bin"][:5000]), "train_X.bin: 5000 bytes for 2 labels in train_y.bin; an image has 27648"},
		{with(files, "train_y.bin", "\x01"), "55296 bytes for 1 labels"},
		{with(files, "train_y.bin", "\x01\x00"), "train_y.bin: image 1 has label 0, outside 1 to 10"},
		{with(files, "train_y.bin", "\x0b\x01"), "image 0 has label 11"},
		{with(files, "train_X.bin", "", "train_y.bin", ""), "holds no images"},
		{map[string]string{"stl10_binary.tar.gz": packed[:len(packed)/3]}, "corrupt or truncated archive"},
		{map[string]string{"x": ""}, "no stl10 here: looked for train_X.bin, stl10_binary and stl10_binary.tar.gz"},
	} {
		refuses(t, "stl10", Source{Dir: writeTree(t, c.files)}, "train", c.says)
	}
	dir = packTar(t, "stl10_binary.tar.gz", under("stl10_binary", map[string]string{"train_X.bin": files["train_X.bin"]}))
	refuses(t, "stl10", Source{Dir: dir}, "train", "stl10_binary/train_y.bin is missing from the archive")
}
