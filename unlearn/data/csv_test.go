package data

import "testing"

func TestCSV(t *testing.T) {
	files := with(painted(t, "a/x.png", "a/y.png", "b.png"),
		"train.csv", "label,path,note\n10,b.png,\"quoted, with a comma\"\n9,a/x.png,\n10,a/y.png,\n", "test.csv", "path,label\na/x.png,10\n")
	checkLayout(t, "csv", Source{Dir: writeTree(t, files)}, []string{"9", "10"},
		layout{"train", []string{"b.png", "a/x.png", "a/y.png"}, []int{1, 0, 1}, []byte{2, 0, 1}},
		layout{"test", []string{"a/x.png"}, []int{1}, []byte{0}})
	words := with(files, "train.csv", "path,label\nb.png,dog\na/x.png,10\n")
	checkLayout(t, "csv", Source{Dir: writeTree(t, words)}, []string{"10", "dog"}, layout{"train", []string{"b.png", "a/x.png"}, []int{1, 0}, []byte{2, 0}})
	for says, table := range map[string]string{
		`no column "label"`:               "path,class\nb.png,1\n",
		`row 2: "../b.png" is no path`:    "path,label\nb.png,1\n../b.png,1\n",
		`row 1: "/etc/passwd" is no path`: "path,label\n/etc/passwd,1\n",
		"wrong number of fields":          "path,label\nb.png\n",
		"reading rows: EOF":               "path,label\n",
		"no such file":                    "path,label\nc.png,1\n",
		"train.csv: EOF":                  "",
	} {
		refuses(t, "csv", Source{Dir: writeTree(t, with(files, "train.csv", table))}, "train", says)
	}
	refuses(t, "csv", Source{Dir: writeTree(t, with(files, "test.csv", "path,label\nb.png,11\n"))}, "test", `test.csv: b.png has the class "11"`)
	refuses(t, "csv", Source{Dir: writeTree(t, files)}, "val", "val.csv")
}

func FuzzPairs(f *testing.F) {
	f.Add("path,label\na/b.png,1\n")
	f.Add("label,x,path\n1,\"2\n\",c\n")
	f.Fuzz(func(t *testing.T, content string) {
		source := Source{Dir: writeTree(t, map[string]string{"t.csv": content})}
		pairs, err := source.folder().pairs("t.csv", "path", "label")
		if err != nil {
			return
		}
		split := imageSplit{classes: distinct(pairs)}
		if err := split.label("t.csv", pairs); err != nil || len(split.labels) != len(pairs) {
			t.Errorf("classes %q do not label what they are of: %v", split.classes, err)
		}
	})
}
