package data

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"testing"
)

func TestIDX(t *testing.T) {
	files := fixtures(t, "idx/train-images-idx3-ubyte", "idx/train-labels-idx1-ubyte", "idx/t10k-images-idx3-ubyte", "idx/t10k-labels-idx1-ubyte")
	packed, dotted := map[string]string{}, map[string]string{}
	for name, content := range files {
		packed[name+".gz"] = gzipped(t, content)
		dotted[name[:len(name)-len("-idx3-ubyte")]+"."+name[len(name)-len("idx3-ubyte"):]] = content
	}
	for _, d := range []struct {
		dataset string
		dir     string
		class   string // the fourth
	}{
		{"mnist", writeTree(t, files), "3 - three"},
		{"mnist", writeTree(t, dotted), "3 - three"},
		{"kmnist", writeTree(t, packed), "tsu"},
		{"fashion-mnist", writeTree(t, under("FashionMNIST/raw", packed)), "Dress"},
	} {
		checkReference(t, d.dataset, Source{Dir: d.dir}, "mnist", d.class)
	}

	const images, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
	for _, c := range []struct {
		files map[string]string
		says  string
	}{
		{with(files, images, files[images][:100]), images + ": 84 bytes follow the header"},
		{with(files, images, files[images]+"x"), "which says otherwise (sizes [4 28 28])"},
		{with(files, images, files[images][:15]), "15 bytes are no IDX file of 3 dimensions, whose header has 16"},
		{with(files, images, files[labels]), images + ": "},
		{with(files, labels, files[labels][:3]+"\x01"+"\x00\x00\x00\x01\x07"), "1 labels for the 4 images of "},
		{with(files, labels, files[labels][:len(files[labels])-1]+"\x0a"), "has label 10"},
		{with(files, labels, "\x00\x00\x08\x01\x00\x00\x00\x00"), "no elements"},
		{with(packed, images+".gz", packed[images+".gz"][:200]), "unexpected EOF"},
		{map[string]string{"x": ""}, "no mnist here"},
	} {
		refuses(t, "mnist", Source{Dir: writeTree(t, c.files)}, "train", c.says)
	}
	refuses(t, "mnist", Source{Dir: "/does/not/exist"}, "train", "no such file")
}

func gzipped(t testing.TB, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// under returns files in a folder.
func under(dir string, files map[string]string) map[string]string {
	all := map[string]string{}
	for name, content := range files {
		all[dir+"/"+name] = content
	}
	return all
}

func FuzzIDX(f *testing.F) {
	for _, file := range fixtures(f, "idx/train-images-idx3-ubyte", "idx/train-labels-idx1-ubyte") {
		f.Add([]byte(file), uint8(3))
		f.Add([]byte(file), uint8(1))
	}
	f.Add(binary.BigEndian.AppendUint64([]byte{0, 0, 8, 2}, 0xffffffffffffffff), uint8(2))
	f.Fuzz(func(t *testing.T, content []byte, dimensions uint8) {
		a, err := parseIDX(content, 1+int(dimensions)%4)
		if err != nil {
			return
		}
		n := 1
		for _, size := range a.shape {
			n *= size
		}
		if n != len(a.data) || len(a.shape) != 1+int(dimensions)%4 {
			t.Errorf("shape %d with %d values", a.shape, len(a.data))
		}
	})
}
