package data

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const smallRecords = 3 // images in each file of the small twins of the archives

// small returns the dataset with few images a file, which the real ones do not allow.
func (c cifar) small() cifar {
	c.records = map[string]int{"train": smallRecords, "test": smallRecords}
	return c
}

// smallImage returns label and pixels of image i of a file; different everywhere.
func smallImage(file string, i, classes int) (label int, pixels []byte) {
	pixels = make([]byte, cifarPixels)
	for j := range pixels {
		pixels[j] = byte(j*7 + j/256 + 31*i + len(file) + int(file[len(file)-1]))
	}
	return (3*i + int(file[len(file)-1])) % classes, pixels
}

// stem is the name of a file without what tells the versions apart.
func stem(file string) string { return strings.TrimSuffix(file, ".bin") }

// py2 writes pickles as CPython 2 wrote those of the archives.
type py2 struct{ bytes.Buffer }

func (p *py2) text(s string) { fmt.Fprintf(p, "U%c%s", len(s), s) }

func (p *py2) list(n int, item func(i int)) {
	p.WriteString("](")
	for i := range n {
		item(i)
	}
	p.WriteString("e")
}

func (p *py2) array(rows int, data []byte) {
	p.WriteString("cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01")
	fmt.Fprintf(p, "K%cM\x00\x0c\x86", rows)
	p.WriteString("cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T")
	p.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(data))))
	p.Write(data)
	p.WriteString("tb")
}

// smallFiles makes the files of one version of the archive.
func (c cifar) smallFiles(v cifarVersion) map[string]string {
	files := map[string]string{v.folder + "/readme.html": "<html>"}
	var names []string
	for i := range c.classes {
		names = append(names, fmt.Sprintf("class %d", i))
	}
	pickled := !strings.HasSuffix(v.files["test"][0], ".bin")
	if !pickled {
		files[v.folder+"/"+v.meta] = strings.Join(names, "\n") + "\n\n"
		files[v.folder+"/coarse_label_names.txt"] = coarseNames()
	} else {
		var p py2
		p.WriteString("\x80\x02}(")
		p.text("num_vis")
		p.WriteString("M\x00\x0c")
		p.text(map[int]string{10: "label_names", 100: "fine_label_names"}[c.classes])
		p.list(len(names), func(i int) { p.text(names[i]) })
		if c.classes == 100 {
			p.text("coarse_label_names")
			p.list(20, func(i int) { p.text(fmt.Sprintf("superclass %d", i)) })
		}
		p.WriteString("u.")
		files[v.folder+"/"+v.meta] = p.String()
	}
	for _, file := range slices.Concat(v.files["train"], v.files["test"]) {
		var labels []int
		var data, records []byte
		for i := range smallRecords {
			y, pixels := smallImage(stem(file), i, c.classes)
			labels = append(labels, y)
			data = append(data, pixels...)
			if c.classes == 100 {
				records = append(records, byte(y/5)) // the coarse label
			}
			records = append(append(records, byte(y)), pixels...)
		}
		if !pickled {
			files[v.folder+"/"+file] = string(records)
			continue
		}
		var p py2
		p.WriteString("\x80\x02}(")
		p.text("data")
		p.array(smallRecords, data)
		p.text(map[int]string{10: "labels", 100: "fine_labels"}[c.classes])
		p.list(smallRecords, func(i int) { fmt.Fprintf(&p, "K%c", labels[i]) })
		if c.classes == 100 {
			p.text("coarse_labels")
			p.list(smallRecords, func(i int) { fmt.Fprintf(&p, "K%c", labels[i]/5) })
		}
		p.text("filenames")
		p.list(smallRecords, func(i int) { p.text(fmt.Sprintf("%s_%d.png", file, i)) })
		p.WriteString("u.")
		files[v.folder+"/"+file] = p.String()
	}
	return files
}

func TestCIFAR(t *testing.T) {
	for _, full := range []cifar{cifar10, cifar100} {
		c := full.small()
		var prints []string
		for _, v := range c.versions {
			files := c.smallFiles(v)
			unpacked := writeTree(t, files)
			packed := packTar(t, v.archive, files)
			for _, dir := range []string{
				packed, filepath.Dir(packed), unpacked, filepath.Join(unpacked, v.folder), packTar(t, "renamed.tar.zst", files),
			} {
				sets, err := c.open(t.Context(), Source{Dir: dir}, []string{"test", "train"})
				if err != nil {
					t.Errorf("%s: %v", dir, err)
					continue
				}
				for _, s := range sets {
					if err := s.check(dir); err != nil {
						t.Error(err)
					}
					prints = append(prints, s.Fingerprint())
					if s.Dataset != c.name || len(s.Classes) != c.classes || s.Classes[7] != "class 7" {
						t.Errorf("%s: dataset %q with classes %v", dir, s.Dataset, s.Classes)
					}
					for f, file := range v.files[s.Split] {
						for i := range smallRecords {
							y, pixels := smallImage(stem(file), i, c.classes)
							at := f*smallRecords + i
							if s.Labels[at] != y || !bytes.Equal(s.Image(at), pixels) {
								t.Fatalf("%s, %s image %d: label %d, want %d, or other pixels", dir, file, i, s.Labels[at], y)
							}
							if s.Names != nil && s.Names[at] != fmt.Sprintf("%s_%d.png", file, i) {
								t.Errorf("%s: name %q", dir, s.Names[at])
							}
						}
					}
				}
			}
		}
		// Test and train of both versions in five places each.
		if len(prints) != 20 || prints[0] == prints[1] {
			t.Fatalf("%s: %d fingerprints, test %s, train %s", c.name, len(prints), prints[0], prints[1])
		}
		for i, p := range prints {
			if p != prints[i%2] {
				t.Errorf("%s: the versions differ in fingerprint", c.name)
			}
		}
	}
}

func coarseNames() string {
	var text strings.Builder
	for i := range 20 {
		fmt.Fprintf(&text, "superclass %d\n", i)
	}
	return text.String()
}

// The superclasses of both versions are those that the small files have, and the images are the same.
func TestCIFAR100Coarse(t *testing.T) {
	fine := cifar100.small()
	for i, v := range fine.versions {
		dir := packTar(t, v.archive, fine.smallFiles(v))
		want, err := fine.open(t.Context(), Source{Dir: dir}, []string{"train"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := cifar100Coarse.small().open(t.Context(), Source{Dir: dir}, []string{"train"})
		if err != nil {
			t.Fatal(err)
		}
		s := got[0]
		if !bytes.Equal(s.Pixels, want[0].Pixels) || len(s.Classes) != 20 || s.Classes[19] != "superclass 19" || s.Dataset != "cifar100" {
			t.Errorf("version %d: dataset %s with %q, or other pixels", i, s.Dataset, s.Classes)
		}
		for j, y := range s.Labels {
			if y != want[0].Labels[j]/5 {
				t.Errorf("version %d: image %d has superclass %d, and class %d", i, j, y, want[0].Labels[j])
			}
		}
	}
	_, err := Open(t.Context(), "cifar100", Source{Dir: "x", Label: "medium"}, "train")
	if _, ok := errors.AsType[*UsageError](err); !ok || !strings.Contains(err.Error(), "choose fine or coarse") {
		t.Errorf("error %v", err)
	}
}

func TestCIFARErrors(t *testing.T) {
	// Byte offsets of the small files that the cases damage.
	const record = 1 + cifarPixels
	set := func(s string, at int, b byte) string { return s[:at] + string([]byte{b}) + s[at+1:] }
	for _, tc := range []struct {
		name    string
		dataset cifar
		version int
		file    string
		change  func(content string) string // "" removes the file
		says    string
	}{
		{"truncated record", cifar10, 0, "data_batch_2.bin", func(s string) string { return s[:2*record+100] }, "image 2 at byte 6146 has 100 of 3073 bytes"},
		{"too few", cifar10, 0, "data_batch_2.bin", func(s string) string { return s[:2*record] }, "2 images, expected 3"},
		{"too many", cifar100, 0, "test.bin", func(s string) string { return s + s[:record+1] }, "4 images, expected 3"},
		{"label", cifar10, 0, "test_batch.bin", func(s string) string { return set(s, record, 10) }, "image 1 has label 10, outside 0 to 9"},
		{"fine label", cifar100, 0, "train.bin", func(s string) string { return set(s, 1, 100) }, "image 0 has label 100"},
		{"missing file", cifar10, 0, "data_batch_3.bin", func(string) string { return "" }, "data_batch_3.bin"},
		{"missing meta", cifar10, 1, "batches.meta", func(string) string { return "" }, "batches.meta"},
		{"class names", cifar10, 0, "batches.meta.txt", func(s string) string { return s + "one more\n" }, "11 class names, expected 10"},
		{"truncated pickle", cifar10, 1, "data_batch_1", func(s string) string { return s[:5000] }, "offset"},
		{"pickle of a text", cifar10, 1, "data_batch_1", func(string) string { return "\x80\x02U\x02hi." }, "need a dict"},
		{"pickle that runs something", cifar10, 1, "data_batch_1", func(string) string { return "\x80\x02cos\nsystem\nU\x02ls\x85R." }, "os.system"},
		{"pickle without images", cifar10, 1, "data_batch_1", func(s string) string { return strings.Replace(s, "U\x04data", "U\x04date", 1) }, `"data"`},
		{"pickle without labels", cifar100, 1, "train", func(s string) string { return strings.Replace(s, "fine_labels", "fine_lapels", 1) }, `"fine_labels"`},
		{"labels missing", cifar10, 1, "test_batch", func(s string) string { return strings.Replace(s, "labels](K", "labels](0K", 1) }, "test_batch"},
		{"names missing", cifar10, 1, "test_batch", func(s string) string { return strings.Replace(s, "filenames](", "filenames](K\x01", 1) }, `"filenames"`},
		{"pickled label", cifar100, 1, "test", func(s string) string { return strings.Replace(s, "fine_labels](K", "fine_labels](K\x64K", 1) }, "4 labels for 3 images"},
		{"pickled class names", cifar100, 1, "meta", func(s string) string { return strings.Replace(s, "fine_label_names](", "fine_label_names](K\x01", 1) }, "fine_label_names"},
	} {
		c := tc.dataset.small()
		v := c.versions[tc.version]
		files := c.smallFiles(v)
		member := v.folder + "/" + tc.file
		before := files[member]
		if files[member] = tc.change(before); files[member] == "" {
			delete(files, member)
		} else if files[member] == before {
			t.Errorf("%s: the case changes nothing", tc.name)
		}
		for _, dir := range []string{writeTree(t, files), packTar(t, v.archive, files)} {
			_, err := c.open(t.Context(), Source{Dir: dir}, []string{"train", "test"})
			var input *InputError
			if !errors.As(err, &input) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(filepath.ToSlash(err.Error()), tc.file) {
				t.Errorf("%s: error %v does not name %s and say %q", tc.name, err, tc.file, tc.says)
			}
		}
	}
}

func TestCIFARNotThere(t *testing.T) {
	for _, tc := range []struct{ name, dir, says string }{
		{"missing", "/does/not/exist", "/does/not/exist"},
		{"nothing", t.TempDir(), "looked for cifar-10-batches-bin, cifar-10-binary.tar.gz"},
		{"image folder", writeTree(t, smallTree(t)), "--dataset imagefolder"},
		{"image archive", packTar(t, "a.tar.zst", smallTree(t)), "--dataset imagefolder"},
		{"the other dataset", packTar(t, "cifar-10-binary.tar.gz", cifar100.smallFiles(cifar100.versions[0])), "no cifar10 in this archive"},
		{"no archive", writeFile(t, strings.Repeat("hello, world ", 100)), "not a tar archive"},
	} {
		_, err := Open(t.Context(), "cifar10", Source{Dir: tc.dir}, "train")
		var input *InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: error %v does not say %q", tc.name, err, tc.says)
		}
	}
}

// The official counts are checked: the small archive is refused by the dataset that people open.
func TestCIFAROfficialCounts(t *testing.T) {
	dir := writeTree(t, cifar10.smallFiles(cifar10.versions[0]))
	_, err := Open(t.Context(), "cifar10", Source{Dir: dir}, "train")
	if err == nil || !strings.Contains(err.Error(), "data_batch_1.bin: 3 images, expected 10000") {
		t.Errorf("error %v", err)
	}
}

func FuzzCIFAR(f *testing.F) {
	versions := slices.Concat(cifar10.versions, cifar100.versions)
	for i, v := range versions {
		c := cifar10
		if i >= len(cifar10.versions) {
			c = cifar100
		}
		files := c.smallFiles(v)
		f.Add([]byte(files[v.folder+"/"+v.files["test"][0]]), uint8(i))
		f.Add([]byte(files[v.folder+"/"+v.meta]), uint8(i))
	}
	f.Fuzz(func(t *testing.T, content []byte, version uint8) {
		v := versions[int(version)%len(versions)]
		b, err := v.parse("fuzz", content)
		if err == nil && (len(b.pixels) != len(b.labels)*cifarPixels || b.names != nil && len(b.names) != len(b.labels)) {
			t.Errorf("%d bytes of pixels, %d labels, %d names", len(b.pixels), len(b.labels), len(b.names))
		}
		_, _ = v.names("fuzz", content)
	})
}
