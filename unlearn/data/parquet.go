package data

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/parquet-go/parquet-go"
)

func init() {
	Register(Dataset{
		Name: "parquet",
		Summary: "image datasets of Hugging Face: .parquet files with a column image (bytes, path) and one of labels, in a folder or " +
			"named by a pattern; train, test or validation in their names tells the split",
		Files: true,
		Sized: true,

		Labels:    true,
		Resembles: func(_ context.Context, l look) bool { return l.shards(".parquet") },
		General:   true,

		Open: openParquet,
	})
}

func openParquet(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	return src.openShards(ctx, splits, "parquet", ".parquet", indexParquet)
}

// parquetShards are images in Parquet files, named by the file and their row in it.
type parquetShards struct {
	places map[string]parquetPlace
	groups groupCache
}

// parquetPlace is where an image lies.
type parquetPlace struct {
	file  *parquetFile
	group int
	row   int // in the group
}

// parquetFile is what is known of a file; it is open only while something is read.
type parquetFile struct {
	path   string
	state  fileInfo
	groups []int64 // bytes of the images of each row group
	rows   []int   // images in each
	labels []int
	names  []string // of the classes, nil if it does not tell
}

func (p *parquetShards) path(name string) string { return name }

func (p *parquetShards) info(name string) (fileInfo, error) { //nolint:unparam // of storedFiles
	return p.places[name].file.state, nil
}

// read decodes the row group of an image, of which the next ones are likely to be asked for as well.
func (p *parquetShards) read(name string) ([]byte, error) {
	at := p.places[name]
	images, err := p.groups.get(groupKey{at.file, at.group}, at.file.groups[at.group], func() ([][]byte, error) {
		return at.file.images(at.group)
	})
	if err != nil {
		return nil, err
	}
	if images[at.row] == nil {
		return nil, inputf(at.file.path, "row %d of group %d has no bytes of an image", at.row, at.group)
	}
	return images[at.row], nil
}

// maxGroup bounds the images of one row group, which are read together.
const maxGroup = 1 << 30

// indexParquet finds the samples of a split and reads their labels.
func indexParquet(ctx context.Context, src Source, all []shard, split string) (*imageSplit, error) {
	shards := ofSplit(all, split)
	if len(shards) == 0 {
		return nil, inputf(src.Dir, "no files of split %q: none has it in its name", split)
	}
	files := make([]*parquetFile, len(shards))
	err := src.each(ctx, len(shards), func(i int) (err error) {
		files[i], err = newParquetFile(shards[i].path, src.Label)
		return err
	})
	if err != nil {
		return nil, err
	}
	images := &parquetShards{places: map[string]parquetPlace{}}
	s := &imageSplit{dataset: "parquet", name: split, files: images, classes: files[0].names}
	for i, file := range files {
		at := 0
		for group, rows := range file.rows {
			for row := range rows {
				name := shards[i].name + "/" + strconv.Itoa(at)
				images.places[name] = parquetPlace{file, group, row}
				s.names = append(s.names, name)
				at++
			}
		}
		s.labels = append(s.labels, file.labels...)
	}
	if len(s.names) == 0 {
		return nil, inputf(src.Dir, "the files of split %q hold no rows", split)
	}
	return s, nil
}

// newParquetFile reads all of a file but its images.
func newParquetFile(path, label string) (*parquetFile, error) {
	p := &parquetFile{path: path}
	return p, p.open(func(f *parquet.File, info os.FileInfo) (err error) {
		p.state = newFileInfo(info)
		return p.index(f, label)
	})
}

// open lends the file. The library panics on some files that are corrupt.
func (p *parquetFile) open(do func(f *parquet.File, info os.FileInfo) error) (err error) {
	file, err := os.Open(p.path)
	if err != nil {
		return unreadable(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return unreadable(err)
	}
	if err := guarded(file, info.Size(), func(f *parquet.File) error { return do(f, info) }); err != nil {
		return &InputError{Path: p.path, Err: err}
	}
	return nil
}

func guarded(r io.ReaderAt, size int64, do func(f *parquet.File) error) (err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = fmt.Errorf("corrupt Parquet file: %v", broken)
		}
	}()
	if err := checkFooter(r, size); err != nil {
		return err
	}
	f, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	return do(f)
}

// index reads where images are, the labels, and the names of classes.
func (p *parquetFile) index(f *parquet.File, wanted string) error {
	image, err := imageColumn(f)
	if err != nil {
		return err
	}
	label, err := labelColumn(f, wanted)
	if err != nil {
		return err
	}
	if n := f.NumRows(); n < 0 || n >= maxRandperm {
		return fmt.Errorf("%d rows, more than the %d this program reads", n, maxRandperm-1)
	}
	for i := range f.RowGroups() {
		size := f.Metadata().RowGroups[i].Columns[image].MetaData.TotalUncompressedSize
		if size < 0 || size > maxGroup {
			return fmt.Errorf("the images of row group %d have %d bytes, more than the %d that are read together; write the file with smaller row groups", i, size, maxGroup)
		}
		before := len(p.labels)
		err := eachValue(f, i, label, func(v parquet.Value) error {
			y, err := intOf(v)
			if err != nil {
				return fmt.Errorf("row %d: %w", len(p.labels), err)
			}
			p.labels = append(p.labels, y)
			return nil
		})
		if err != nil {
			return err
		}
		p.groups, p.rows = append(p.groups, size), append(p.rows, len(p.labels)-before)
	}
	p.names = classNames(f, f.Schema().Columns()[label][0])
	return nil
}

// imageColumn is the leaf with the bytes of images. Hugging Face calls the column image or, in older sets, img.
func imageColumn(f *parquet.File) (int, error) {
	for _, name := range []string{"image", "img"} {
		leaf, ok := f.Schema().Lookup(name, "bytes")
		if ok && leaf.Node.Type().Kind() == parquet.ByteArray && leaf.MaxRepetitionLevel == 0 {
			return leaf.ColumnIndex, nil
		}
	}
	return 0, fmt.Errorf("no column image or img with bytes in it; the columns are %s", columns(f))
}

// labelColumn is the leaf with the labels.
func labelColumn(f *parquet.File, wanted string) (int, error) {
	names := []string{"label", "labels", "fine_label"}
	if wanted != "" {
		names = []string{wanted}
	}
	for _, name := range names {
		leaf, ok := f.Schema().Lookup(name)
		if ok && leaf.MaxRepetitionLevel == 0 {
			kind := leaf.Node.Type().Kind()
			if kind == parquet.Int64 || kind == parquet.Int32 {
				return leaf.ColumnIndex, nil
			}
			return 0, fmt.Errorf("the labels in column %s are %v, not whole numbers", name, kind)
		}
	}
	return 0, fmt.Errorf("no column %s; choose one of %s with --label", strings.Join(names, " or "), columns(f))
}

func columns(f *parquet.File) string {
	var names []string
	for _, c := range f.Schema().Columns() {
		names = append(names, strings.Join(c, "."))
	}
	return strings.Join(names, ", ")
}

func intOf(v parquet.Value) (int, error) {
	y := int64(-1)
	switch {
	case v.IsNull():
		return 0, errors.New("no label")
	case v.Kind() == parquet.Int32:
		y = int64(v.Int32())
	case v.Kind() == parquet.Int64:
		y = v.Int64()
	}
	return parseLabel(strconv.FormatInt(y, 10))
}

// eachValue reads a column of a row group; there must be a value, perhaps null, for each row. A value is valid during its call.
func eachValue(f *parquet.File, group, column int, visit func(v parquet.Value) error) (err error) {
	about := f.Metadata().RowGroups[group]
	if err := checkPages(f, f.Size(), &about.Columns[column].MetaData, about.NumRows); err != nil {
		return fmt.Errorf("row group %d: %w", group, err)
	}
	pages := f.RowGroups()[group].ColumnChunks()[column].Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	left := about.NumRows
	buffer := make([]parquet.Value, 256)
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		values := page.Values()
		for {
			n, err := values.ReadValues(buffer)
			if left -= int64(n); left < 0 {
				return errors.New("more values than rows in a row group")
			}
			for _, v := range buffer[:n] {
				if err := visit(v); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		parquet.Release(page)
	}
	if left != 0 {
		return fmt.Errorf("%d values are missing from a row group", left)
	}
	return nil
}

// images reads those of a row group; one that is null stays nil.
func (p *parquetFile) images(group int) (all [][]byte, err error) {
	err = p.open(func(f *parquet.File, _ os.FileInfo) (err error) {
		all, err = imagesOf(f, group)
		return err
	})
	if err == nil && len(all) != p.rows[group] {
		err = inputf(p.path, "row group %d has changed since it was opened", group)
	}
	return all, err
}

func imagesOf(f *parquet.File, group int) (all [][]byte, err error) {
	column, err := imageColumn(f)
	if err != nil {
		return nil, err
	}
	if n := len(f.RowGroups()); group >= n {
		return nil, fmt.Errorf("%d row groups, and there were more", n)
	}
	size := int64(0)
	err = eachValue(f, group, column, func(v parquet.Value) error {
		if size += int64(len(v.ByteArray())); size > maxGroup {
			return fmt.Errorf("the images of row group %d have more than %d bytes", group, maxGroup)
		}
		image := slices.Clone(v.ByteArray())
		if v.IsNull() {
			image = nil
		}
		all = append(all, image)
		return nil
	})
	return all, err
}

// classNames are those that the datasets library writes into a file for a column of class labels.
func classNames(f *parquet.File, column string) []string {
	text, ok := f.Lookup("huggingface")
	if !ok {
		return nil
	}
	var about struct {
		Info struct {
			Features map[string]struct {
				Names []string `json:"names"`
			} `json:"features"`
		} `json:"info"`
	}
	if err := json.Unmarshal([]byte(text), &about); err != nil {
		return nil // numbers will do
	}
	return about.Info.Features[column].Names
}

type groupKey struct {
	file  *parquetFile
	group int
}

// groupCache keeps the row groups that were read last.
type groupCache struct {
	guard  sync.Mutex
	groups map[groupKey]*cachedGroup
	recent []groupKey // the one that was used last stands last
	bytes  int64
}

type cachedGroup struct {
	images func() ([][]byte, error)
	bytes  int64
}

// maxCachedGroups bounds what the cache holds, beside what is in use.
const maxCachedGroups = maxGroup

// get returns a row group, which is loaded by whoever wants it first.
func (c *groupCache) get(key groupKey, bytes int64, load func() ([][]byte, error)) ([][]byte, error) {
	c.guard.Lock()
	g := c.groups[key]
	if g == nil {
		for len(c.recent) > 0 && c.bytes+bytes > maxCachedGroups {
			c.bytes -= c.groups[c.recent[0]].bytes
			delete(c.groups, c.recent[0])
			c.recent = c.recent[1:]
		}
		if c.groups == nil {
			c.groups = map[groupKey]*cachedGroup{}
		}
		g = &cachedGroup{sync.OnceValues(load), bytes}
		c.groups[key], c.bytes = g, c.bytes+bytes
	} else if i := slices.Index(c.recent, key); i < len(c.recent)-1 {
		c.recent = slices.Delete(c.recent, i, i+1)
	} else {
		c.recent = c.recent[:i]
	}
	c.recent = append(c.recent, key)
	c.guard.Unlock()
	return g.images()
}
