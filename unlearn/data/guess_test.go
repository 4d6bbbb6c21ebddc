package data

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGuess(t *testing.T) {
	classes := func(dir string, names ...string) (files []string) {
		for _, n := range names {
			files = append(files, dir+"/"+n+"/0.jpg")
		}
		return files
	}
	wnids := func(dir string, n int) (files []string) {
		for i := range n {
			files = append(files, fmt.Sprintf("%s/n%08d/0.JPEG", dir, i))
		}
		return files
	}
	ten := []string{"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
	for _, c := range []struct {
		files []string
		at    string // below the folder
		want  string
	}{
		{[]string{"cifar-10-python.tar.gz"}, "", "cifar10"},
		{[]string{"cifar-10-python.tar.gz"}, "cifar-10-python.tar.gz", "cifar10"},
		{[]string{"cifar-10-batches-py/data_batch_1"}, "", "cifar10"},
		{[]string{"data_batch_1.bin", "batches.meta.txt"}, "", "cifar10"},
		{[]string{"cifar-100-python/train"}, "", "cifar100"},
		{[]string{"train", "meta"}, "", "cifar100"},
		{[]string{"cifar-10-python.tar.gz", "cifar-100-python.tar.gz"}, "", "cifar10 cifar100"},
		{[]string{"MNIST/raw/train-images-idx3-ubyte.gz"}, "", "mnist"},
		{[]string{"FashionMNIST/raw/train-images-idx3-ubyte"}, "FashionMNIST/raw", "fashion-mnist"},
		{[]string{"kmnist/train-images-idx3-ubyte.gz"}, "kmnist", "kmnist"},
		{[]string{"train-images-idx3-ubyte"}, "", "fashion-mnist kmnist mnist"},
		{[]string{"train_32x32.mat"}, "", "svhn"},
		{[]string{"stl10_binary/train_X.bin"}, "", "stl10"},
		{[]string{"img_align_celeba/0.jpg", "list_attr_celeba.csv"}, "", "celeba"},
		{[]string{"1_0_2_x.jpg", "26_1_0_y.jpg"}, "", "utkface"},
		{[]string{"1_0_2_x.jpg", "cat.jpg"}, "", ""},
		{classes("train", "cat", "dog"), "", "imagefolder"},
		{append(classes("train", ten...), classes("valid", ten...)...), "", "cinic10"},
		{append(wnids("train", 1000), "val/x.JPEG"), "", "imagenet"},
		{wnids("train", 10), "", "imagefolder"},
		{[]string{"train/n01443537/images/x.JPEG", "val/val_annotations.txt"}, "", "tiny-imagenet"},
		{wnids(".", 200), "", "imagenet-a"},
		{classes(".", "cat", "dog"), "", "folder"},
		{[]string{"train.csv", "a.jpg"}, "", "csv"},
		{[]string{"data/train-00000-of-00001.parquet"}, "", "parquet"},
		{[]string{"data/train-00000-of-00001.parquet"}, "data/train-00000-of-00001.parquet", "parquet"},
		{[]string{"x.txt"}, "x-{train,val}.parquet", "parquet"},
		{[]string{"train-000.tar"}, "", "webdataset"},
		{[]string{"x.txt"}, "train-{000..127}.tar", "webdataset"},
		{append(classes("train", "cat", "dog"), "train-000.tar"), "", "imagefolder webdataset"},
		{[]string{"notes.txt"}, "", ""},
		{[]string{"notes.txt"}, "absent", ""},
	} {
		dir := t.TempDir()
		for _, name := range c.files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(Guess(t.Context(), filepath.Join(dir, c.at)), " "); got != c.want {
			t.Errorf("%v, %q: %q, want %q", c.files[:min(3, len(c.files))], c.at, got, c.want)
		}
	}
}

// The folder that one is in has the name that it has from outside.
func TestGuessHere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "KMNIST", "raw")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "train-images-idx3-ubyte"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if got := strings.Join(Guess(t.Context(), "."), " "); got != "kmnist" {
		t.Error(got)
	}
}

// A tar archive is an image folder if its images lie in folders of classes, else a shard.
func TestGuessArchive(t *testing.T) {
	for first, want := range map[string]string{
		"pets/train/cat/1.jpg": "imagefolder", "train/cat/1.png": "imagefolder", "0001.jpg": "webdataset", "0001.cls": "webdataset",
	} {
		path := filepath.Join(t.TempDir(), "x.tar")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(f)
		if err := w.WriteHeader(&tar.Header{Name: first, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(Guess(t.Context(), path), " "); got != want {
			t.Errorf("%s: %q, want %q", first, got, want)
		}
	}
}
