package data

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestWebDataset(t *testing.T) {
	files := fixtures(t, "webdataset/small-train-000.tar", "webdataset/small-train-001.tar", "webdataset/small-validation-000.tar")
	dir := writeTree(t, files)
	split := writeTree(t, map[string]string{
		"train/0.tar": files["small-train-000.tar"], "train/1.tar": files["small-train-001.tar"], "val/0.tar": files["small-validation-000.tar"],
	})
	for _, from := range []string{dir, split, dir + "/small-{train-{000..001},validation-000}.tar"} {
		for _, src := range []Source{{Dir: from}, {Dir: from, Cache: t.TempDir()}} {
			checkReference(t, "webdataset", src, "webdataset", "3")
		}
	}

	// Without a split in the names, all images are both.
	one := writeTree(t, map[string]string{"shard-0.tar": files["small-train-000.tar"]})
	sets, err := Open(t.Context(), "webdataset", Source{Dir: one}, "train", "test")
	if err != nil || !slices.Equal(sets[0].Labels, sets[1].Labels) || sets[0].Names[1] != "shard-0.tar/dir/00001.png" {
		t.Errorf("error %v, sets %+v", err, sets)
	}

	for _, c := range []struct {
		content string
		says    []string
	}{
		{tarOf(t, "a.jpg", "x", "b.jpg", "y", "b.cls", "1"), []string{`the sample "a" has no label`}},
		{tarOf(t, "a.jpg", "x", "a.cls", "1", "b.cls", "2"), []string{`the sample "b" has no image`}},
		{tarOf(t, "a.jpg", "x", "a.cls", "cat"), []string{"a.cls", `label "cat" is no number`}},
		{tarOf(t, "a.jpg", "x", "a.cls", "-1"), []string{`label "-1" is no number from 0`}},
		{tarOf(t, "a.jpg", "x", "a.cls", "99999999"), []string{`label "99999999"`}},
		{tarOf(t, "a.jpg", "x", "a.png", "x", "a.cls", "1"), []string{"a.png: a second image"}},
		{tarOf(t, "a.jpg", "x", "a.json", "{"), []string{"a.json: unexpected end of JSON"}},
		{tarOf(t, "a.jpg", "x", "a.json", `{"label":"1"}`), []string{"is no number"}},
		{tarOf(t, "a.jpg", "x", "a.cls", "1", "a.jpg", "x", "a.cls", "1"), []string{"a second image of one sample, beside a.jpg"}},
		{tarOf(t, "a.jpg", "x", "a.cls", "1", "b.jpg", "", "b.cls", "0", "a.jpg", "x", "a.cls", "1"), []string{"a.jpg stands in it twice"}},
		{tarOf(t, "a.jpg", "x", "a.cls", "1"), []string{"x.tar:a.jpg", "neither JPEG nor PNG"}},
		{tarOf(t, "readme.txt", "x"), []string{"hold no samples"}},
		{files["small-train-000.tar"][:3000], []string{"corrupt or truncated archive"}},
		{gzipped(t, files["small-train-000.tar"]), []string{"x.tar", "not a tar archive"}},
		{"", []string{"not a tar archive"}},
	} {
		refuses(t, "webdataset", Source{Dir: writeTree(t, map[string]string{"x.tar": c.content})}, "train", c.says...)
	}
	refuses(t, "webdataset", Source{Dir: dir + "/small-train-{000..002}.tar"}, "train", "small-train-002.tar: no such file")
	refuses(t, "webdataset", Source{Dir: dir + "/small-train-{000..001}.tar"}, "test", `no shards of split "test"`)
	refuses(t, "webdataset", Source{Dir: t.TempDir()}, "train", "no files *.tar in it")
	unkept(t)
	checkReference(t, "webdataset", Source{Dir: dir}, "webdataset", "3")
}

// A field of .json that is asked for wins over .cls, which wins over the usual field.
func TestWebDatasetLabel(t *testing.T) {
	shard := tarOf(t, "a.json", `{"label": 2, "fine": 4}`, "a.jpg", "x", "a.cls", "3\n")
	for field, want := range map[string]int{"": 3, "fine": 4, "label": 2} {
		samples, err := indexTar(t.Context(), strings.NewReader(shard), field)
		if err != nil || len(samples) != 1 || samples[0].label != want {
			t.Errorf("--label %q: %+v, error %v, want %d", field, samples, err, want)
		}
	}
	if _, err := indexTar(t.Context(), strings.NewReader(shard), "coarse"); err == nil || !strings.Contains(err.Error(), `no field "coarse"`) {
		t.Errorf("error %v", err)
	}
}

// tarOf makes an archive of names and contents, in order.
func tarOf(t testing.TB, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestExpandBraces(t *testing.T) {
	for pattern, want := range map[string]string{ // as bash expands them
		"a.tar":                     "a.tar",
		"s-{08..11}.tar":            "s-08.tar s-09.tar s-10.tar s-11.tar",
		"{9..10}":                   "9 10",
		"{a,b}-{0..1}":              "a-0 a-1 b-0 b-1",
		"x{t-{0..1},v-{a,b},}y":     "xt-0y xt-1y xv-ay xv-by xy",
		"s-{00..70000}":             "!more than 65536 files",
		"{0..999}{0..999}":          "!more than 65536 files",
		"s-{0..x}":                  "!{0..x} in the pattern is no range",
		"s-{5..3}":                  "!{5..3} in the pattern is no range",
		"s-{only}":                  "!{only} in the pattern is no range",
		"s-{0..3":                   "!the brace at byte 2 of the pattern is not closed",
		"s-{0..99999999999999}.tar": "!is no range",
	} {
		got, err := expandBraces(pattern)
		if says, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %d files, error %v, want %q", pattern, len(got), err, says)
			}
		} else if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%s: %q, error %v, want %q", pattern, got, err, want)
		}
	}
}

func TestOfSplit(t *testing.T) {
	names := func(shards []shard) (all []string) {
		for _, s := range shards {
			all = append(all, s.name)
		}
		return all
	}
	for _, c := range []struct{ files, train, test, val string }{
		{"a-train-0 a-train-1 a-test-0 a-val-0", "a-train-0 a-train-1", "a-test-0", "a-val-0"},
		{"training_0 validation_0", "training_0", "validation_0", "validation_0"},
		{"train/0 dev/0", "train/0", "dev/0", "dev/0"},
		{"shard-0 shard-1", "shard-0 shard-1", "shard-0 shard-1", ""},
		{"constrained-0 latest-0", "constrained-0 latest-0", "constrained-0 latest-0", ""}, // no whole words
		{"train-0", "train-0", "", ""},
	} {
		var all []shard
		for name := range strings.FieldsSeq(c.files) {
			all = append(all, shard{name: name})
		}
		for split, want := range map[string]string{"train": c.train, "test": c.test, "val": c.val} {
			if got := strings.Join(names(ofSplit(all, split)), " "); got != want {
				t.Errorf("%s of %s: %s, want %s", split, c.files, got, want)
			}
		}
	}
}

// FuzzWebDataset compares what the index says of images with what a reader of the whole archive finds.
func FuzzWebDataset(f *testing.F) {
	for _, file := range fixtures(f, "webdataset/small-train-000.tar", "webdataset/small-validation-000.tar") {
		f.Add([]byte(file))
	}
	f.Add([]byte(tarOf(f, "a.jpg", "x", "a.cls", "1", "b/c.d.png", "", "b/c.png", "yy", "b/c.json", `{"label":7}`)))
	f.Fuzz(func(t *testing.T, content []byte) {
		samples, err := indexTar(t.Context(), bytes.NewReader(content), "")
		if err != nil {
			return
		}
		var images []string
		archive := tar.NewReader(bytes.NewReader(content))
		for {
			header, err := archive.Next()
			if err != nil {
				break
			}
			body, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			images = append(images, fmt.Sprintf("%d %s", header.Size, body))
		}
		for _, s := range samples {
			if s.label < 0 || s.label >= maxClasses || s.offset < 0 || s.size < 0 {
				t.Fatalf("%+v", s)
			}
			if s.offset+s.size > int64(len(content)) {
				t.Fatalf("%+v lies outside the %d bytes", s, len(content))
			}
			if body := fmt.Sprintf("%d %s", s.size, content[s.offset:s.offset+s.size]); !slices.Contains(images, body) {
				t.Fatalf("%+v is no file of the archive", s)
			}
		}
	})
}
