package data

import "testing"

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
