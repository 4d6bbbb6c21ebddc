package data

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image/color"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// packZip packs files in the order of their names, every second one compressed, and returns the path.
func packZip(t testing.TB, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i, member := range slices.Sorted(maps.Keys(files)) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: member, Method: []uint16{zip.Store, zip.Deflate}[i%2]})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(files[member])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// below returns the files in a folder.
func below(dir string, files map[string]string) map[string]string {
	inside := map[string]string{}
	for name, content := range files {
		inside[dir+"/"+name] = content
	}
	return inside
}

// archives packs files in every way, at the top and in folders.
func archives(t testing.TB, files map[string]string) []string {
	t.Helper()
	wrapped := with(below("some/where", files), "README.md", "x")
	return []string{
		packZip(t, files), packZip(t, with(wrapped, "some/", "", "__MACOSX/some/._where", "x")),
		packTar(t, "a.tar", files), packTar(t, "a.tar", below(".", wrapped)), packTar(t, "a.tar.gz", files), packTar(t, "a.tar.zst", wrapped),
	}
}

// What an archive holds is what the folder holds that it unpacks to.
func TestPackedDatasets(t *testing.T) {
	faces := map[string]string{}
	for i := range 10 {
		faces[fmt.Sprintf("%d_0_1_x.jpg", 9*i)] = plainPNG(t, 5, 6, color.Gray{byte(i)})
	}
	for dataset, files := range map[string]map[string]string{
		"imagefolder": painted(t, "train/a/1.png", "train/b/2.jpg", "test/b/3.png"),
		"folder":      painted(t, "cat/1.png", "cat/2.png", "dog/1.png"),
		"tiny-imagenet": with(painted(t, "train/n02/images/a.JPEG", "train/n01/images/b.JPEG", "val/images/v.JPEG"),
			"val/val_annotations.txt", "v.JPEG\tn01\t0\n"),
		"csv":     with(painted(t, "x/1.png", "2.png"), "train.csv", "path,label\n2.png,b\nx/1.png,a\n", "test.csv", "path,label\n2.png,a\n"),
		"utkface": faces,
		"imagenet": with(painted(t, kaggleImages+"/train/n01/a.JPEG", kaggleImages+"/train/n02/b.JPEG", kaggleImages+"/val/v.JPEG"),
			"LOC_val_solution.csv", "ImageId,PredictionString\nv,n02 1 2 3 4\n"),
	} {
		open := func(dir string) []*Set {
			t.Helper()
			sets, err := Open(t.Context(), dataset, Source{Dir: dir, Preprocess: small}, "train", "test")
			if err != nil {
				t.Fatalf("%s, %s: %v", dataset, filepath.Base(dir), err)
			}
			return sets
		}
		want := open(writeTree(t, files))
		for _, archive := range archives(t, files) {
			for i, got := range open(archive) {
				if got.Fingerprint() != want[i].Fingerprint() || !slices.Equal(got.Names, want[i].Names) || !slices.Equal(got.Classes, want[i].Classes) {
					t.Errorf("%s, %s: %q of %q, want %q of %q, or other pixels", dataset, archive, got.Names, got.Classes, want[i].Names, want[i].Classes)
				}
			}
		}
	}
}

// ImageNet's archives are read as they are published, and where they lie in a folder of theirs.
func TestOfficialImageNet(t *testing.T) {
	meta, err := os.ReadFile("testdata/meta.mat") // 1 is n03, 2 is n01, 300 is n02
	if err != nil {
		t.Fatal(err)
	}
	files := painted(t, "n03_7.JPEG", "n01_1.JPEG", "n01_2.JPEG", "n02_1.JPEG", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
	pack := func(suffix string, names ...string) string {
		chosen := map[string]string{}
		for _, name := range names {
			chosen[name] = files[name]
		}
		return readAll(t, packTar(t, "a"+suffix, chosen))
	}
	files["n01.tar"], files["n02.tar"], files["n03.tar"] = pack(".tar", "n01_1.JPEG", "n01_2.JPEG"), pack(".tar", "n02_1.JPEG"), pack(".tar", "n03_7.JPEG")
	const kit = "ILSVRC2012_devkit_t12/data/"
	files[kit+"meta.mat"], files[kit+"ILSVRC2012_validation_ground_truth.txt"] = string(meta), "300\n1\n"
	published := map[string]string{
		imageNetTrain: pack(".tar", "n01.tar", "n02.tar", "n03.tar"),
		imageNetVal:   pack(".tar", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"),
		imageNetKit:   pack(".tar.gz", kit+"meta.mat", kit+"ILSVRC2012_validation_ground_truth.txt", "ILSVRC2012_devkit_t12/readme.txt"),
	}
	dir := writeTree(t, published)
	classes := []string{"n01", "n02", "n03"}
	train := layout{"train", []string{"train/n01/n01_1.JPEG", "train/n01/n01_2.JPEG", "train/n02/n02_1.JPEG", "train/n03/n03_7.JPEG"}, []int{0, 0, 1, 2}, []byte{1, 2, 3, 0}}
	val := layout{"val", []string{"val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG"}, []int{1, 2}, []byte{4, 5}}
	checkLayout(t, "imagenet", Source{Dir: dir}, classes, train, val, layout{"test", val.names, val.labels, val.grey})
	if got := Guess(t.Context(), dir); !slices.Equal(got, []string{"imagenet"}) {
		t.Errorf("it looks like %q", got)
	}
	checkLayout(t, "imagenet", Source{Dir: writeTree(t, map[string]string{imageNetTrain: published[imageNetTrain]})}, classes, train)
	f, err := openImageNetFiles(t.Context(), Source{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.read("ILSVRC2012_devkit_t12/readme.txt"); err == nil || !strings.Contains(err.Error(), "was not read") {
		t.Errorf("a file of the kit without labels: %v", err)
	}
	delete(published, imageNetKit)
	refuses(t, "imagenet", Source{Dir: writeTree(t, published)}, "test", "no labels of them")
	published[imageNetTrain] = pack(".tar", "n01.tar", "n01_1.JPEG")
	refuses(t, "imagenet", Source{Dir: writeTree(t, published)}, "train", imageNetTrain, "corrupt or truncated archive, near byte")
	for _, name := range []string{".tar", "..tar", "...tar", ".n02.tar"} {
		files[name] = files["n01.tar"]
		published[imageNetTrain] = pack(".tar", "n01.tar", name)
		refuses(t, "imagenet", Source{Dir: writeTree(t, published)}, "train", imageNetTrain, strconv.Quote(name)+" is not named after a class")
	}
}

// What tells that a file has changed is what tells that the archive has, so that images of an earlier one are not taken for it.
func TestPackedFilesChangeAsTheArchive(t *testing.T) {
	for _, path := range archives(t, map[string]string{"a/1.bin": "xyz"}) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		want := newFileInfo(info)
		want.size = 3
		p, err := openPacked(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		at := folder{path, p}.unwrap(holds("a"))
		if got, err := at.info("a/1.bin"); err != nil || got != want {
			t.Errorf("%s: %+v, error %v, want %+v", path, got, err, want)
		}
		if _, err := at.info("."); err != nil {
			t.Error(err)
		}
		if _, err := (folder{path, p}).info("."); err != nil {
			t.Error(err)
		}
	}
}

// Of an archive that can be read in parts, images that nobody asks for are not read: here they are damaged.
func TestPackedReadsWhatIsAsked(t *testing.T) {
	files := painted(t, "train/a/0.png", "train/a/1.png", "train/a/2.png")
	for _, path := range []string{packTar(t, "a.tar", files), packZip(t, files)} {
		content := []byte(readAll(t, path))
		at := bytes.Index(content, []byte(files["train/a/1.png"][:30]))
		if at < 0 { // it is compressed
			at = bytes.Index(content, []byte("train/a/1.png")) + len("train/a/1.png")
		}
		copy(content[at+20:], "damage")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		sets, err := Open(t.Context(), "imagefolder", Source{Dir: path, Lazy: true, Preprocess: small}, "train")
		if err != nil {
			t.Fatal(err)
		}
		pixels := make([]byte, 2*3*4*4)
		if err := sets[0].Read(pixels, []int{2, 0}); err != nil || pixels[0] != 2 || pixels[3*4*4] != 0 {
			t.Errorf("%s: %v, colours %d and %d", path, err, pixels[0], pixels[3*4*4])
		}
		var input *InputError
		if err := sets[0].Read(pixels, []int{1}); !errors.As(err, &input) || !strings.HasSuffix(input.Path, ":train/a/1.png") {
			t.Errorf("%s: the damaged image: %v", path, err)
		}
	}
}

func TestPackedErrors(t *testing.T) {
	good := painted(t, "train/a/0.png", "train/a/1.png")
	image := good["train/a/0.png"]
	// spoiled changes bytes of the directory entry of the first file, whose name is at 46.
	spoiled := func(at int, value ...byte) string {
		path := packZip(t, good)
		content := []byte(readAll(t, path))
		copy(content[bytes.Index(content, []byte("PK\x01\x02"))+at:], value)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	padded := packTar(t, "a.tar", map[string]string{"train/a/0.png": image})
	if err := os.Truncate(padded, int64(512+len(image)+1)); err != nil { // behind the image, inside its last block
		t.Fatal(err)
	}
	half := packZip(t, good)
	if err := os.Truncate(half, 200); err != nil {
		t.Fatal(err)
	}
	var twice bytes.Buffer
	w := tar.NewWriter(&twice)
	for range 2 {
		if err := w.WriteHeader(&tar.Header{Name: "train/a/0.png", Size: int64(len(image)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(image)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	link := func(kind byte, name, to string) string {
		path := packTar(t, "a.tar", good)
		content := []byte(readAll(t, path))
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		return writeFile(t, b.String()+string(content))
	}
	// The directory ends with how many files it has and its size, at 8, 10 and 12. Here all four are one.
	overlapping := readAll(t, packZip(t, map[string]string{"0.bin": strings.Repeat("x", 1000)}))
	from, to := strings.Index(overlapping, "PK\x01\x02"), strings.Index(overlapping, "PK\x05\x06")
	last := []byte(overlapping[to:])
	binary.LittleEndian.PutUint16(last[8:], 4)
	binary.LittleEndian.PutUint16(last[10:], 4)
	binary.LittleEndian.PutUint32(last[12:], uint32(4*(to-from)))
	overlapping = overlapping[:from] + strings.Repeat(overlapping[from:to], 4) + string(last)
	// Of GNU's header, the type is at 156, the checksum at 148 and the whole size at 483.
	sparse := readAll(t, link(tar.TypeReg, "train/b/0.png", ""))
	sparse = sparse[:148] + "        S" + sparse[157:257] + "ustar  \x00" + sparse[265:329] + strings.Repeat("\x00", 154) + "00000000000" + sparse[494:]
	sum := 0
	for _, b := range []byte(sparse[:512]) {
		sum += int(b)
	}
	sparse = sparse[:148] + fmt.Sprintf("%06o\x00 ", sum) + sparse[156:]
	// In a zip, the upper half of the attributes, at 38, is the mode where the system, at 5, is Unix.
	zipLink := []byte(readAll(t, packZip(t, good)))
	at := bytes.Index(zipLink, []byte("PK\x01\x02"))
	zipLink[at+5] = 3
	binary.LittleEndian.PutUint32(zipLink[at+38:], 0o120777<<16)
	for _, c := range []struct{ path, says string }{
		{link(tar.TypeLink, "train/b/0.png", "train/a/0.png"), `"train/b/0.png" is a link`},
		{link(tar.TypeSymlink, "train/b", "a"), `"train/b" is a link`},
		{writeFile(t, sparse), "a sparse file, which lies in pieces"},
		{writeFile(t, string(zipLink)), `"train/a/0.png" is a link`},
		{writeFile(t, "\xfd7zXZ\x00"+strings.Repeat("x", 600)), "none of the archives that are read here"},
		{padded, "corrupt or truncated archive"},
		{half, "zip"},
		{spoiled(8, 1), "encrypted"},
		{spoiled(10, 12), "compression method 12"},
		{spoiled(16, 1, 2, 3, 4), "checksum"},
		{spoiled(20, 255, 255), "more bytes than the archive"},
		{spoiled(24, 0, 0, 0, 15), "no compression can"},
		{packZip(t, with(good, "../../x.png", "x")), `"../../x.png" lies outside the archive`},
		{packTar(t, "a.tar", with(good, "train/../../x.png", "x")), "lies outside the archive"},
		{packTar(t, "a.tar.gz", with(good, "../x.png", "x")), "lies outside the archive"},
		{packTar(t, "a.tar", with(good, "train/..", "x")), `"train/.." lies outside the archive`},
		{writeFile(t, overlapping), "its files have more bytes than the archive"},
		{packTar(t, "a.tar", with(good, strings.Repeat("a/", 40)+"x.png", "x")), "more than 32 folders"},
		{writeFile(t, twice.String()), "train/a/0.png stands in it twice"},
		{packZip(t, with(good, "train/a", "x")), "train/a stands in it twice"},
		{packZip(t, nil), "no images under train/"},
	} {
		_, err := Open(t.Context(), "imagefolder", Source{Dir: c.path}, "train")
		var input *InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("error %v does not name the file and say %q", err, c.says)
		}
	}
}

// A zip's directory takes no more memory than it may; its files are no part of that.
func TestZipDirectoryIsBounded(t *testing.T) {
	path := packZip(t, map[string]string{"a/0.bin": strings.Repeat("0123456789", 1000), "a/1.bin": "x"})
	defer func(before int64) { maxZipDirectory = before }(maxZipDirectory)
	maxZipDirectory = 8 << 10 // more than one of two files, which is read in buffers of 4 KiB, and less than their content
	p, err := openPacked(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if content, err := (folder{path, p}).read("a/0.bin"); len(content) != 10000 {
			t.Errorf("%d bytes, error %v", len(content), err)
		}
	}
	maxZipDirectory = 100
	if _, err := openPacked(t.Context(), path, nil); err == nil || !strings.Contains(err.Error(), "its directory has more than 100 bytes") {
		t.Errorf("error %v", err)
	}
}

// Archives that are no use, and those that are looked at alone, are not left open.
func TestPackedIsClosed(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close them
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	files := painted(t, "train/a/0.png", "train/b/1.png")
	broken := packTar(t, "a.tar", with(files, "../x.png", "x"))
	official := writeTree(t, map[string]string{imageNetTrain: readAll(t, broken)})
	packs := append(archives(t, files), broken, writeFile(t, "PK\x03\x04"))
	before := open()
	for _, path := range packs {
		Guess(t.Context(), path)
	}
	for range 3 {
		for _, path := range packs[len(packs)-2:] {
			if _, err := openPacked(t.Context(), path, nil); err == nil {
				t.Errorf("%s was opened", path)
			}
		}
		if _, err := openImageNetFiles(t.Context(), Source{Dir: official}); err == nil {
			t.Error("a broken tar of ImageNet was opened")
		}
	}
	if after := open(); after != before {
		t.Errorf("%d files are open, before %d", after, before)
	}
}

func TestGuessPacked(t *testing.T) {
	wnids := map[string]string{}
	for i := range 200 {
		wnids[fmt.Sprintf("imagenet-a/n%08d/0.jpg", i)] = "x"
	}
	for want, files := range map[string]map[string]string{
		"imagenet-a":    with(wnids, "imagenet-a/README.txt", "x"),
		"tiny-imagenet": {"tiny-imagenet-200/train/n01/images/a.JPEG": "x", "tiny-imagenet-200/val/val_annotations.txt": "x"},
		"imagefolder":   {"pets/train/cat/1.jpg": "x", "pets/test/cat/1.jpg": "x", "LICENSE": "x"},
		"folder":        {"pets/cat/1.jpg": "x", "pets/dog/1.jpg": "x"},
	} {
		for _, path := range []string{packZip(t, files), packTar(t, "a.tar", files)} {
			if got := Guess(t.Context(), path); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %q, want %s", path, got, want)
			}
		}
	}
}

// FuzzPacked: what is listed of an archive can be read, as long as it says, or is an error; and the listing is a file system.
func FuzzPacked(f *testing.F) {
	files := painted(f, "train/a/0.png", "train/b/1.png", "val/x.txt")
	for _, path := range archives(f, files) {
		f.Add([]byte(readAll(f, path)))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<16 {
			return
		}
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := openPacked(t.Context(), path, nil)
		if err != nil {
			return
		}
		defer p.close()
		root := folder{path, p}
		err = fs.WalkDir(p, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if got, err := root.read(name); err == nil && int64(len(got)) != info.Size() {
				t.Errorf("%s: %d bytes, not %d", name, len(got), info.Size())
			} else if p.folders[filepath.Dir(name)] == nil {
				t.Errorf("%s lies nowhere", name)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A zip whose sizes lie takes no memory for it.
func TestZipBomb(t *testing.T) {
	path := packZip(t, map[string]string{"train/a/0.png": strings.Repeat("0", 1<<20)})
	content := []byte(readAll(t, path))
	at := bytes.Index(content, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(content[at+24:], 1<<10) // it unpacks to more
	binary.LittleEndian.PutUint32(content[at+16:], crc32.ChecksumIEEE(bytes.Repeat([]byte("0"), 1<<10)))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := openPacked(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	var input *InputError
	if got, err := (folder{path, p}).read("train/a/0.png"); !errors.As(err, &input) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
}
