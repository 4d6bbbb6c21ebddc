package data

import (
	"os"
	"testing"
	"testing/fstest"
)

func imagenetTree(t testing.TB) map[string]string {
	return painted(t, "train/n02/n02_1.JPEG", "train/n01/n01_1.JPEG", "train/n03/n03_1.JPEG",
		"val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG", "val/ILSVRC2012_val_00000003.JPEG")
}

func TestImageNet(t *testing.T) {
	classes := []string{"n01", "n02", "n03"}
	train := layout{"train", []string{"train/n01/n01_1.JPEG", "train/n02/n02_1.JPEG", "train/n03/n03_1.JPEG"}, []int{0, 1, 2}, []byte{1, 0, 2}}
	val := layout{"val", []string{"val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG", "val/ILSVRC2012_val_00000003.JPEG"}, []int{2, 1, 0}, []byte{3, 4, 5}}
	test := layout{"test", val.names, val.labels, val.grey}
	meta, err := os.ReadFile("testdata/meta.mat") // 1 is n03, 2 is n01, 300 is n02
	if err != nil {
		t.Fatal(err)
	}
	const truth = "data/ILSVRC2012_validation_ground_truth.txt"
	files := imagenetTree(t)
	kit := with(files, "ILSVRC2012_devkit_t12/data/meta.mat", string(meta), "ILSVRC2012_devkit_t12/"+truth, "1\n300\n2\n")
	checkLayout(t, "imagenet", Source{Dir: writeTree(t, kit)}, classes, train, val, test)

	const table = "ImageId,PredictionString\nILSVRC2012_val_00000003,n01 1 2 3 4 n01 5 6 7 8\nILSVRC2012_val_00000001,n03 1 2 3 4\nILSVRC2012_val_00000002,n02 9 9 9 9\n"
	checkLayout(t, "imagenet", Source{Dir: writeTree(t, with(files, "LOC_val_solution.csv", table))}, classes, train, val)
	kaggle := map[string]string{"LOC_val_solution.csv": table}
	for name, content := range files {
		kaggle[kaggleImages+"/"+name] = content
	}
	checkLayout(t, "imagenet", Source{Dir: writeTree(t, kaggle)}, classes, train, val)

	sorted := painted(t, train.names[1], train.names[0], train.names[2], "val/n03/b.JPEG", "val/n03/a.JPEG", "val/n01/c.JPEG")
	checkLayout(t, "imagenet", Source{Dir: writeTree(t, sorted)}, classes, train,
		layout{"test", []string{"val/n01/c.JPEG", "val/n03/a.JPEG", "val/n03/b.JPEG"}, []int{0, 2, 2}, []byte{5, 4, 3}})

	kitPath := "ILSVRC2012_devkit_t12/" + truth
	for _, c := range []struct {
		files map[string]string
		says  string
	}{
		{files, "there are no labels of them"},
		{with(kit, kitPath, "1\n300\n"), "2 labels for the 3 images"},
		{with(kit, kitPath, "1\n3\n2\n"), `line 2: "3" is no number of a class`},
		{with(kit, kitPath, "1\nx\n2\n"), `line 2: "x" is no number of a class`},
		{with(kit, kitPath, "1\n1001\n2\n"), `class "n99" of val/ILSVRC2012_val_00000002.JPEG has no images`},
		{with(kit, "ILSVRC2012_devkit_t12/data/meta.mat", string(meta[:200])), "meta.mat: unexpected EOF"},
		{with(files, "LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00000003,n01 1 2 3 4\n"), "no label of val/ILSVRC2012_val_00000001.JPEG"},
		{with(files, "val/n01/x.JPEG", files["train/n01/n01_1.JPEG"], "val/n09/x.JPEG", files["train/n01/n01_1.JPEG"]), `class "n09"`},
	} {
		refuses(t, "imagenet", Source{Dir: writeTree(t, c.files)}, "test", c.says)
	}
}

// scipy writes what this reads; a truncated file is an error at every length.
func TestSynsets(t *testing.T) {
	meta, err := os.ReadFile("testdata/meta.mat")
	if err != nil {
		t.Fatal(err)
	}
	got, err := synsets(meta)
	if err != nil || len(got) != 4 || got[1] != "n03" || got[2] != "n01" || got[300] != "n02" || got[1001] != "n99" {
		t.Errorf("%v, %v", got, err)
	}
	for n := range meta {
		if got, err := synsets(meta[:n]); err == nil {
			t.Fatalf("of %d bytes of %d: %v", n, len(meta), got)
		}
	}
}

func FuzzSynsets(f *testing.F) {
	meta, err := os.ReadFile("testdata/meta.mat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(meta[128:])
	if plain, err := inflate(meta[136:]); err == nil {
		f.Add(append([]byte{14, 0, 0, 0, byte(len(plain.data)), byte(len(plain.data) >> 8), 0, 0}, plain.data...))
	}
	f.Fuzz(func(t *testing.T, elements []byte) {
		classes, err := synsets(append(append(make([]byte, 126), "IM"...), elements...))
		if err != nil && classes != nil {
			t.Error("classes and an error")
		}
	})
}

// FuzzValidationLabels: whatever the labels of ImageNet's validation images are, as Kaggle's table or the development kit's numbers,
// each image gets a class that there is, or none does.
func FuzzValidationLabels(f *testing.F) {
	meta, err := os.ReadFile("testdata/meta.mat") // 1 is n03, 2 is n01, 300 is n02
	if err != nil {
		f.Fatal(err)
	}
	f.Add("300\n1\n", false)
	f.Add("ImageId,PredictionString\nb,n01 1 2\na,n03 1\n", true)
	f.Fuzz(func(t *testing.T, text string, kaggle bool) {
		file := "data/ILSVRC2012_validation_ground_truth.txt"
		if kaggle {
			file = "LOC_val_solution.csv"
		}
		at := folder{"x", fstest.MapFS{
			file: {Data: []byte(text)}, "data/meta.mat": {Data: meta}, "val/a.JPEG": {}, "val/b.JPEG": {},
		}}
		found := imageTree{"train": {"train/n01/x.JPEG", "train/n02/x.JPEG", "train/n03/x.JPEG"}}
		tree := classTree{name: "imagenet", splits: map[string][]string{"train": {"train"}}}
		if s, err := unsortedValidation(tree, at, at, found, "val"); err == nil {
			checkLabels(t, s, 2, 3)
		}
	})
}
