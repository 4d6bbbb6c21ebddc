package data

import "testing"

func TestPlainFolder(t *testing.T) {
	names := []string{"ant/10.png", "ant/9.png", "bee/0.jpeg"}
	files := with(painted(t, names...), "note.txt", "x", ".git/ant/x.png", "hidden")
	all := layout{"train", names, []int{0, 0, 1}, []byte{0, 1, 2}}
	checkLayout(t, "folder", Source{Dir: writeTree(t, files)}, []string{"ant", "bee"}, all, layout{"test", all.names, all.labels, all.grey})
	refuses(t, "folder", Source{Dir: writeTree(t, map[string]string{"a.png": files["ant/9.png"]})}, "train", "no images under ./<class>/")
}
