package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"l2ul/torch/ckpt/pickle"
)

func init() {
	Register(Dataset{
		Name:      "cifar10",
		Summary:   "CIFAR-10 from its official archive, binary or python version, packed or unpacked",
		Files:     true,
		Downloads: []Download{{"https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"}},
		Resembles: cifar10.resembles,
		Open:      cifar10.open,
	})
	Register(Dataset{
		Name:      "cifar100",
		Summary:   "CIFAR-100 from its official archive, binary or python version, packed or unpacked; --label coarse for its 20 superclasses",
		Files:     true,
		Downloads: []Download{{"https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"}},
		Labels:    true,
		Resembles: cifar100.resembles,
		Open:      openCIFAR100,
	})
}

// cifarPixels is the size of an image: 32x32, red plane first, which is NCHW already.
const cifarPixels = 3 * 32 * 32

// cifar describes one of the two datasets (https://www.cs.toronto.edu/~kriz/cifar.html).
type cifar struct {
	name     string
	classes  int
	records  map[string]int // images in each file of a split
	versions []cifarVersion
}

// cifarVersion is one of the forms in which a dataset is published.
type cifarVersion struct {
	folder  string // in the archive
	archive string
	files   map[string][]string // of a split, in order
	meta    string              // the file with the class names

	parse func(file string, content []byte) (cifarBatch, error)
	names func(file string, content []byte) ([]string, error)
}

// cifarBatch is the content of one file. names is nil where the file has none.
type cifarBatch struct {
	pixels []byte
	labels []int
	names  []string
}

var cifar10 = cifar{
	name: "cifar10", classes: 10, records: map[string]int{"train": 10000, "test": 10000},
	versions: []cifarVersion{
		{
			folder: "cifar-10-batches-bin", archive: "cifar-10-binary.tar.gz", meta: "batches.meta.txt",
			files: map[string][]string{
				"train": {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
				"test":  {"test_batch.bin"},
			},
			parse: binaryRecords(1, 0), names: textLines,
		},
		{
			folder: "cifar-10-batches-py", archive: "cifar-10-python.tar.gz", meta: "batches.meta",
			files: map[string][]string{
				"train": {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"},
				"test":  {"test_batch"},
			},
			parse: pickledBatch("labels"), names: pickledNames("label_names"),
		},
	},
}

// CIFAR-100 has two labels for each image.
var (
	cifar100       = cifar100By("fine", 100, 1)
	cifar100Coarse = cifar100By("coarse", 20, 0)
)

// cifar100By is CIFAR-100 with labels of a kind, of which so many are told apart and which are a record's byte at.
func cifar100By(kind string, classes, at int) cifar {
	return cifar{
		name: "cifar100", classes: classes, records: map[string]int{"train": 50000, "test": 10000},
		versions: []cifarVersion{
			{
				folder: "cifar-100-binary", archive: "cifar-100-binary.tar.gz", meta: kind + "_label_names.txt",
				files: map[string][]string{"train": {"train.bin"}, "test": {"test.bin"}},
				parse: binaryRecords(2, at), names: textLines,
			},
			{
				folder: "cifar-100-python", archive: "cifar-100-python.tar.gz", meta: "meta",
				files: map[string][]string{"train": {"train"}, "test": {"test"}},
				parse: pickledBatch(kind + "_labels"), names: pickledNames(kind + "_label_names"),
			},
		},
	}
}

func (c cifar) resembles(_ context.Context, l look) bool {
	return slices.ContainsFunc(c.versions, func(v cifarVersion) bool {
		first := v.files["train"][0]
		return l.has(v.archive, path.Join(v.folder, first)) || l.has(first) && l.has(v.meta)
	})
}

func openCIFAR100(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	switch src.Label {
	case "", "fine":
		return cifar100.open(ctx, src, splits)
	case "coarse":
		return cifar100Coarse.open(ctx, src, splits)
	}
	return nil, usagef("cifar100 has no labels %q: choose fine or coarse", src.Label)
}

func (c cifar) open(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	for _, split := range splits {
		if c.records[split] == 0 {
			return nil, unknownSplit(c.name, split, c.records)
		}
	}
	v, where, members, err := c.read(ctx, src.Dir, splits)
	if err != nil {
		return nil, err
	}
	metaFile := path.Join(where, v.meta)
	classes, err := v.names(metaFile, members[v.meta])
	if err != nil {
		return nil, err
	}
	if len(classes) != c.classes {
		return nil, inputf(metaFile, "%d class names, expected %d", len(classes), c.classes)
	}
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		s := &Set{Dataset: c.name, Split: split, Classes: classes, C: 3, H: 32, W: 32}
		for _, name := range v.files[split] {
			file := path.Join(where, name)
			b, err := v.parse(file, members[name])
			if err != nil {
				return nil, err
			}
			if len(b.labels) != c.records[split] {
				return nil, inputf(file, "%d images, expected %d", len(b.labels), c.records[split])
			}
			if j := slices.IndexFunc(b.labels, func(y int) bool { return y < 0 || y >= c.classes }); j >= 0 {
				return nil, inputf(file, "image %d has label %d, outside 0 to %d", j, b.labels[j], c.classes-1)
			}
			s.Pixels = append(s.Pixels, b.pixels...)
			s.Labels = append(s.Labels, b.labels...)
			s.Names = append(s.Names, b.names...)
		}
		if len(s.Names) != len(s.Labels) {
			s.Names = nil
		}
		sets[i] = s
	}
	return sets, nil
}

// read finds the version that is at dir (its archive, its folder, or the folder that holds one of them) and reads the
// files of the splits and the class names. where is what their names are relative to, for messages.
func (c cifar) read(ctx context.Context, dir string, splits []string) (
	v cifarVersion, where string, members map[string][]byte, err error,
) {
	info, err := os.Stat(dir)
	if err != nil {
		return v, "", nil, unreadable(err)
	}
	if !info.IsDir() {
		v, members, err = c.readArchive(ctx, dir, splits)
		return v, dir + ":" + v.folder, members, err
	}
	var looked []string
	for _, v := range c.versions {
		for _, folder := range []string{dir, filepath.Join(dir, v.folder)} {
			if isFile(filepath.Join(folder, v.meta)) || isFile(filepath.Join(folder, v.files["train"][0])) {
				members, err := readMembers(folder, v.wanted(splits))
				return v, folder, members, err
			}
		}
		looked = append(looked, v.folder, v.archive)
	}
	for _, v := range c.versions {
		if archive := filepath.Join(dir, v.archive); isFile(archive) {
			v, members, err := c.readArchive(ctx, archive, splits)
			return v, archive + ":" + v.folder, members, err
		}
	}
	return v, "", nil, inputf(dir, "no %s here: looked for %s%s", c.name, strings.Join(looked, ", "), folderHint(dir))
}

// folderHint helps people whose images are files.
func folderHint(dir string) string {
	if info, err := os.Stat(filepath.Join(dir, "train")); err == nil && info.IsDir() {
		return "; train/ is a folder: for images in train/<class>/ use --dataset imagefolder"
	}
	return ""
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

func (v cifarVersion) wanted(splits []string) []string {
	wanted := []string{v.meta}
	for split, files := range v.files {
		if slices.Contains(splits, split) {
			wanted = append(wanted, files...)
		}
	}
	return wanted
}

func readMembers(folder string, wanted []string) (map[string][]byte, error) {
	members := make(map[string][]byte, len(wanted))
	for _, name := range wanted {
		content, err := readFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		members[name] = content
	}
	return members, nil
}

// readArchive takes the version whose folder the archive holds.
func (c cifar) readArchive(ctx context.Context, archive string, splits []string) (
	v cifarVersion, members map[string][]byte, err error,
) {
	members = map[string][]byte{}
	err = walkTar(ctx, archive, func(name string, size int64, content io.Reader) error {
		folder, base := path.Base(path.Dir(name)), path.Base(name)
		i := slices.IndexFunc(c.versions, func(v cifarVersion) bool { return v.folder == folder })
		if i < 0 || v.folder != "" && v.folder != folder {
			return nil
		}
		v = c.versions[i]
		if !slices.Contains(v.wanted(splits), base) {
			return nil
		}
		blob, err := readMember(archive+":"+name, size, content)
		members[base] = blob
		return err
	})
	if err != nil {
		return v, nil, err
	}
	if v.folder == "" {
		return v, nil, inputf(archive, "no %s in this archive: it has no folder %s or %s; "+
			"for images in train/<class>/ use --dataset imagefolder",
			c.name, c.versions[0].folder, c.versions[1].folder)
	}
	for _, name := range v.wanted(splits) {
		if _, ok := members[name]; !ok {
			return v, nil, inputf(archive, "%s is missing from the archive", path.Join(v.folder, name))
		}
	}
	return v, members, nil
}

// binaryRecords parses records of one or two label bytes (CIFAR-100: coarse, then fine), of which that at an index counts, and
// an image.
func binaryRecords(labelBytes, at int) func(string, []byte) (cifarBatch, error) {
	record := labelBytes + cifarPixels
	return func(file string, content []byte) (cifarBatch, error) {
		n := len(content) / record
		if rest := len(content) % record; rest != 0 {
			return cifarBatch{}, inputf(file, "truncated: image %d at byte %d has %d of %d bytes", n, n*record, rest, record)
		}
		b := cifarBatch{pixels: make([]byte, 0, n*cifarPixels), labels: make([]int, 0, n)}
		for r := range slices.Chunk(content, record) {
			b.labels = append(b.labels, int(r[at]))
			b.pixels = append(b.pixels, r[labelBytes:]...)
		}
		return b, nil
	}
}

// textLines returns the lines that are not blank.
func textLines(_ string, content []byte) ([]string, error) {
	return strings.FieldsFunc(string(content), func(r rune) bool { return r == '\n' || r == '\r' }), nil
}

// pickledBatch parses a pickled dict with "data" (uint8 [n, 3072]), the labels under the given key, and "filenames".
func pickledBatch(labelKey string) func(string, []byte) (cifarBatch, error) {
	return func(file string, content []byte) (cifarBatch, error) {
		d, err := unpickle(file, content)
		if err != nil {
			return cifarBatch{}, err
		}
		value, _ := d.Get("data")
		pixels, ok := value.(*pickle.Array)
		if !ok || pixels.DType != "u1" || len(pixels.Shape) != 2 || pixels.Shape[1] != cifarPixels {
			return cifarBatch{}, inputf(file, `entry "data" is no uint8 array of n rows of %d pixels`, cifarPixels)
		}
		value, _ = d.Get(labelKey)
		labels, err := pickle.Ints(value)
		if err != nil {
			return cifarBatch{}, &InputError{Path: file, Msg: fmt.Sprintf("entry %q", labelKey), Err: err}
		}
		n := pixels.Shape[0]
		if len(labels) != n {
			return cifarBatch{}, inputf(file, "%d labels for %d images", len(labels), n)
		}
		b := cifarBatch{pixels: pixels.Data, labels: make([]int, n)}
		for i, y := range labels {
			b.labels[i] = int(y)
		}
		if value, ok := d.Get("filenames"); ok {
			if b.names, err = texts(value); err != nil || len(b.names) != n {
				return cifarBatch{}, inputf(file, `entry "filenames" is no list of %d names`, n)
			}
		}
		return b, nil
	}
}

// pickledNames parses a pickled dict with a list of class names under the key.
func pickledNames(key string) func(string, []byte) ([]string, error) {
	return func(file string, content []byte) ([]string, error) {
		d, err := unpickle(file, content)
		if err != nil {
			return nil, err
		}
		value, _ := d.Get(key)
		names, err := texts(value)
		if err != nil {
			return nil, inputf(file, "entry %q is no list of class names", key)
		}
		return names, nil
	}
}

func unpickle(file string, content []byte) (*pickle.Dict, error) {
	value, err := pickle.Load(bytes.NewReader(content), pickle.Options{Globals: pickle.NumPy()})
	if err != nil {
		return nil, &InputError{Path: file, Err: err}
	}
	d, ok := value.(*pickle.Dict)
	if !ok {
		return nil, inputf(file, "holds a %s, need a dict", pickle.TypeName(value))
	}
	return d, nil
}

var errNotTexts = errors.New("not a list of texts")

func texts(value any) ([]string, error) {
	list, ok := value.(*pickle.List)
	if !ok {
		return nil, errNotTexts
	}
	out := make([]string, len(list.Items))
	for i, item := range list.Items {
		if out[i], ok = pickle.Text(item); !ok {
			return nil, errNotTexts
		}
	}
	return out, nil
}
