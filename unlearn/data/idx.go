package data

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

func init() {
	for _, d := range []idx{
		{"mnist", "MNIST", "MNIST: ten handwritten digits", "https://ossci-datasets.s3.amazonaws.com/mnist", [4]string{
			"f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432", "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c",
		}, []string{
			"0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine",
		}},
		{"fashion-mnist", "FashionMNIST", "Fashion-MNIST: ten kinds of clothes", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", [4]string{
			"8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe", "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310",
		}, []string{
			"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
		}},
		{"kmnist", "KMNIST", "Kuzushiji-MNIST: ten hiragana", "http://codh.rois.ac.jp/kmnist/dataset/kmnist", [4]string{
			"bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344", "5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134",
		}, []string{"o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"}},
	} {
		Register(Dataset{
			Name:      d.name,
			Summary:   d.summary + ", from its official files (train-images-idx3-ubyte and so on), packed or not",
			Files:     true,
			Downloads: d.downloads(),
			Resembles: d.resembles,
			Open:      d.open,
		})
	}
}

// idx is a dataset in the format of MNIST (http://yann.lecun.com/exdb/mnist), whose grey images become three equal channels.
// The class names are those of torchvision.
type idx struct {
	name    string
	folder  string // where torchvision keeps it: <folder>/raw
	summary string
	address string
	sums    [4]string // md5 of the files there, training images, training labels, test images, test labels
	classes []string
}

func (d idx) downloads() (files []Download) {
	names := []string{"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"}
	for i, name := range names {
		files = append(files, Download{d.address + "/" + name, d.sums[i]})
	}
	return files
}

// idxFolders are the names that folders of these datasets have, whose files all have the same.
var idxFolders = []string{"mnist", "fashion-mnist", "fashionmnist", "kmnist"}

func (d idx) resembles(_ context.Context, l look) bool {
	if l.has(d.folder+"/raw/train-images-idx3-ubyte", d.folder+"/raw/train-images-idx3-ubyte.gz") {
		return true
	}
	here := []string{"train-images-idx3-ubyte", "train-images.idx3-ubyte", "train-images-idx3-ubyte.gz"}
	if !l.has(here...) && !l.has("raw/"+here[0], "raw/"+here[1], "raw/"+here[2]) {
		return false
	}
	dir, err := filepath.Abs(l.dir) // . has a name as well
	if err != nil {
		return true
	}
	var named []string
	for part := range strings.SplitSeq(strings.ToLower(filepath.ToSlash(dir)), "/") {
		if slices.Contains(idxFolders, part) {
			named = append(named, part)
		}
	}
	return named == nil || slices.Contains(named, d.name) || slices.Contains(named, strings.ToLower(d.folder))
}

func (d idx) open(_ context.Context, src Source, splits []string) ([]*Set, error) {
	stems := map[string]string{"train": "train", "test": "t10k"}
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		stem, ok := stems[split]
		if !ok {
			return nil, unknownSplit(d.name, split, stems)
		}
		images, imagesFile, err := d.read(src, stem+"-images", 3)
		if err != nil {
			return nil, err
		}
		labels, labelsFile, err := d.read(src, stem+"-labels", 1)
		if err != nil {
			return nil, err
		}
		n, h, w := images.shape[0], images.shape[1], images.shape[2]
		if labels.shape[0] != n {
			return nil, inputf(labelsFile, "%d labels for the %d images of %s", labels.shape[0], n, imagesFile)
		}
		s := &Set{Dataset: d.name, Split: split, Classes: d.classes, C: 3, H: h, W: w, Labels: make([]int, n)}
		for j, y := range labels.data {
			s.Labels[j] = int(y)
		}
		s.Pixels = make([]byte, 0, s.bytes())
		for at := 0; at < len(images.data); at += h * w {
			grey := images.data[at : at+h*w]
			s.Pixels = append(append(append(s.Pixels, grey...), grey...), grey...)
		}
		sets[i] = s
	}
	return sets, nil
}

// read finds the file of a stem and reads its array of so many dimensions.
func (d idx) read(src Source, stem string, dimensions int) (a idxArray, file string, err error) {
	f := src.folder()
	suffix := fmt.Sprintf("idx%d-ubyte", dimensions)
	for _, sub := range []string{".", d.folder + "/raw", "raw"} {
		// Some programs put a dot before the suffix when they unpack the files.
		for _, name := range []string{stem + "-" + suffix, stem + "." + suffix, stem + "-" + suffix + ".gz"} {
			if name = sub + "/" + name; sub == "." {
				name = strings.TrimPrefix(name, "./")
			}
			if !f.has(name) {
				continue
			}
			content, err := f.read(name)
			if err == nil && strings.HasSuffix(name, ".gz") {
				if content, err = gunzip(content); err != nil {
					err = &InputError{Path: f.path(name), Err: err}
				}
			}
			if err != nil {
				return a, "", err
			}
			if a, err = parseIDX(content, dimensions); err != nil {
				err = &InputError{Path: f.path(name), Err: err}
			}
			return a, f.path(name), err
		}
	}
	if _, err := f.stat("."); err != nil {
		return a, "", err
	}
	return a, "", inputf(src.Dir, "no %s here: looked for %s-%s, plain or .gz, there and in %s/raw", d.name, stem, suffix, d.folder)
}

// idxArray is an array of bytes, row by row.
type idxArray struct {
	shape []int
	data  []byte
}

// parseIDX reads an array of uint8: two bytes 0, the type 8, the number of dimensions, each size as big-endian uint32, and the
// values.
func parseIDX(content []byte, dimensions int) (a idxArray, err error) {
	header := 4 + 4*dimensions
	if len(content) < header {
		return a, fmt.Errorf("%d bytes are no IDX file of %d dimensions, whose header has %d", len(content), dimensions, header)
	}
	if magic, want := binary.BigEndian.Uint32(content), uint32(8<<8|dimensions); magic != want {
		return a, fmt.Errorf("it begins with %#08x; an IDX file of uint8 in %d dimensions begins with %#08x", magic, dimensions, want)
	}
	a.data = content[header:]
	size := int64(1)
	for at := 4; at < header; at += 4 {
		n := int64(binary.BigEndian.Uint32(content[at:]))
		if n == 0 {
			return a, errors.New("an array of no elements")
		}
		a.shape = append(a.shape, int(n))
		if size *= n; size > int64(len(a.data)) {
			break
		}
	}
	if size != int64(len(a.data)) {
		return a, fmt.Errorf("%d bytes follow the header, which says otherwise (sizes %d)", len(a.data), a.shape)
	}
	return a, nil
}
