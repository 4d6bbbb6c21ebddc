package data

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// look is what a dataset is shown of a folder, a file or a pattern to say whether it could be read as that dataset.
type look struct {
	folder
	file string // the name of the file or the pattern; "" for a folder
}

// Guess returns the names of the datasets that dir, a folder, an archive or a pattern, looks like. Where one that somebody
// published fits, layouts that anybody's images may have are left out.
func Guess(ctx context.Context, dir string) (names []string) {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return look{folder: folder{dir, system(dir)}}.guess(ctx)
	}
	if stream, err := (Source{Dir: dir}).compressed(); err == nil && stream == nil {
		if p, err := openPacked(ctx, dir, nil); err == nil {
			defer p.close()
			folder{dir, p}.unwrap(func(f folder) bool {
				names = look{folder: f}.guess(ctx)
				return names != nil
			})
		}
	}
	if names == nil {
		parent, file := filepath.Split(dir)
		names = look{folder{parent, system(parent)}, file}.guess(ctx)
	}
	return names
}

// guess returns the names of the datasets that this looks like.
func (l look) guess(ctx context.Context) (names []string) {
	for _, general := range []bool{false, true} {
		for _, d := range Datasets() {
			if d.General == general && d.Resembles != nil && d.Resembles(ctx, l) {
				names = append(names, d.Name)
			}
		}
		if names != nil {
			return names
		}
	}
	return nil
}

// has reports whether one of the files lies in the folder, or is what is looked at.
func (l look) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return l.file == name || l.file == "" && l.folder.has(name)
	})
}

// classes are the folders in dir, or none if one of the first of them holds no image.
func (l look) classes(dir string) []string {
	if l.file != "" {
		return nil
	}
	names, err := l.folders(dir)
	if err != nil {
		return nil
	}
	for _, name := range names[:min(3, len(names))] {
		entries, err := l.list(path.Join(dir, name))
		holds := slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			is, err := isImage(e.Name())
			return is || err != nil
		})
		if err != nil || !holds {
			return nil
		}
	}
	return names
}

// wnid is a name of a class of ImageNet.
var wnid = regexp.MustCompile(`^n[0-9]{8}$`)

// wnids counts the folders in dir, 0 if they are not all of ImageNet's classes.
func (l look) wnids(dir string) int {
	names := l.classes(dir)
	if slices.ContainsFunc(names, func(name string) bool { return !wnid.MatchString(name) }) {
		return 0
	}
	return len(names)
}

// shards reports whether there are files with a suffix, as openShards finds them.
func (l look) shards(suffix string) bool {
	if l.file != "" {
		return strings.HasSuffix(l.file, suffix)
	}
	if _, inside := l.fs.(*packed); inside {
		return false
	}
	found, err := Source{Dir: l.dir}.shards(suffix)
	return err == nil && len(found) > 0
}

// tree reports whether what is looked at is an archive whose first image lies in folder/<class>/.
func (l look) tree(ctx context.Context, folder string) bool {
	if !strings.Contains(l.file, ".tar") && !strings.HasSuffix(l.file, ".tgz") || strings.Contains(l.file, "{") {
		return false
	}
	inside := false
	found := errors.New("found")
	_ = walkTar(ctx, l.path(l.file), func(name string, _ int64, _ io.Reader) error { // what it fails with is found when it is read
		if is, err := isImage(name); is || err != nil {
			parts := strings.Split(name, "/")
			inside = len(parts) > 2 && parts[len(parts)-3] == folder
			return found
		}
		return nil
	})
	return inside
}
