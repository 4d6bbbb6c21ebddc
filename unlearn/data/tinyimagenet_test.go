package data

import (
	"testing"
	"testing/fstest"
)

func TestTinyImageNet(t *testing.T) {
	files := with(painted(t, "train/n02/images/n02_0.JPEG", "train/n02/images/n02_1.JPEG", "train/n01/images/n01_9.JPEG",
		"val/images/val_0.JPEG", "val/images/val_1.JPEG", "val/images/val_10.JPEG", "test/images/test_0.JPEG"),
		"val/val_annotations.txt", "val_10.JPEG\tn01\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\r\nval_1.JPEG\tn01\t1\t2\t3\t4\n",
		"train/n02/n02_boxes.txt", "n02_0.JPEG\t0\t0\t1\t1\n", "wnids.txt", "n02\nn01\n")
	val := layout{"val", []string{"val/images/val_0.JPEG", "val/images/val_1.JPEG", "val/images/val_10.JPEG"}, []int{1, 0, 0}, []byte{3, 4, 5}}
	checkLayout(t, "tiny-imagenet", Source{Dir: writeTree(t, files)}, []string{"n01", "n02"},
		layout{"train", []string{"train/n01/images/n01_9.JPEG", "train/n02/images/n02_0.JPEG", "train/n02/images/n02_1.JPEG"}, []int{0, 1, 1}, []byte{2, 0, 1}},
		val, layout{"test", val.names, val.labels, val.grey})
	for says, annotations := range map[string]string{
		"no label of val/images/val_1.JPEG": "val_10.JPEG\tn01\nval_0.JPEG\tn02\n",
		`line 2: class "n03"`:               "val_10.JPEG\tn01\nval_0.JPEG\tn03\n",
		`line 1: "val_10.JPEG n01\n"`:       "val_10.JPEG n01\n",
	} {
		refuses(t, "tiny-imagenet", Source{Dir: writeTree(t, with(files, "val/val_annotations.txt", annotations))}, "val", "val_annotations.txt", says)
	}
	refuses(t, "tiny-imagenet", Source{Dir: t.TempDir()}, "train", "no classes under train/")
}

// FuzzTinyImageNet: whatever the table of labels holds, each image gets a class that there is, or none does.
func FuzzTinyImageNet(f *testing.F) {
	f.Add("a.JPEG\tn01\t0\t0\t9\t9\nb.JPEG\tn02\t0\r\n")
	f.Add("b.JPEG\tn02\na.JPEG\t\n")
	f.Fuzz(func(t *testing.T, table string) {
		at := folder{"x", fstest.MapFS{
			"val/val_annotations.txt": {Data: []byte(table)}, "val/images/a.JPEG": {}, "val/images/b.JPEG": {},
		}}
		var s imageSplit
		if err := tinyValidation(at, []string{"n01", "n02"}, &s); err == nil {
			checkLabels(t, &s, 2, 2)
		}
	})
}

// checkLabels compares the size of a split, and its labels with the number of classes.
func checkLabels(t *testing.T, s *imageSplit, images, classes int) {
	t.Helper()
	if len(s.names) != images || len(s.labels) != images {
		t.Errorf("%d names and %d labels of %d images", len(s.names), len(s.labels), images)
	}
	for _, y := range s.labels {
		if y < 0 || y >= classes {
			t.Errorf("label %d of %d classes", y, classes)
		}
	}
}
