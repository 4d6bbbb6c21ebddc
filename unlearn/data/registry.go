package data

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"l2ul/internal/nearest"
)

// Source says where a dataset comes from. Each dataset uses what it needs of it.
type Source struct {
	Dir     string // folder or archive with the files
	Seed    int64  // of generated datasets
	Workers int    // goroutines that decode or draw images; 0 for one a core
	Cache   string // folder where decoded images are kept for the next start; "" for none
	Lazy    bool   // decode images of a folder when they are asked for, and keep none: for who looks at few
	// Watch is told that so many images of a split are to be decoded, and returns whom to tell of so many more that are, and of the
	// end, complete or not; nil where nobody looks.
	Watch func(split string, images int) (decoded func(n int), end func())
	// CacheSize is how many bytes all decoded images in there may take; 0 for half of the disk. Those not used for longest go.
	CacheSize int64
	Note      func(text string) // is told why images are not kept, what is waited for, and what was removed; nil where nobody listens

	Label      string     // the column that holds the class, where a dataset has several
	Preprocess Preprocess // of images that are files

	broken func(i int, err error) // is told of images that cannot be decoded, which are passed over; nil where they are errors

	fs fs.FS // the files of Dir, for tests; nil for those of the operating system
}

func (s Source) folder() folder {
	if s.fs != nil {
		return folder{s.Dir, s.fs}
	}
	return folder{s.Dir, system(s.Dir)}
}

// tree is the files of Dir where that is an archive as well, as far as wanted says (see openPacked). found tells the folder of
// the archive that they are in.
func (s Source) tree(ctx context.Context, wanted func(name string) bool, found func(folder) bool) (folder, error) {
	if s.fs != nil {
		return s.folder(), nil
	}
	info, err := os.Stat(s.Dir)
	if err != nil {
		return folder{}, unreadable(err)
	}
	if info.IsDir() {
		return s.folder(), nil
	}
	p, err := openPacked(ctx, s.Dir, wanted)
	if err != nil {
		return folder{}, err
	}
	return folder{s.Dir, p}.unwrap(found), nil
}

// holds tells a folder by a file or folder in it.
func holds(name string) func(folder) bool {
	return func(f folder) bool {
		_, err := f.stat(name)
		return err == nil
	}
}

func (s Source) workers() int { return cmp.Or(s.Workers, runtime.GOMAXPROCS(0)) }

// each calls do with every number below n on the source's workers, and returns an error of theirs or of ctx.
func (s Source) each(ctx context.Context, n int, do func(i int) error) error {
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(s.workers())
	piece := max(1, min(64, n/(4*s.workers()))) // numbers that a goroutine takes at a time
	for start := 0; start < n && inner.Err() == nil; start += piece {
		group.Go(func() error {
			for i := start; i < min(start+piece, n); i++ {
				if err := inner.Err(); err != nil {
					return err
				}
				if err := do(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmp.Or(group.Wait(), ctx.Err())
}

// Dataset is a kind of data that [Open] can read.
type Dataset struct {
	Name    string // what the user types
	Summary string // one line for help texts
	Files   bool   // reads files, so Source.Dir is required
	Labels  bool   // has several labels for an image, of which Source.Label chooses
	Sized   bool   // its images are files, which Source.Preprocess gives a size as they are decoded
	Whole   bool   // it is not divided: its splits are the same images

	Preprocess Preprocess // that is usual for the dataset
	Margin     int        // pixels around that crop that the random crops of training reach into, where others are black: see Set

	// Resembles reports whether a folder, archive or pattern looks like the dataset, so that nobody need say so; nil where that
	// cannot be told. General is of layouts that anybody's images may have.
	Resembles func(ctx context.Context, l look) bool
	General   bool

	Downloads []Download // the files to put into Source.Dir, where their authors publish them with a checksum

	// Open reads the splits asked for, in that order, passing over the files once. It fails with *InputError.
	Open func(ctx context.Context, src Source, splits []string) ([]*Set, error)
}

// Download is a file that the authors of a dataset publish. The sums are those that torchvision 0.26.0 checks, and where it does
// not know a dataset, Avalanche (ContinualAI/avalanche).
type Download struct{ URL, MD5 string }

var registry = map[string]Dataset{}

// Register adds a dataset; it is called from init functions and panics on a name taken twice.
func Register(d Dataset) {
	if _, taken := registry[d.Name]; taken {
		panic("data: dataset " + d.Name + " is registered twice")
	}
	registry[d.Name] = d
}

// Datasets returns all registered datasets, sorted by name.
func Datasets() []Dataset {
	names := slices.Sorted(maps.Keys(registry))
	all := make([]Dataset, len(names))
	for i, name := range names {
		all[i] = registry[name]
	}
	return all
}

// Lookup returns the dataset of a name, or false if there is none.
func Lookup(name string) (Dataset, bool) {
	d, ok := registry[name]
	return d, ok
}

// unknownSplit is the error of a dataset without such a split.
func unknownSplit[T any](dataset, split string, known map[string]T) error {
	return usagef("dataset %s has no split %q: choose %s", dataset, split, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
}

// Open reads splits ("train", "test", "val") of a dataset and returns them in the order asked for. An unknown name or a
// missing Source.Dir is a *UsageError, everything wrong with the files an *InputError.
func Open(ctx context.Context, name string, src Source, splits ...string) ([]*Set, error) {
	d, ok := registry[name]
	if !ok {
		return nil, usagef("%s", nearest.Unknown("dataset", name, slices.Sorted(maps.Keys(registry))))
	}
	if d.Files && src.Dir == "" {
		hint := ""
		if d.Downloads != nil {
			hint = fmt.Sprintf(", or fetch them with `unlearn data fetch %s`", name)
		}
		return nil, usagef("dataset %q is read from files: name their folder or archive with --data-dir%s", name, hint)
	}
	if src.Label != "" && !d.Labels {
		return nil, usagef("dataset %s has one label for an image, so leave --label out", name)
	}
	if err := src.Preprocess.Check(); err != nil {
		return nil, err
	}
	sets, err := d.Open(ctx, src, splits)
	if err != nil {
		return nil, err
	}
	for i, s := range sets {
		if err := s.check(src.Dir); err != nil {
			return nil, err
		}
		if !d.Sized && src.Preprocess != (Preprocess{}) {
			if sets[i], err = resize(s, src); err != nil {
				return nil, err
			}
		}
	}
	return sets, nil
}
