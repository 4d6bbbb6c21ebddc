package data

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/parquet-go/parquet-go"
)

func TestParquet(t *testing.T) {
	files := fixtures(t, "parquet/data/train-00000-of-00002.parquet", "parquet/data/train-00001-of-00002.parquet", "parquet/data/test-00000-of-00001.parquet")
	dir := writeTree(t, under("data", files))
	for _, from := range []string{dir, dir + "/data", dir + "/data/{train-{00000..00001}-of-00002,test-00000-of-00001}.parquet"} {
		for _, src := range []Source{{Dir: from}, {Dir: from, Cache: t.TempDir()}} {
			checkReference(t, "parquet", src, "parquet", "class 3")
		}
	}
	sets, err := Open(t.Context(), "parquet", Source{Dir: dir}, "train")
	if err != nil || sets[0].Names[5] != "data/train-00001-of-00002.parquet/1" {
		t.Errorf("error %v, sets %+v", err, sets)
	}

	const train = "train-00000-of-00002.parquet"
	whole := files[train]
	for _, c := range []struct {
		content string
		label   string
		says    []string
	}{
		{whole[:len(whole)-10], "", []string{train}},
		{"PAR1", "", []string{train}},
		{"", "", []string{train}},
		{whole, "fine", []string{"no column fine; choose one of ", "image.bytes, image.path, label with --label"}},
		{whole[:300] + strings.Repeat("\xff", 200) + whole[500:], "", []string{train}},
		{tableOf(t, []struct {
			Label int64 `parquet:"label"`
		}{{1}}), "", []string{"no column image or img with bytes in it; the columns are label"}},
		{tableOf(t, []labelled[string]{{Label: "cat"}}), "", []string{"the labels in column label are BYTE_ARRAY, not whole numbers"}},
		{tableOf(t, []labelled[int64]{{Label: 2}, {Label: -1}}), "", []string{`row 1: label "-1" is no number from 0`}},
		{tableOf(t, []labelled[*int64]{{}}), "", []string{"row 0: no label"}},
		{tableOf(t, []labelled[int32]{{Label: 1}}), "", []string{"row 0 of group 0 has no bytes of an image"}},
	} {
		src := Source{Dir: writeTree(t, map[string]string{train: c.content}), Label: c.label}
		refuses(t, "parquet", src, "train", c.says...)
	}
	refuses(t, "parquet", Source{Dir: writeTree(t, map[string]string{"train.parquet": whole, "other-train.parquet": whole})}, "test", `no files of split "test"`)
	refuses(t, "parquet", Source{Dir: t.TempDir()}, "train", "no files *.parquet in it")
	unkept(t)
	checkReference(t, "parquet", Source{Dir: dir}, "parquet", "class 3")
}

type labelled[T any] struct {
	Image struct {
		Bytes *string `parquet:"bytes"`
	} `parquet:"image"`
	Label T `parquet:"label"`
}

// tableOf makes a Parquet file of rows.
func tableOf[T any](t testing.TB, rows []T) string {
	t.Helper()
	var b bytes.Buffer
	if err := parquet.Write(&b, rows); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Many readers load a row group once, and the ones that were not used for longest go first.
func TestGroupCache(t *testing.T) {
	const size = maxCachedGroups / 3
	var c groupCache
	var loads atomic.Int64
	get := func(i int) {
		images, err := c.get(groupKey{nil, i}, size, func() ([][]byte, error) {
			loads.Add(1)
			return [][]byte{{byte(i)}}, nil
		})
		if err != nil || len(images) != 1 || images[0][0] != byte(i) {
			t.Errorf("group %d: %v, error %v", i, images, err)
		}
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 3 {
				get(i)
			}
		})
	}
	group.Wait()
	if loads.Load() != 3 {
		t.Errorf("three groups were loaded %d times", loads.Load())
	}
	for _, i := range []int{0, 1, 2, 0, 0} {
		get(i)
	}
	get(3) // evicts 1, which is the oldest
	for _, i := range []int{0, 2, 3} {
		get(i)
	}
	if loads.Load() != 4 {
		t.Errorf("%d loads, want 4", loads.Load())
	}
	get(1)
	if want := []groupKey{{nil, 2}, {nil, 3}, {nil, 1}}; loads.Load() != 5 || !slices.Equal(c.recent, want) || c.bytes != 3*size || len(c.groups) != 3 {
		t.Errorf("%d loads, %v, %d bytes, %d groups", loads.Load(), c.recent, c.bytes, len(c.groups))
	}
	failed := errors.New("broken")
	if _, err := c.get(groupKey{nil, 9}, 1, func() ([][]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
}

func FuzzParquet(f *testing.F) {
	for _, file := range fixtures(f, "parquet/data/train-00000-of-00002.parquet", "parquet/data/train-00001-of-00002.parquet", "parquet/data/test-00000-of-00001.parquet") {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		p := &parquetFile{}
		var images []int // in each row group that could be read
		_ = guarded(bytes.NewReader(content), int64(len(content)), func(file *parquet.File) error {
			if err := p.index(file, ""); err != nil {
				return err
			}
			for group := range p.rows {
				all, err := imagesOf(file, group)
				if err != nil {
					return err
				}
				images = append(images, len(all))
			}
			return nil
		})
		n := 0
		for i, rows := range p.rows {
			if n += rows; i < len(images) && images[i] != rows {
				t.Errorf("%d images in a row group of %d labels", images[i], rows)
			}
		}
		if n > len(p.labels) {
			t.Errorf("%d rows, %d labels", n, len(p.labels))
		}
	})
}
