package data

import (
	"errors"
	"strings"
	"testing"
)

func TestCelebA(t *testing.T) {
	images := painted(t, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
	files := map[string]string{
		celebaAttributes: "image_id,Bald,Smiling\n1.jpg,-1,1\n2.jpg,-1,-1\n3.jpg,1,1\n4.jpg,-1,1\n",
		celebaSplits:     "image_id,partition\n1.jpg,0\n2.jpg,2\n3.jpg,0\n4.jpg,1\n",
	}
	for _, dir := range []string{"img_align_celeba/", "img_align_celeba/img_align_celeba/"} {
		tree := with(files)
		for name, content := range images {
			tree[dir+name] = content
		}
		checkLayout(t, "celeba", Source{Dir: writeTree(t, tree), Label: "Bald"}, []string{"-1", "1"},
			layout{"train", []string{dir + "1.jpg", dir + "3.jpg"}, []int{0, 1}, []byte{0, 2}},
			layout{"val", []string{dir + "4.jpg"}, []int{0}, []byte{3}},
			layout{"test", []string{dir + "2.jpg"}, []int{0}, []byte{1}})
	}
	refuses(t, "celeba", Source{Dir: writeTree(t, files), Label: "Happy"}, "train", `no column "Happy"; it has image_id, Bald, Smiling`)
	short := with(files, celebaAttributes, "image_id,Bald\n1.jpg,-1\n")
	refuses(t, "celeba", Source{Dir: writeTree(t, short), Label: "Bald"}, "train", "no row of 2.jpg")
	empty := Source{Dir: writeTree(t, with(files, celebaSplits, "image_id,partition\n1.jpg,0\n")), Label: "Bald"}
	_, err := Open(t.Context(), "celeba", empty, "test")
	if input, ok := errors.AsType[*InputError](err); !ok || !strings.Contains(input.Msg, "the test split holds no images") {
		t.Errorf("error %v", err)
	}
	_, err = Open(t.Context(), "celeba", Source{Dir: writeTree(t, files)}, "train")
	if usage, ok := errors.AsType[*UsageError](err); !ok || !strings.Contains(usage.Msg, "--label") {
		t.Errorf("error %v", err)
	}
}
