package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"l2ul/internal/nearest"
	"l2ul/unlearn/data"
	"l2ul/unlearn/fetch"
	"l2ul/unlearn/run/cache"
	"l2ul/unlearn/weights"
)

// CheckDataOptions are those of `unlearn data check`.
type CheckDataOptions struct {
	TerminalOptions
	DataOptions
	Splits []string `flag:"splits" config:"no" sep:"," oneof:"train|test|val" default:"train,test" group:"model and data" help:"what to read"`
}

// Validate checks what tags cannot say.
func (o *CheckDataOptions) Validate() error { return o.DataOptions.checkImages() }

// ShowDataOptions are those of `unlearn data show`.
type ShowDataOptions struct {
	TerminalOptions
	DataOptions
	SetOptions
	IDs    string `flag:"ids" config:"no" env:"-" means:"forget=ids:%s" group:"model and data" arg:"LIST" help:"short for --forget ids:LIST"`
	Seed   int64  `flag:"seed" default:"0" help:"seed of random:K"`
	Split  string `flag:"split" config:"no" oneof:"train|test|val" default:"train" group:"model and data" help:"which images the numbers mean"`
	Output string `flag:"output,o" config:"no" arg:"FILE" default:"images.png" help:"PNG to write"`
}

// Validate checks what tags cannot say.
func (o *ShowDataOptions) Validate() error {
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	if o.Forget == "" {
		return fmt.Errorf("say which images: --ids 1,5,9, -k 16 for 16 random ones, or --forget with class:3, @names.txt or @forget.json")
	}
	return o.SetOptions.check()
}

// FetchDataOptions are those of `unlearn data fetch`.
type FetchDataOptions struct {
	TerminalOptions
	Offline bool `flag:"offline" help:"open no connection"`
}

// DataReport is what `unlearn data check` finds.
type DataReport struct {
	Dataset string         `json:"dataset"`
	Folder  string         `json:"folder,omitempty"` // or archive; "" for drawn images
	Splits  []*data.Report `json:"splits"`
}

// Broken counts the images that cannot be used.
func (r *DataReport) Broken() (n int) {
	for _, s := range r.Splits {
		n += len(s.Broken)
	}
	return n
}

// CheckData reads splits of a dataset whole, and goes on where an image is broken. what is a dataset's name, or the folder or
// archive of --dataset, by default the one that it looks like.
func CheckData(ctx context.Context, c *Console, o CheckDataOptions, what string) (*DataReport, error) {
	d := &desk{Invocation: Invocation{Console: c}, source: o.DataOptions}
	if err := d.source.name(what); err != nil {
		return nil, err
	}
	source, err := d.dataSource(ctx)
	if err != nil {
		return nil, err
	}
	report := &DataReport{Dataset: d.source.Dataset, Folder: source.Dir}
	for _, split := range o.Splits {
		var bar *Progress
		found, err := data.Check(ctx, d.source.Dataset, source, split, func(done, total int) {
			if bar == nil {
				bar = c.Progress(split, "images", int64(total))
			}
			bar.Set(int64(done))
		})
		if bar != nil {
			bar.Done()
		}
		if err != nil {
			return nil, err
		}
		report.Splits = append(report.Splits, found)
	}
	return report, nil
}

// name sets what an argument NAME|DIR says. What is neither, but like a name, is a slip.
func (o *DataOptions) name(what string) error {
	var names []string
	for _, d := range data.Datasets() {
		names = append(names, d.Name)
	}
	if slices.Contains(names, what) {
		o.Dataset = what
		return nil
	}
	if _, err := os.Stat(what); errors.Is(err, fs.ErrNotExist) {
		if hint := nearest.Hint(what, names); hint != "" {
			return Usagef("%q is neither a dataset nor a folder or archive; %ssee unlearn ls datasets", what, hint)
		}
	}
	o.DataDir = what
	return nil
}

// Shown is what `unlearn data show` drew.
type Shown struct {
	File    string `json:"file"`
	Dataset string `json:"dataset"`
	Split   string `json:"split"`
	Indices []int  `json:"indices"`
	Labels  []int  `json:"labels"`
	Width   int    `json:"width"` // of the picture, in pixels
	Height  int    `json:"height"`
}

// ShowData writes a contact sheet of chosen images as a PNG. what is as for CheckData.
func ShowData(ctx context.Context, c *Console, o ShowDataOptions, what string) (*Shown, error) {
	d := &desk{Invocation: Invocation{Console: c}, source: o.DataOptions}
	if err := d.source.name(what); err != nil {
		return nil, err
	}
	source, err := d.dataSource(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := data.ParseSpec(o.Forget)
	if err != nil {
		return nil, err
	}
	source.Lazy = !strings.HasPrefix(o.Forget, "@") // a forget file holds the hash of all pixels
	sets, err := data.Open(ctx, d.source.Dataset, source, o.Split)
	if err != nil {
		return nil, err
	}
	chosen, err := spec.Resolve(sets[0], o.Seed)
	if err != nil {
		return nil, err
	}
	picture, err := contactSheet(sets[0], chosen.Indices)
	if err != nil {
		return nil, err
	}
	if err := WriteFile(o.Output, picture.png()); err != nil {
		return nil, fmt.Errorf("--output: %w", err)
	}
	size := picture.Bounds()
	return &Shown{o.Output, sets[0].Dataset, o.Split, chosen.Indices, chosen.Labels, size.Dx(), size.Dy()}, nil
}

// Fetched is what `unlearn data fetch` brought.
type Fetched struct {
	Dataset string        `json:"dataset"`
	Folder  string        `json:"folder"`
	Files   []FetchedFile `json:"files"`
}

// FetchedFile is a file of a dataset.
type FetchedFile struct {
	File   string `json:"file"`
	URL    string `json:"url"`
	MD5    string `json:"md5"` // as published, and verified when the file came
	SHA256 string `json:"sha256"`
}

// maxDownload bounds a file of a dataset: that of STL-10 has 2.6 GB.
const maxDownload = 16 << 30

// FetchData brings the files of a dataset from where its authors publish them to the cache, where they are found without
// --data-dir. Files that are there already are not fetched again.
func FetchData(ctx context.Context, c *Console, o FetchDataOptions, name string) (*Fetched, error) {
	set, _ := data.Lookup(name)
	if set.Downloads == nil {
		var names []string
		for _, d := range data.Datasets() {
			if d.Downloads != nil {
				names = append(names, d.Name)
			}
		}
		return nil, Usagef("%s", nearest.Unknown("dataset to fetch", name, names))
	}
	folder, err := cacheFolder(datasets)
	if err != nil {
		return nil, err
	}
	folder = filepath.Join(folder, name)
	client := fetch.Client{Offline: o.Offline || weights.HubOffline()}
	done := &Fetched{Dataset: name, Folder: folder}
	for _, from := range set.Downloads {
		file := path.Base(from.URL)
		progress, end := downloading(c, file)
		err := client.Fetch(ctx, fetch.Source{URL: from.URL, MD5: from.MD5, Limit: maxDownload}, filepath.Join(folder, file), progress)
		end()
		if err != nil {
			if ctx.Err() == nil {
				err = Inputf("%w", err)
			}
			return nil, err
		}
		sum, err := cache.HashFile(filepath.Join(folder, file))
		if err != nil {
			return nil, err
		}
		done.Files = append(done.Files, FetchedFile{file, from.URL, from.MD5, sum})
	}
	return done, nil
}

// datasets is the folder of the cache for files that FetchData brought.
const datasets = "datasets"

// fetched is where FetchData puts a dataset, "" where it has not: the file of one that is a single file, which may be an archive
// that is read as it is, else their folder.
func fetched(name string) string {
	cache, err := CacheDir()
	if err != nil {
		return ""
	}
	where := filepath.Join(cache, datasets, name)
	if set, _ := data.Lookup(name); len(set.Downloads) == 1 {
		where = filepath.Join(where, path.Base(set.Downloads[0].URL))
	}
	if _, err := os.Stat(where); err != nil {
		return ""
	}
	return where
}
